"""The item embeddings that an evaluation runs on: a bundle's, or made on the spot."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from model_store.artifacts.bundle import Bundle, open_bundle
from model_store.artifacts.manifest import ModelManifest
from model_store.artifacts.store import ModelStore
from model_store.blend.heads import Heads
from model_store.catalogue.catalogue import Catalogue
from model_store.catalogue.item_states import ItemTokens
from model_store.errors import InvalidInput
from model_store.index import normalize
from offline.indexing.embed_items import EmbedOptions
from offline.indexing.kinds import PREPARE_ITEMS
from offline.indexing.prepare_items import ItemWork
from offline.job.store_models import load_item_model


@dataclass(frozen=True)
class EvaluatedItems:
    """Item embeddings of one model for one catalogue; all that a user encoder and a ranking need.

    Attributes:
        catalogue: N items.
        bundle_id: Where they come from; None if they were made for this evaluation.
        model_directory: Of the model that made them.
        embeddings: (N, D) float32 raw, row = item_index - 1. Zeros: an item unknown to a model of ids.
        item_tokens: As a HatLLM reads them; None of an HLLM, which reads embeddings.
        item_states: Of those tokens after a HatLLM's IN band.
        heads: The parts of a blend's embeddings; None where one model made them.
    """

    catalogue: Catalogue
    bundle_id: str | None
    model_directory: Path
    embeddings: np.ndarray
    item_tokens: ItemTokens | None = None
    item_states: torch.Tensor | None = None
    heads: Heads | None = None

    @property
    def directions(self) -> np.ndarray:
        """(N, D) float32 unit norm; zeros for an item without an embedding."""
        if self.heads is None:
            return normalize(self.embeddings)
        directions = self.heads.directions(np.asarray(self.embeddings))
        directions[~np.asarray(self.embeddings).any(axis=1)] = 0.0
        return directions

    def item_embeddings(self, item_indices: np.ndarray) -> np.ndarray:
        """(...) int64 to (..., D) float32 raw, zeros for 0."""
        found = np.asarray(self.embeddings[np.maximum(item_indices - 1, 0)])
        found[item_indices == 0] = 0.0
        return found


def find_items(
    store: ModelStore,
    model: ModelManifest,
    catalogue: Catalogue,
    *,
    bundle_id: str | None = None,
    device: str = "cpu",
) -> EvaluatedItems:
    """Finds or makes a model's embeddings of a catalogue.

    Args:
        store: The model store.
        model: The model.
        catalogue: The dataset's items.
        bundle_id: Use this bundle. Otherwise the newest one of the model with exactly these items is taken;
            if there is none the items are embedded in the store's work directory (a reindex reuses that).
        device: Where the Item LLM runs.

    Raises:
        InvalidInput: The bundle named is another model's, or has other items.
    """
    found = _bundle(store, model, catalogue, bundle_id)
    if found is not None:
        return EvaluatedItems(
            catalogue,
            found.manifest.bundle_id,
            found.model_directory,
            found.embeddings,
            found.item_tokens,
            found.item_states,
            found.heads,
        )
    loaded = load_item_model(store, model, device=device)
    work = ItemWork(store, model, loaded, catalogue, EmbedOptions(device=device))
    items = PREPARE_ITEMS[model.kind](work)
    directory = store.model_directory(model.model_id, verify=False)
    if items.stated is None:
        return EvaluatedItems(catalogue, None, directory, items.embedded.embeddings, heads=items.heads)
    return EvaluatedItems(
        catalogue, None, directory, items.embedded.embeddings, items.stated.item_tokens, items.stated.states
    )


def _bundle(store: ModelStore, model: ModelManifest, catalogue: Catalogue, bundle_id: str | None) -> Bundle | None:
    if bundle_id is not None:
        bundle = open_bundle(store, bundle_id)
        if bundle.manifest.model_id != model.model_id:
            raise InvalidInput(f"bundle {bundle_id} is of model {bundle.manifest.model_id}, not {model.model_id}")
        if list(bundle.catalogue.item_ids) != list(catalogue.item_ids):
            raise InvalidInput(
                f"bundle {bundle_id} has other items than the dataset, expected the same {len(catalogue)} "
                "ids in the same order; reindex the dataset's items"
            )
        return bundle
    for manifest in store.bundles():
        if manifest.model_id == model.model_id and manifest.num_items == len(catalogue):
            bundle = open_bundle(store, manifest.bundle_id)
            if list(bundle.catalogue.item_ids) == list(catalogue.item_ids):
                return bundle
    return None
