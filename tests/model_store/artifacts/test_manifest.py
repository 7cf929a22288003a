import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from model_store.artifacts.manifest import (
    MANIFEST_NAME,
    ModelManifest,
    describe_files,
    hash_files,
    read_bundle_manifest,
    read_model_manifest,
    verify_files,
)
from model_store.errors import ArtifactCorrupt, ArtifactIncompatible, ArtifactNotFound

# sha256 of b"abc", from FIPS 180-2
ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "item_llm").mkdir()
    (tmp_path / "item_llm/weights").write_bytes(b"abc")
    (tmp_path / "config.json").write_bytes(b"{}")
    manifest = ModelManifest(
        model_id="hllm-0",
        kind="hllm",
        created_at=datetime(2026, 1, 2, tzinfo=UTC),
        embedding_dim=4,
        weights_hash="w",
        item_tower_hash="t",
        files=describe_files(tmp_path),
    )
    (tmp_path / MANIFEST_NAME).write_text(manifest.model_dump_json())
    return tmp_path


def rewrite(directory: Path, **changes: object) -> None:
    path = directory / MANIFEST_NAME
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_files_are_described_by_name_size_and_checksum_without_the_manifest(directory: Path) -> None:
    files = describe_files(directory)

    assert sorted(files) == ["config.json", "item_llm/weights"]
    assert (files["item_llm/weights"].sha256, files["item_llm/weights"].size_bytes) == (ABC, 3)
    assert read_model_manifest(directory).files == files


def test_the_hash_depends_on_names_and_contents_but_not_on_order(directory: Path) -> None:
    files = describe_files(directory)

    assert hash_files(dict(reversed(files.items()))) == hash_files(files)
    assert hash_files({"other": files["config.json"], "item_llm/weights": files["item_llm/weights"]}) != hash_files(
        files
    )
    (directory / "config.json").write_bytes(b"{ }")
    assert hash_files(describe_files(directory)) != hash_files(files)


def test_verification_says_what_is_wrong_with_which_file(directory: Path) -> None:
    files = describe_files(directory)
    path = directory / "item_llm/weights"
    verify_files(directory, files)
    path.write_bytes(b"abd")
    with pytest.raises(ArtifactCorrupt, match=r"item_llm/weights has sha256 .* says ba7816bf8f01"):
        verify_files(directory, files)
    path.write_bytes(b"ab")
    with pytest.raises(ArtifactCorrupt, match=r"item_llm/weights has 2 bytes, but the manifest says 3"):
        verify_files(directory, files)
    path.unlink()
    with pytest.raises(ArtifactCorrupt, match=r"item_llm/weights is missing"):
        verify_files(directory, files)


def test_a_directory_without_a_manifest_is_no_artifact(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ArtifactNotFound, match=str(path)):
            read_model_manifest(path)
        with pytest.raises(ArtifactNotFound, match=str(path)):
            read_bundle_manifest(path)


def test_a_newer_schema_is_refused_even_if_the_rest_is_unknown(directory: Path) -> None:
    rewrite(directory, schema_version=2, embedding_dim="many", unheard_of=True)
    with pytest.raises(ArtifactIncompatible, match="schema 2"):
        read_model_manifest(directory)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"embedding_dim": 0}, "embedding_dim"),
        ({"kind": None}, "kind"),
        ({"unheard_of": 1}, "unheard_of"),
        ({"created_at": "2026-01-01T00:00:00"}, "created_at"),
        ({"created_at": "2026-01-01T00:00:00+02:00"}, "created_at"),
        ({"files": {"a": {"sha256": "x"}}}, r"files\.a\.size_bytes"),
    ],
)
def test_a_manifest_with_a_wrong_field_names_it(directory: Path, changes: dict[str, object], message: str) -> None:
    rewrite(directory, **changes)
    with pytest.raises(ArtifactCorrupt, match=message):
        read_model_manifest(directory)


@pytest.mark.parametrize("text", ["", "{", "[]", "3"])
def test_a_manifest_that_is_no_object_is_corrupt(directory: Path, text: str) -> None:
    (directory / MANIFEST_NAME).write_text(text)
    with pytest.raises(ArtifactCorrupt, match=r"manifest\.json"):
        read_model_manifest(directory)
