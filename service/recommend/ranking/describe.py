"""What an answer says of each item: its fields, and why it is there."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from model_store.catalogue.catalogue import Catalogue
from model_store.encoding import ExplainsByAttention
from service.recommend.ask import DEFAULT_FIELDS, Ranked, RankedItem
from service.recommend.ranking.explain import likeness_weights, reasons
from service.recommend.trace import Progress


def described(progress: Progress, items: Sequence[Ranked], attention: np.ndarray | None) -> list[RankedItem]:
    """The items as they are answered.

    Args:
        progress: Of the request.
        items: In their order.
        attention: (L,) float32, weight of each item that the model read, if it says so.
    """
    query, catalogue = progress.query, progress.served.catalogue
    names = DEFAULT_FIELDS if query.return_fields is None else query.return_fields
    indices = [one.item_index for one in items]
    why = _reasons(progress, items, attention) if query.explain else [[] for _ in items]
    return [
        RankedItem(
            item_id=catalogue.id_of(one.item_index),
            score=one.score,
            fields=fields,
            reasons=[(catalogue.id_of(item_index), weight) for item_index, weight in because],
        )
        for one, fields, because in zip(items, fields_of(catalogue, indices, names), why, strict=True)
    ]


def fields_of(catalogue: Catalogue, item_indices: Sequence[int], names: Sequence[str]) -> list[dict[str, Any]]:
    """What is known of items: of these columns, those that have a value; all items at once, as each look-up costs."""
    rows = np.array(item_indices, dtype=np.int64) - 1
    columns = {name: catalogue.column(name).take(pa.array(rows)).to_pylist() for name in names}
    return [
        {name: values[at] for name, values in columns.items() if values[at] is not None and values[at] == values[at]}
        for at in range(len(rows))
    ]


def _reasons(
    progress: Progress, items: Sequence[Ranked], attention: np.ndarray | None
) -> list[list[tuple[int, float]]]:
    """Per item (item_index of the history, weight); none for items that the model did not choose."""
    history = progress.read_items
    places = [at for at, one in enumerate(items) if one.is_from_model]
    because: list[list[tuple[int, float]]] = [[] for _ in items]
    if not places or not len(history):
        return because
    if attention is not None:
        weights = np.broadcast_to(attention, (len(places), len(attention)))
    elif isinstance(progress.served.encoder, ExplainsByAttention):  # and did not answer
        return because
    else:
        item_embeddings = progress.served.bundle.item_embeddings
        chosen = np.array([items[at].item_index for at in places])
        weights = likeness_weights(item_embeddings(chosen), item_embeddings(history))
    for at, one in zip(places, reasons(weights, history), strict=True):
        because[at] = one
    num_bare = sum(not because[at] for at in places)
    if num_bare:
        progress.warnings.append(f"explain_limit: the last {num_bare} of {len(places)} items have no reasons")
    return because
