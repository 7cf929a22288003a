import json
from pathlib import Path

import numpy as np
import pytest

from model_store.artifacts.bundle import open_bundle
from model_store.artifacts.manifest import MANIFEST_NAME
from model_store.artifacts.store import ModelStore
from model_store.errors import ArtifactCorrupt, ArtifactIncompatible, ArtifactNotFound, InvalidInput
from tests.model_store.made_artifacts import add_bundle, add_model, write_bundle_files


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "store")


def rewrite_manifest(directory: Path, **changes: object) -> None:
    path = directory / MANIFEST_NAME
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_an_open_bundle_holds_what_was_stored(store: ModelStore, tmp_path: Path) -> None:
    model = add_model(store)
    manifest = add_bundle(store, model, seed=3)
    (tmp_path / "same").mkdir()
    vectors = write_bundle_files(tmp_path / "same", 3)

    bundle = open_bundle(store, manifest.bundle_id)

    assert bundle.manifest == manifest
    assert bundle.model_directory == store.model_directory(model.model_id)
    assert len(bundle.catalogue) == bundle.index.num_items == 6
    assert bundle.index.factory == "Flat"
    np.testing.assert_array_equal(bundle.embeddings, vectors)
    assert bundle.embeddings.dtype == np.float32
    # each item is nearest to itself
    assert bundle.index.search(vectors, 1)[1][:, 0].tolist() == [1, 2, 3, 4, 5, 6]


def test_embeddings_are_mapped_and_cannot_be_written(store: ModelStore) -> None:
    bundle = open_bundle(store, add_bundle(store, add_model(store)).bundle_id)

    assert str(bundle.directory / "item_embeddings.safetensors") in Path("/proc/self/maps").read_text()
    with pytest.raises(ValueError, match="read-only"):
        bundle.embeddings[0, 0] = 1.0


def test_embeddings_of_padding_are_zero(store: ModelStore) -> None:
    bundle = open_bundle(store, add_bundle(store, add_model(store)).bundle_id)

    gathered = bundle.item_embeddings(np.array([[0, 1, 6], [2, 0, 0]]))

    assert gathered.shape == (2, 3, 4)
    np.testing.assert_array_equal(gathered[0, 1:], bundle.embeddings[[0, 5]])
    np.testing.assert_array_equal(gathered[1, 0], bundle.embeddings[1])
    assert not gathered[0, 0].any()
    assert not gathered[1, 1:].any()
    assert bundle.item_embeddings(np.array([], dtype=np.int64)).shape == (0, 4)
    np.testing.assert_array_equal(bundle.item_embeddings(np.array(0)), np.zeros(4))
    for outside in (-1, 7):
        with pytest.raises(InvalidInput, match="expected 0..6"):
            bundle.item_embeddings(np.array([outside]))


@pytest.mark.parametrize(
    ("field", "message"),
    [("model_weights_hash", "weights"), ("item_tower_hash", "item tower"), ("kind", "kind")],
)
def test_a_bundle_of_other_weights_is_refused(store: ModelStore, field: str, message: str) -> None:
    bundle_id = add_bundle(store, add_model(store)).bundle_id
    rewrite_manifest(store.bundle_directory(bundle_id), **{field: "other"})

    with pytest.raises(ArtifactIncompatible, match=f"{message} other"):
        open_bundle(store, bundle_id)


def test_a_newer_schema_is_refused(store: ModelStore) -> None:
    bundle_id = add_bundle(store, add_model(store)).bundle_id
    rewrite_manifest(store.bundle_directory(bundle_id), schema_version=2)
    with pytest.raises(ArtifactIncompatible, match="schema 2"):
        open_bundle(store, bundle_id)


def test_checksums_are_verified_unless_told_otherwise(store: ModelStore) -> None:
    model = add_model(store)
    bundle_id = add_bundle(store, model).bundle_id
    (store.bundle_directory(bundle_id) / "report.json").write_text("{}")
    with pytest.raises(ArtifactCorrupt, match=r"report\.json"):
        open_bundle(store, bundle_id)
    assert len(open_bundle(store, bundle_id, verify=False).catalogue) == 6


def test_a_bundle_without_its_model_cannot_be_opened(store: ModelStore) -> None:
    model = add_model(store)
    bundle_id = add_bundle(store, model).bundle_id
    store.model_directory(model.model_id).rename(Path(store.root) / "elsewhere")
    with pytest.raises(ArtifactNotFound, match=model.model_id):
        open_bundle(store, bundle_id)


def test_files_that_disagree_about_the_number_of_items_are_corrupt(store: ModelStore) -> None:
    bundle_id = add_bundle(store, add_model(store), num_items=7).bundle_id
    with pytest.raises(ArtifactCorrupt, match=r"\(6, 4\), but the manifest says \(7, 4\)"):
        open_bundle(store, bundle_id)
