"""All that a bundle keeps of its items, made by one model: embeddings, tokens and, of some kinds of model, states."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from model_store.artifacts.manifest import ModelManifest
from model_store.artifacts.store import ModelStore
from model_store.blend.heads import Heads
from model_store.catalogue.catalogue import Catalogue
from model_store.encoding import ItemModel
from offline.indexing.embed_items import EmbeddedCatalogue, EmbedOptions, embed_catalogue
from offline.indexing.item_states import StatedCatalogue
from offline.indexing.known_items import known_embeddings


@dataclass(frozen=True)
class ItemWork:
    """Which items are to be prepared by which model.

    Attributes:
        store: Has the model, earlier bundles, and room for what a killed run leaves.
        manifest: Of the model.
        model: Its item side, in evaluation mode, on the device of the options.
        catalogue: N items.
        options: Batches, shards and device.
    """

    store: ModelStore
    manifest: ModelManifest
    model: ItemModel
    catalogue: Catalogue
    options: EmbedOptions = field(default_factory=EmbedOptions)

    @property
    def embeddings_directory(self) -> Path:
        """What a killed run leaves of embeddings; one per item tower."""
        return self.store.work_directory(f"embed-{self.manifest.item_tower_hash[:32]}")

    @property
    def states_directory(self) -> Path:
        """What a killed run leaves of states; one per model."""
        return self.store.work_directory(f"states-{self.manifest.weights_hash[:32]}")

    def remove_directories(self) -> None:
        """Removes what is in no bundle yet, once a bundle has it."""
        for directory in (self.embeddings_directory, self.states_directory):
            shutil.rmtree(directory, ignore_errors=True)


@dataclass(frozen=True)
class PreparedItems:
    """What is known of N items.

    Attributes:
        embedded: Their embeddings, and the tokens that those were made from.
        stated: Their tokens and states as the model reads histories; None of a model that reads embeddings.
        heads: The parts of the embeddings; None where one model made them.
    """

    embedded: EmbeddedCatalogue
    stated: StatedCatalogue | None = None
    heads: Heads | None = None

    @property
    def directions(self) -> np.ndarray:
        """(N, D) float32: what is indexed, any norm where one model made the embeddings."""
        return self.embedded.embeddings if self.heads is None else self.heads.directions(self.embedded.embeddings)


def embed_blend(work: ItemWork) -> PreparedItems:
    """Embeds the items with all members of a blend."""
    heads: Heads = work.model.config.heads
    return PreparedItems(embed_items(work).embedded, heads=heads)


def embed_items(work: ItemWork) -> PreparedItems:
    """Embeds the items, but for those that an earlier bundle of the same item tower has."""
    encoder = work.model.item_encoder
    embedded = embed_catalogue(
        encoder,
        work.catalogue,
        directory=work.embeddings_directory,
        options=work.options,
        known=known_embeddings(work.store, work.manifest.item_tower_hash, kind=encoder.config.kind),
    )
    return PreparedItems(embedded)
