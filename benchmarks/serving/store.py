"""The shop that is served: a published bundle of each kind, and a second one of the same size to swap to."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.reindex import items_table
from model_store.artifacts.bundle import ITEMS_FILE
from model_store.artifacts.store import ModelStore
from model_store.backbone.layered_attention import LAYERED
from model_store.backbone.load import load_backbone
from model_store.errors import InvalidInput
from model_store.hatllm.config import HatLLMConfig
from model_store.hatllm.files import item_tower_hash as hatllm_tower_hash
from model_store.hatllm.files import save_hatllm
from model_store.hatllm.network import HatLLM, build_hatllm
from model_store.hllm.files import item_tower_hash as hllm_tower_hash
from model_store.hllm.files import save_hllm
from model_store.hllm.network import HLLM, HLLMConfig, build_hllm
from offline.reindex import ReindexSettings, run_reindex


@dataclass(frozen=True)
class Shape:
    """Of the models with random weights.

    Attributes:
        num_items: N.
        history_length: L, items of every history; what the models read at most.
        tokens_per_item: A HatLLM reads of an item at most.
        width: H and D of both kinds.
        heads: Attention heads of both.
        hllm_layers: Depth of the User LLM.
        hatllm_layers: Depth of the HatLLM: a quarter IN, a quarter OR, the rest CR.
    """

    num_items: int
    history_length: int
    tokens_per_item: int
    width: int
    heads: int
    hllm_layers: int
    hatllm_layers: int


@dataclass(frozen=True)
class Served:
    """One kind of model in the store.

    Attributes:
        kind: ``hllm`` or ``hatllm``.
        bundle_ids: The live one, and the one to swap to.
        item_ids: N, of both.
        history_length: Items that the model reads at most.
    """

    kind: str
    bundle_ids: tuple[str, str]
    item_ids: Sequence[str]
    history_length: int


def make_store(shape: Shape, folder: Path) -> Path:
    """Makes models with random weights and publishes a bundle of each kind, as the offline job does."""
    root, items = folder / "store", folder / "made.parquet"
    store = ModelStore(root)
    table = items_table(shape.num_items)
    pq.write_table(table, items)
    torch.manual_seed(0)
    hllm = _hllm(shape, table)
    # with the same item embeddings: run on every item alone, a HatLLM would take minutes to make its own
    tower = _publish(store, hllm, items, item_tower=None)
    _publish(store, _hatllm(shape, table, hllm), items, item_tower=tower)
    return root


def copy_store(source: Path, folder: Path) -> Path:
    """A copy to work on, as swapping publishes bundles.

    Raises:
        InvalidInput: It has no live bundle.
    """
    if not ModelStore(source).live().bundles:
        raise InvalidInput(f"{source}: no live bundle, expected a store with one of each kind")
    return Path(shutil.copytree(source, folder / "store", symlinks=True))


def served_kinds(root: Path, folder: Path) -> list[Served]:
    """What is live, and beside each bundle a second one in which one title differs."""
    store = ModelStore(root)
    return [_with_second_bundle(store, kind, bundle_id, folder) for kind, bundle_id in store.live().bundles.items()]


def _with_second_bundle(store: ModelStore, kind: str, bundle_id: str, folder: Path) -> Served:
    manifest = next(bundle for bundle in store.bundles() if bundle.bundle_id == bundle_id)
    table = pq.read_table(store.bundle_directory(bundle_id) / ITEMS_FILE).drop_columns(["content_hash"])
    titles = table.column("title").to_pylist()
    titles[0] += " renewed"
    items = folder / f"{kind}.parquet"
    pq.write_table(table.set_column(table.column_names.index("title"), "title", pa.array(titles)), items)
    second = run_reindex(ReindexSettings(model=manifest.model_id, items=items, store=str(store.root), publish=False))
    config = json.loads((store.model_directory(manifest.model_id) / "config.json").read_text())
    return Served(
        kind,
        (bundle_id, second.bundle.bundle_id),
        table.column("item_id").to_pylist(),
        int(config["max_history_length"]),
    )


def _hllm(shape: Shape, table: pa.Table) -> HLLM:
    """The Item LLM is small, as no request waits for it."""
    config = HLLMConfig(embedding_dim=shape.width, max_history_length=shape.history_length, has_joint=True)
    return build_hllm(
        config=config,
        item_backbone=load_backbone(
            "preset:tiny", tokenizer_corpus=table["title"].to_pylist(), hidden_size=64, num_layers=1, num_heads=2
        ),
        user_backbone=load_backbone(
            "preset:base", hidden_size=shape.width, num_layers=shape.hllm_layers, num_heads=shape.heads
        ),
    )


def _hatllm(shape: Shape, table: pa.Table, item_tower: HLLM) -> HatLLM:
    in_layers = shape.hatllm_layers // 4
    config = HatLLMConfig(
        embedding_dim=shape.width,
        in_layers=in_layers,
        cr_layers=shape.hatllm_layers - 2 * in_layers,
        max_item_tokens=shape.tokens_per_item,
        max_history_length=shape.history_length,
        item_tower="hllm",
    )
    backbone = load_backbone(
        "preset:base",
        tokenizer_corpus=table["title"].to_pylist(),
        hidden_size=shape.width,
        num_layers=shape.hatllm_layers,
        num_heads=shape.heads,
        attention=LAYERED,
    )
    return build_hatllm(config=config, backbone=backbone, item_tower=item_tower)


def _publish(store: ModelStore, model: HLLM | HatLLM, items: Path, *, item_tower: Path | None) -> Path:
    """Adds the model and publishes its bundle; the directory of the model."""
    model.eval()
    with store.staging() as staged:
        if isinstance(model, HLLM):
            save_hllm(model, staged)
            tower_hash = hllm_tower_hash(staged)
        else:
            save_hatllm(model, staged, item_tower_directory=item_tower)
            tower_hash = hatllm_tower_hash(staged)
        manifest = store.add_model(
            staged, kind=model.config.kind, embedding_dim=model.config.embedding_dim, item_tower_hash=tower_hash
        )
    run_reindex(ReindexSettings(model=manifest.model_id, items=items, store=str(store.root)))
    return store.model_directory(manifest.model_id)
