"""Turns a catalogue into a served bundle: embed, index, measure, gate, publish; and back again.

An item whose text and item tower are those of an earlier bundle is not embedded again, a killed run goes on
where it was, and the live bundle changes in one atomic step or not at all.
"""

import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from model_store.artifacts.manifest import BundleManifest
from model_store.artifacts.store import ModelStore
from model_store.errors import InvalidInput
from offline.dataset.catalogue_files import read_catalogue
from offline.dataset.text_fields import same_text_sentence
from offline.indexing.bundle_build import build_bundle
from offline.indexing.embed_items import EmbedOptions
from offline.indexing.kinds import PREPARE_ITEMS
from offline.indexing.prepare_items import ItemWork
from offline.job import job
from offline.job.devices import chosen_device
from offline.job.store_models import find_model, load_item_model

LOGGER = logging.getLogger(__name__)
app = typer.Typer(add_completion=False, help=__doc__)


@dataclass(frozen=True)
class ReindexSettings:
    """What to index, with what, and what it must pass.

    Attributes:
        model: A model_id of the store, or a model directory.
        items: A dataset directory, ``items.parquet`` or ``items.jsonl[.gz]``.
        store: Path or URL of the model store.
        index: ``auto`` or a FAISS factory string.
        min_recall: The index must find at least this share of the exact top 10, in [0, 1].
        publish: Make the bundle live when it has passed.
        make_default: Make its kind the one that answers requests that name none.
        embed: Batches, shards and device.
    """

    model: str
    items: Path
    store: str
    index: str = "auto"
    min_recall: float = 0.95
    publish: bool = True
    make_default: bool = False
    embed: EmbedOptions = field(default_factory=EmbedOptions)


@dataclass(frozen=True)
class ReindexResult:
    """A new bundle and what it took.

    Attributes:
        bundle: Its manifest.
        num_embedded: Items that went through the Item LLM.
        num_reused: Items whose embedding was known.
        seconds: Of each step.
        is_live: Whether it was published.
    """

    bundle: BundleManifest
    num_embedded: int
    num_reused: int
    seconds: dict[str, float]
    is_live: bool

    def figures(self) -> dict[str, Any]:
        """The job's last line."""
        total = self.seconds["total"]
        return {
            "bundle_id": self.bundle.bundle_id,
            "model_id": self.bundle.model_id,
            "num_items": self.bundle.num_items,
            "embedded": self.num_embedded,
            "reused": self.num_reused,
            "index": self.bundle.index_factory,
            "index_recall": round(self.bundle.index_recall, 4),
            "items_per_s": round(self.bundle.num_items / total, 1),
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
            "published": self.is_live,
        }


def reindex(settings: ReindexSettings) -> BundleManifest:
    """Builds a bundle and publishes it unless told not to.

    Args:
        settings: What to index, with what, and what it must pass.

    Returns:
        The manifest of the bundle.

    Raises:
        InvalidInput: Bad items or settings, or the bundle does not pass its gates; nothing is published.
        ArtifactNotFound: No such model in the store.
    """
    return run_reindex(settings).bundle


def run_reindex(settings: ReindexSettings) -> ReindexResult:
    """``reindex`` with its figures: the same arguments and errors."""
    if not 0.0 <= settings.min_recall <= 1.0:
        raise InvalidInput(f"min_recall is {settings.min_recall}, expected 0 to 1")
    clock = _Clock()
    store = ModelStore(settings.store)
    manifest = find_model(store, settings.model)
    catalogue = read_catalogue(settings.items)
    model = load_item_model(store, manifest, device=settings.embed.device)
    clock.lap("load")
    if model.reads_text and (same := same_text_sentence(catalogue, model.config.text_fields)):
        LOGGER.warning("%s", same)
    work = ItemWork(store, manifest, model, catalogue, settings.embed)
    items = PREPARE_ITEMS[manifest.kind](work)
    clock.lap("items")
    bundle = build_bundle(store, manifest, catalogue, items, factory=settings.index, min_recall=settings.min_recall)
    clock.lap("index")
    if settings.publish:
        store.publish(bundle.bundle_id, make_default=settings.make_default)
    # the bundle has the embeddings now; until here a killed or refused run would have needed them
    work.remove_directories()
    clock.lap("publish")
    return ReindexResult(
        bundle=bundle,
        num_embedded=items.embedded.num_embedded,
        num_reused=items.embedded.num_reused,
        seconds=clock.seconds(),
        is_live=settings.publish,
    )


