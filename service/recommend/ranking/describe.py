"""What an answer says of each item: its fields, and why it is there."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from model_store.catalogue.catalogue import Catalogue
from model_store.encoding import ExplainsByAttention
from service.engine.served_bundle import ServedBundle
from service.recommend.ask import DEFAULT_FIELDS, Ask, RankedItem
from service.recommend.known import Known
from service.recommend.ranking.candidates import GENERATED, RETRIEVED, Candidates
from service.recommend.ranking.explain import likeness_weights, reasons
from service.recommend.trace import NOTHING, Trace, warning_of


def describe(
    ask: Ask, known: Known, items: Candidates, *, attention: np.ndarray | None, user: np.ndarray | None
) -> tuple[list[RankedItem], Trace]:
    """The items as they are answered.

    Args:
        ask: What is wanted of them.
        known: The history that they are explained by.
        items: In their order.
        attention: (L,) float32, weight of each item that the model read, if it says so.
        user: (D,) float32 unit norm, the user embedding that was searched with, if one was.
    """
    catalogue = ask.served.catalogue
    answers = ranked_items(catalogue, items.item_indices, items.scores, ask.query.return_fields)
    if not ask.query.explain:
        return answers, NOTHING
    because, trace = _reasons(ask.served, known.read_items, items, attention)
    contributions = _head_contributions(ask.served, items, user)
    return [
        RankedItem(
            one.item_id,
            one.score,
            one.fields,
            [(catalogue.id_of(item_index), weight) for item_index, weight in weights],
            added,
        )
        for one, weights, added in zip(answers, because, contributions, strict=True)
    ], trace


def ranked_items(
    catalogue: Catalogue, item_indices: np.ndarray, scores: np.ndarray, names: Sequence[str] | None
) -> list[RankedItem]:
    """Items (C,) with their scores (C,), and of these columns what has a value; of the title by default."""
    indices = item_indices.tolist()
    fields = fields_of(catalogue, indices, DEFAULT_FIELDS if names is None else names)
    return [
        RankedItem(catalogue.id_of(item_index), score, one)
        for item_index, score, one in zip(indices, scores.tolist(), fields, strict=True)
    ]


def fields_of(catalogue: Catalogue, item_indices: Sequence[int], names: Sequence[str]) -> list[dict[str, Any]]:
    """What is known of items: of these columns, those that have a value."""
    columns = [(name, catalogue.values(name, item_indices)) for name in names]
    return [
        {name: values[at] for name, values in columns if values[at] is not None and values[at] == values[at]}
        for at in range(len(item_indices))
    ]


def _head_contributions(served: ServedBundle, items: Candidates, user: np.ndarray | None) -> list[dict[str, float]]:
    """Per item what each head of a blend adds to its score; nothing where the score is no sum of heads."""
    heads = served.bundle.heads
    if heads is None or user is None:
        return [{} for _ in range(len(items))]
    names = [head.name for head in heads.heads]
    added = heads.contributions(served.bundle.item_embeddings(items.item_indices), user)
    return [
        dict(zip(names, row, strict=True)) if origin == RETRIEVED else {}
        for row, origin in zip(added.tolist(), items.origins.tolist(), strict=True)
    ]


def _reasons(
    served: ServedBundle, history: np.ndarray, items: Candidates, attention: np.ndarray | None
) -> tuple[list[list[tuple[int, float]]], Trace]:
    """Per item (item_index of the history, weight); none for items that the model did not choose."""
    places = np.flatnonzero((items.origins == GENERATED) | (items.origins == RETRIEVED)).tolist()
    because: list[list[tuple[int, float]]] = [[] for _ in range(len(items))]
    if not places or not len(history):
        return because, NOTHING
    if attention is not None:
        weights = np.broadcast_to(attention, (len(places), len(attention)))
    elif isinstance(served.encoder, ExplainsByAttention):  # and did not answer
        return because, NOTHING
    else:
        directions = served.bundle.item_directions
        weights = likeness_weights(directions(items.item_indices[places]), directions(history))
    for at, one in zip(places, reasons(weights, history), strict=True):
        because[at] = one
    num_bare = sum(not because[at] for at in places)
    if not num_bare:
        return because, NOTHING
    return because, warning_of(f"explain_limit: the last {num_bare} of {len(places)} items have no reasons")
