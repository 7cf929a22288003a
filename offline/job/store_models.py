"""Finds the model that a job was told to use, in the store or beside it."""

import shutil
from pathlib import Path

from model_store.artifacts.manifest import ModelManifest, read_model_manifest, verify_files
from model_store.artifacts.store import ModelStore
from model_store.encoding import ItemModel
from model_store.errors import ArtifactNotFound
from model_store.kinds import load_model


def find_model(store: ModelStore, model: str) -> ModelManifest:
    """Resolves ``--model``: an id of the store, or a model directory, which is taken into the store.

    Args:
        store: The model store.
        model: model_id, or the path of a directory with a ``manifest.json``.

    Raises:
        ArtifactNotFound: Neither the one nor the other.
    """
    by_id = {manifest.model_id: manifest for manifest in store.models()}
    if model in by_id:
        return by_id[model]
    directory = Path(model)
    if not (directory / "manifest.json").is_file():
        known = ", ".join(by_id) or "none"
        raise ArtifactNotFound(f"model {model!r}: expected an id of the store (has: {known}) or a model directory")
    manifest = read_model_manifest(directory)
    if manifest.model_id in by_id:
        return by_id[manifest.model_id]
    verify_files(directory, manifest.files)
    with store.staging() as staged:
        shutil.copytree(directory, staged, dirs_exist_ok=True, ignore=shutil.ignore_patterns("manifest.json"))
        return store.add_model(
            staged,
            kind=manifest.kind,
            embedding_dim=manifest.embedding_dim,
            item_tower_hash=manifest.item_tower_hash,
            parents=manifest.parents,
            metrics=manifest.metrics,
            training=manifest.training,
        )


def load_item_model(store: ModelStore, manifest: ModelManifest, *, device: str) -> ItemModel:
    """Loads the part of a model that embeds items, verified and in evaluation mode.

    Args:
        store: The model store.
        manifest: A model of the store.
        device: Where to put it.

    Raises:
        ArtifactCorrupt: A file of the model is missing or altered.
    """
    return load_model(store.model_directory(manifest.model_id), device=device, parts={"item"})
