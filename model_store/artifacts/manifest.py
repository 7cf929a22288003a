"""Manifests: what a model or a bundle is, which weights it goes with, and the checksum of each of its files.

A manifest is written last and read first. A directory without one is not an artifact.
"""

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, field_validator

from model_store.errors import ArtifactCorrupt, ArtifactIncompatible, ArtifactNotFound
from model_store.field_problems import describe_problem

SCHEMA_VERSION = 1
MANIFEST_NAME = "manifest.json"


class FileEntry(BaseModel):
    """One file of an artifact: its SHA-256 as hexadecimal digits, and its size."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: str
    size_bytes: int = Field(ge=0)


class _Manifest(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    schema_version: int = SCHEMA_VERSION
    kind: str
    created_at: AwareDatetime
    embedding_dim: int = Field(ge=1)
    item_tower_hash: str
    files: dict[str, FileEntry]

    @field_validator("created_at")
    @classmethod
    def _is_utc(cls, value: datetime) -> datetime:
        offset = value.utcoffset()
        if offset is None or offset.total_seconds() != 0:
            raise ValueError(f"{value} is not in UTC")
        return value


class ModelManifest(_Manifest):
    """What a model is.

    Attributes:
        model_id: ``<kind>-<first 12 digits of weights_hash>``.
        weights_hash: Hash over the names and contents of all its files.
        item_tower_hash: Hash of what item embeddings depend on; equal hashes mean equal embeddings.
        parents: Ids of the models it was trained from.
        metrics: Quality figures of the training run, by name.
        training: How it was made (split, held-out items, seed, recipe), free of form.
    """

    model_id: str
    weights_hash: str
    parents: list[str] = []
    metrics: dict[str, float] = {}
    training: dict[str, Any] = {}

    @property
    def artifact_id(self) -> str:
        """The ``model_id``."""
        return self.model_id


class BundleManifest(_Manifest):
    """What a bundle is, and which model it belongs to.

    Attributes:
        bundle_id: ``<kind>-<first 12 digits of the content's hash>``.
        model_id: The model whose embeddings and users it serves.
        model_weights_hash: That model's ``weights_hash``.
        num_items: N, items in the catalogue.
        index_factory: The FAISS factory string of the index.
        index_parameters: Search-time parameters, such as ``nprobe``.
        index_recall: Measured recall@10 against exact search, in [0, 1].
        parent: The bundle that was live when this one was made.
    """

    bundle_id: str
    model_id: str
    model_weights_hash: str
    num_items: int = Field(ge=1)
    index_factory: str
    index_parameters: dict[str, Any] = {}
    index_recall: float = Field(ge=0.0, le=1.0)
    parent: str | None = None

    @property
    def artifact_id(self) -> str:
        """The ``bundle_id``."""
        return self.bundle_id


def describe_files(directory: Path) -> dict[str, FileEntry]:
    """Reads every file below ``directory`` except its manifest.

    Returns:
        POSIX name relative to ``directory`` -> checksum and size, sorted by name.
    """
    names = sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())
    return {name: _describe(directory / name) for name in names if name != MANIFEST_NAME}


def hash_files(files: Mapping[str, FileEntry]) -> str:
    """One hash (64 hexadecimal digits) over the names and checksums of files, whatever their order."""
    return hash_value({name: entry.sha256 for name, entry in files.items()})


def hash_value(value: Any) -> str:
    """Hash (64 hexadecimal digits) of a value that JSON can hold; the order of keys does not count."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def verify_files(directory: Path, files: Mapping[str, FileEntry]) -> None:
    """Checks that the files are there, whole and unaltered. Other files are ignored.

    Raises:
        ArtifactCorrupt: Names the first file that is missing or differs, and how.
    """
    # sizes first: a truncated file is found without reading gigabytes of the others
    for name, expected in files.items():
        path = directory / name
        if not path.is_file():
            raise ArtifactCorrupt(f"{path} is missing, but the manifest lists it")
        size = path.stat().st_size
        if size != expected.size_bytes:
            raise ArtifactCorrupt(f"{path} has {size} bytes, but the manifest says {expected.size_bytes}")
    for name, expected in files.items():
        actual = _describe(directory / name).sha256
        if actual != expected.sha256:
            said = expected.sha256[:12]
            raise ArtifactCorrupt(f"{directory / name} has sha256 {actual[:12]}..., but the manifest says {said}...")


def read_model_manifest(directory: Path) -> ModelManifest:
    """Reads the manifest of the model in ``directory``, without checking the files.

    Raises:
        ArtifactNotFound: There is no manifest.
        ArtifactCorrupt: It cannot be parsed.
        ArtifactIncompatible: It was written by a newer version of this software.
    """
    return parse_manifest(_read(directory), ModelManifest, source=str(directory / MANIFEST_NAME))


def read_bundle_manifest(directory: Path) -> BundleManifest:
    """Reads the manifest of the bundle in ``directory``; raises as ``read_model_manifest``."""
    return parse_manifest(_read(directory), BundleManifest, source=str(directory / MANIFEST_NAME))


M = TypeVar("M", ModelManifest, BundleManifest)


def parse_manifest(text: bytes, manifest_type: type[M], *, source: str) -> M:
    """Parses a manifest.

    Args:
        text: JSON.
        manifest_type: What it should be.
        source: Where it came from, for messages.

    Raises:
        ArtifactCorrupt: It is not such a manifest.
        ArtifactIncompatible: Its schema is newer than ``SCHEMA_VERSION``.
    """
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ArtifactCorrupt(f"{source} is not JSON: {error}") from error
    # looked at before the rest, because a newer schema is expected to have fields unknown here
    version = value.get("schema_version") if isinstance(value, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise ArtifactIncompatible(f"{source} has schema {version}, but only schemas up to {SCHEMA_VERSION} are known")
    try:
        return manifest_type.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise ArtifactCorrupt(f"{source} is no {manifest_type.__name__}: {key}: {describe_problem(first)}") from error


def _read(directory: Path) -> bytes:
    path = directory / MANIFEST_NAME
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ArtifactNotFound(f"{directory} is no artifact: it has no {MANIFEST_NAME}") from error


def _describe(path: Path) -> FileEntry:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileEntry(sha256=digest, size_bytes=path.stat().st_size)