class _Clock:
    def __init__(self) -> None:
        self._started = self._last = time.monotonic()
        self._laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self._laps[name] = now - self._last
        self._last = now

    def seconds(self) -> dict[str, float]:
        return self._laps | {"total": self._last - self._started}


def describe_store(store: ModelStore) -> dict[str, Any]:
    """The bundles of a store, newest first, and which are live."""
    live = store.live()
    bundles = [
        {
            "bundle_id": bundle.bundle_id,
            "model_id": bundle.model_id,
            "created_at": bundle.created_at.isoformat(),
            "num_items": bundle.num_items,
            "index": bundle.index_factory,
            "index_recall": bundle.index_recall,
            "live": live.bundles.get(bundle.kind) == bundle.bundle_id,
        }
        for bundle in store.bundles()
    ]
    return {"bundles": bundles, "default": live.default}


@app.command()
def main(
    store: Annotated[str, typer.Option(help="Path or URL of the model store.")],
    model: Annotated[str | None, typer.Option(help="model_id in the store, or a model directory.")] = None,
    items: Annotated[Path | None, typer.Option(help="DATASET, items.parquet or items.jsonl[.gz].")] = None,
    index: Annotated[str, typer.Option(help="auto, or a FAISS factory string.")] = "auto",
    publish: Annotated[bool, typer.Option(help="Make the bundle live when it passed.")] = True,
    make_default: Annotated[bool, typer.Option(help="Make its kind the store's default.")] = False,
    min_recall: Annotated[float, typer.Option(help="Recall@10 of the index against exact search.")] = 0.95,
    token_budget: Annotated[int, typer.Option(help="Tokens of one batch; 0 = what suits the device.")] = 0,
    shard_seconds: Annotated[float, typer.Option(help="What a killed run loses at most.")] = 15.0,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto.")] = "auto",
    rollback: Annotated[bool, typer.Option("--rollback", help="Go back to the last live bundle.")] = False,
    kind: Annotated[str | None, typer.Option(help="With --rollback: the kind of model.")] = None,
    list_bundles: Annotated[bool, typer.Option("--list", help="Show the bundles.")] = False,
    collect: Annotated[bool, typer.Option("--gc", help="Remove what nothing needs.")] = False,
    keep: Annotated[int, typer.Option(help="With --gc: bundles of each kind to keep.")] = 3,
) -> None:
    """Index a catalogue and publish it; or list, roll back, or clean up the store."""
    if rollback or list_bundles or collect:
        job.report(_maintain(ModelStore(store), rollback=rollback, kind=kind, keep=keep if collect else None))
        return
    if model is None or items is None:
        raise InvalidInput("--model and --items are needed, unless --list, --rollback or --gc is given")
    settings = ReindexSettings(
        model=model,
        items=items,
        store=store,
        index=index,
        min_recall=min_recall,
        publish=publish,
        make_default=make_default,
        embed=EmbedOptions(token_budget=token_budget, shard_seconds=shard_seconds, device=chosen_device(device)),
    )
    job.report(run_reindex(settings).figures())


def _maintain(store: ModelStore, *, rollback: bool, kind: str | None, keep: int | None) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    if rollback:
        figures["bundle_id"] = store.rollback(kind)
    if keep is not None:
        figures["removed"] = store.collect_garbage(keep=keep)
    return figures | describe_store(store)


if __name__ == "__main__":
    job.run(app)
