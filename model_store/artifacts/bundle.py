"""Opening a bundle: everything that serving a catalogue needs, checked to belong together."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from model_store.artifacts.manifest import BundleManifest, ModelManifest, read_bundle_manifest, read_model_manifest
from model_store.artifacts.mapped_tensors import map_tensors
from model_store.artifacts.store import ModelStore
from model_store.blend.heads import HEADS_FILE, Heads, read_heads
from model_store.catalogue.catalogue import Catalogue, check_item_indices
from model_store.catalogue.item_states import STATES_FILE, TOKENS_FILE, ItemTokens, map_states, read_tokens
from model_store.errors import ArtifactCorrupt, ArtifactIncompatible
from model_store.index import VectorIndex, load_index, normalize

ITEMS_FILE = "items.parquet"
EMBEDDINGS_FILE = "item_embeddings.safetensors"
EMBEDDINGS_TENSOR = "item_embeddings"
INDEX_FILE = "index.faiss"


@dataclass(frozen=True)
class Bundle:
    """One release, open for reading; safe to share between threads.

    Attributes:
        manifest: What it is.
        directory: Its files.
        model_directory: The files of its model.
        catalogue: Its items.
        embeddings: (N, D) float32, raw, memory-mapped, read-only; row ``item_index - 1``.
        index: Over the items' directions: the unit-norm copies of the embeddings, in a blend those of its heads.
        item_tokens: Of each item, as the model reads it.
        item_states: (M, H) states of those tokens after the IN band of a HatLLM, memory-mapped; None of an HLLM.
        heads: The parts of a blend's embeddings; None where one model made them.
    """

    manifest: BundleManifest
    directory: Path
    model_directory: Path
    catalogue: Catalogue
    embeddings: np.ndarray
    index: VectorIndex
    item_tokens: ItemTokens | None = None
    item_states: torch.Tensor | None = None
    heads: Heads | None = None

    def item_embeddings(self, item_indices: np.ndarray) -> np.ndarray:
        """Raw embeddings of items.

        Args:
            item_indices: (...) integers in 0..N.

        Returns:
            (..., D) float32, zeros for 0.

        Raises:
            InvalidInput: An index is out of range.
        """
        item_indices = np.asarray(item_indices, dtype=np.int64)
        check_item_indices(item_indices, num_items=len(self.embeddings))
        gathered = np.take(self.embeddings, np.maximum(item_indices, 1) - 1, axis=0)
        gathered[item_indices == 0] = 0.0
        return gathered

    def item_directions(self, item_indices: np.ndarray) -> np.ndarray:
        """What items are scored by: a score is the inner product of a unit-norm user embedding and a direction.

        Args:
            item_indices: (...) integers in 0..N.

        Returns:
            (..., D) float32, unit norm; zeros for 0 in a bundle of one model.
        """
        raw = self.item_embeddings(item_indices)
        return normalize(raw) if self.heads is None else self.heads.directions(raw)

    def item_queries(self, item_indices: np.ndarray) -> np.ndarray:
        """What directions are compared with to find items like these: (...) integers to (..., D) float32, norm <= 1."""
        raw = self.item_embeddings(item_indices)
        return normalize(raw) if self.heads is None else self.heads.queries(raw)


def open_bundle(store: ModelStore, bundle_id: str, *, verify: bool = True) -> Bundle:
    """Opens a bundle of the store together with its model.

    Args:
        store: Where it is.
        bundle_id: Which one.
        verify: Compare the checksums of all files of the bundle and of its model.

    Raises:
        ArtifactNotFound: The bundle or its model is not in the store.
        ArtifactCorrupt: A file is missing, altered, or disagrees with the manifest about N or D.
        ArtifactIncompatible: A newer schema, or item embeddings from other weights than the model's.
    """
    directory = store.bundle_directory(bundle_id, verify=verify)
    manifest = read_bundle_manifest(directory)
    model_directory = store.model_directory(manifest.model_id, verify=verify)
    _check_model(manifest, read_model_manifest(model_directory))
    catalogue = Catalogue.from_parquet(directory / ITEMS_FILE)
    embeddings = _map_embeddings(directory / EMBEDDINGS_FILE)
    index = load_index(directory / INDEX_FILE, manifest.index_parameters, factory=manifest.index_factory)
    expected = (manifest.num_items, manifest.embedding_dim)
    for name, shape in (
        (EMBEDDINGS_FILE, embeddings.shape),
        (INDEX_FILE, (index.num_items, index.embedding_dim)),
        (ITEMS_FILE, (len(catalogue), manifest.embedding_dim)),
    ):
        if shape != expected:
            raise ArtifactCorrupt(f"{directory / name} has (N, D) {shape}, but the manifest says {expected}")
    tokens = states = None
    if TOKENS_FILE in manifest.files:
        tokens = read_tokens(directory / TOKENS_FILE, num_items=manifest.num_items)
    if tokens is not None and STATES_FILE in manifest.files:
        states = map_states(directory / STATES_FILE, tokens=tokens)
    return Bundle(
        manifest=manifest,
        directory=directory,
        model_directory=model_directory,
        catalogue=catalogue,
        embeddings=embeddings,
        index=index,
        item_tokens=tokens,
        item_states=states,
        heads=read_heads(directory) if HEADS_FILE in manifest.files else None,
    )


def _map_embeddings(path: Path) -> np.ndarray:
    (embeddings,) = map_tensors(path, [EMBEDDINGS_TENSOR])
    if embeddings.dtype != torch.float32:
        raise ArtifactCorrupt(f"{path} holds {EMBEDDINGS_TENSOR} as {embeddings.dtype}, expected torch.float32")
    mapped: np.ndarray = embeddings.numpy()
    mapped.flags.writeable = False
    return mapped


def _check_model(bundle: BundleManifest, model: ModelManifest) -> None:
    for what, expected, actual in (
        ("weights", bundle.model_weights_hash, model.weights_hash),
        ("item tower", bundle.item_tower_hash, model.item_tower_hash),
        ("kind", bundle.kind, model.kind),
        ("embedding_dim", bundle.embedding_dim, model.embedding_dim),
    ):
        if expected != actual:
            raise ArtifactIncompatible(
                f"bundle {bundle.bundle_id} is of {what} {expected}, but model {model.model_id} has {actual}"
            )
