"""What earlier bundles know of items, so that it need not be computed again."""

import logging
from collections.abc import Iterator

import numpy as np
from safetensors.numpy import load_file

from model_store.artifacts.bundle import open_bundle
from model_store.artifacts.store import ModelStore
from model_store.catalogue.item_states import STATES_FILE, TOKENS_FILE
from model_store.errors import ArtifactError
from offline.indexing.catalogue_tokens import CatalogueTokens
from offline.indexing.item_shards import HASH_DTYPE, KnownEmbeddings
from offline.indexing.item_states import HASHES_TENSOR, KnownStates

LOGGER = logging.getLogger(__name__)


def known_embeddings(store: ModelStore, item_tower_hash: str, *, kind: str) -> Iterator[KnownEmbeddings]:
    """Yields what is known from the newest readable bundle that the same item tower made, if there is one; verified.

    Args:
        store: Whose bundles.
        item_tower_hash: Of the model that embeds.
        kind: Of the network that embeds: a bundle of another kind has the tokens of another network.
    """
    for manifest in store.bundles():
        if manifest.item_tower_hash != item_tower_hash:
            continue
        try:
            store.bundle_directory(manifest.bundle_id)
            # just verified; its model may be another one with the same item tower, of which nothing is read
            bundle = open_bundle(store, manifest.bundle_id, verify=False)
        except ArtifactError as error:
            LOGGER.warning("embeddings of bundle %s are not reused: %s", manifest.bundle_id, error)
            continue
        hashes = np.array(bundle.catalogue.column("content_hash").to_pylist(), dtype=HASH_DTYPE)
        tokens = bundle.item_tokens if manifest.kind == kind else None
        yield KnownEmbeddings(content_hashes=hashes, embeddings=bundle.embeddings, tokens=tokens)
        return


def known_states(store: ModelStore, weights_hash: str) -> KnownStates | None:
    """The verified states of the newest readable bundle of the same model, if there is one."""
    for manifest in store.bundles():
        if manifest.model_weights_hash != weights_hash or STATES_FILE not in manifest.files:
            continue
        try:
            bundle = open_bundle(store, manifest.bundle_id)
        except ArtifactError as error:
            LOGGER.warning("item states of bundle %s are not reused: %s", manifest.bundle_id, error)
            continue
        assert bundle.item_tokens is not None
        assert bundle.item_states is not None
        hashes = load_file(bundle.directory / TOKENS_FILE)[HASHES_TENSOR].view(HASH_DTYPE)[:, 0]
        return KnownStates(CatalogueTokens.of_bundle(bundle.item_tokens, hashes), bundle.item_states)
    return None
