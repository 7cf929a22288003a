"""Writes a bundle from an embedded catalogue: index, gates, files."""

import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from safetensors.numpy import save_file

from model_store.artifacts.manifest import BundleManifest, ModelManifest
from model_store.artifacts.store import ModelStore
from model_store.catalogue.catalogue import Catalogue
from model_store.catalogue.item_states import TOKENS_FILE
from model_store.errors import InvalidInput
from model_store.index import VectorIndex, build_index, save_index
from offline.indexing.embed_items import EmbeddedCatalogue
from offline.indexing.prepare_items import PreparedItems

LOGGER = logging.getLogger(__name__)
# norms of one item tower lie close together; a row this far off is a broken text or broken weights
MAX_NORM_RATIO = 1e3
_BLOCK_ROWS = 16_384
# The lists of so many items, of so many items each, must not all be the same.
_ASKED_ITEMS, _LISTED_ITEMS, _FEWEST_ITEMS = 200, 5, 20


def build_bundle(
    store: ModelStore,
    model: ModelManifest,
    catalogue: Catalogue,
    items: PreparedItems,
    *,
    factory: str,
    min_recall: float,
) -> BundleManifest:
    """Builds the index, lets it pass the gates and adds the bundle to the store (without publishing it).

    Args:
        store: Where to.
        model: Whose bundle.
        catalogue: N items.
        items: What the model makes of them.
        factory: ``auto`` or a FAISS factory string.
        min_recall: The index must find at least this share of the exact top 10, in [0, 1].

    Raises:
        InvalidInput: A gate refuses it: not finite, a norm that is not sane, the same list for every item, or too low a
            recall.
    """
    embedded, stated, directions = items.embedded, items.stated, items.directions
    norms = check_norms(embedded.embeddings, catalogue)
    built = build_index(directions, factory=factory)
    if built.recall < min_recall:
        raise InvalidInput(
            f"index {built.factory} finds {built.recall:.4f} of the exact top 10, "
            f"expected at least {min_recall}; try --index auto"
        )
    distinct_lists = check_lists(built.index, directions)
    report = {
        "num_items": len(catalogue),
        "embedding_dim": int(embedded.embeddings.shape[1]),
        "norms": norms,
        "index": {"factory": built.factory, "parameters": built.parameters, "recall": built.recall},
        "gates": {
            "finite": True,
            "max_norm_ratio": MAX_NORM_RATIO,
            "min_recall": min_recall,
            "distinct_lists": distinct_lists,
        },
        **({} if stated is None else {"item_states": stated.report()}),
        **({} if items.heads is None else {"heads": [asdict(head) for head in items.heads.heads]}),
        "tokens": {"total": int(embedded.tokens.offsets[-1]), "longest": int(embedded.tokens.lengths.max())},
    }
    live = store.live().bundles.get(model.kind)
    with store.staging() as staged:
        _write_files(staged, catalogue, embedded, report=report)
        if stated is None:
            tokens = {"token_ids": embedded.tokens.token_ids, "offsets": embedded.tokens.offsets}
            save_file(tokens, staged / TOKENS_FILE)
        else:
            stated.save(staged)
        if items.heads is not None:
            items.heads.save(staged)
        save_index(built.index, staged / "index.faiss")
        return store.add_bundle(
            staged,
            model=model,
            num_items=len(catalogue),
            index_factory=built.factory,
            index_parameters=built.parameters,
            index_recall=built.recall,
            parent=live,
        )


def check_norms(embeddings: np.ndarray, catalogue: Catalogue) -> dict[str, float]:
    """Refuses embeddings that are not finite, are zero, or have a norm far from the median.

    Args:
        embeddings: (N, D) float32.
        catalogue: Names the item in the message.

    Returns:
        Smallest, median and largest norm.

    Raises:
        InvalidInput: Names the first item that fails, and how many do.
    """
    blocks = range(0, len(embeddings), _BLOCK_ROWS)
    with np.errstate(over="ignore", invalid="ignore"):
        norms = np.concatenate([np.linalg.norm(embeddings[i : i + _BLOCK_ROWS], axis=1) for i in blocks])
    is_usable = np.isfinite(norms) & (norms > 0)
    median = float(np.median(norms[is_usable])) if is_usable.any() else 1.0
    is_sane = is_usable & (norms >= median / MAX_NORM_RATIO) & (norms <= median * MAX_NORM_RATIO)
    if not is_sane.all():
        row, failed = int(np.argmin(is_sane)), int((~is_sane).sum())
        raise InvalidInput(
            f"the embedding of item {catalogue.item_ids[row]!r} has norm {norms[row]:.3g}, expected within "
            f"a factor {MAX_NORM_RATIO:.0f} of {median:.3g} ({failed} of {len(norms)} items fail)"
        )
    return {"min": float(norms.min()), "median": median, "max": float(norms.max())}


def check_lists(index: VectorIndex, embeddings: np.ndarray) -> float | None:
    """Refuses embeddings that give every item the same neighbours: the model does not tell items apart.

    Args:
        index: Of the embeddings.
        embeddings: (N, D) float32.

    Returns:
        The share of different lists among those of up to 200 items; None for catalogues of less than 20 items.

    Raises:
        InvalidInput: All lists are the same.
    """
    if len(embeddings) < _FEWEST_ITEMS:
        return None
    rows = np.unique(np.linspace(0, len(embeddings) - 1, _ASKED_ITEMS, dtype=np.int64))
    _, found = index.search(np.asarray(embeddings[rows], dtype=np.float32), _LISTED_ITEMS)
    num_distinct = len({tuple(sorted(one)) for one in found.tolist()})
    if num_distinct == 1:
        raise InvalidInput(
            f"the {_LISTED_ITEMS} nearest items are the same for each of {len(rows)} items: the model does not tell "
            "items apart, and every user would get one list; are the items' texts the same, did the training collapse?"
        )
    return num_distinct / len(rows)


def _write_files(staged: Path, catalogue: Catalogue, embedded: EmbeddedCatalogue, *, report: dict[str, Any]) -> None:
    columns = {name: catalogue.column(name) for name in ("item_id", "title", *catalogue.attribute_names)}
    columns["popularity"] = pa.array(catalogue.popularity, pa.int64())
    columns["content_hash"] = pa.array([value.decode() for value in embedded.tokens.content_hashes], pa.string())
    pyarrow.parquet.write_table(pa.table(columns), staged / "items.parquet", compression="zstd")
    # memory-mapped arrays go to disk without a copy in memory
    save_file({"item_embeddings": embedded.embeddings}, staged / "item_embeddings.safetensors")
    (staged / "report.json").write_text(json.dumps(report, indent=2, default=str) + "\n")
