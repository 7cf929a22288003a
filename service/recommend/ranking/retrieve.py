"""The k nearest admissible items, by the plan that the planner picks; an exact scan where the index falls short."""

import numpy as np

from model_store.artifacts.bundle import Bundle
from model_store.index.vectors import normalize
from service.recommend.candidates.admissible import Admissible
from service.recommend.ranking.candidates import NO_CANDIDATES, Candidates
from service.recommend.ranking.planner import Choice, choose, choose_filtered
from service.recommend.trace import NOTHING, Plan, Trace

_ROWS_AT_ONCE = 65_536


def retrieve(bundle: Bundle, query: np.ndarray, want: int, admissible: Admissible) -> tuple[Candidates, Trace]:
    """Finds the admissible items nearest to a query.

    Args:
        bundle: Whose items.
        query: (D,) float32, any norm but 0.
        want: How many.
        admissible: Which items may be returned.

    Returns:
        ``min(want, admissible.count())`` candidates, scored by cosine; what was done, in order, and a warning where
        that was more than was planned.
    """
    num_admissible = admissible.count()
    expected = min(want, num_admissible)
    if expected <= 0:
        return NO_CANDIDATES, NOTHING
    num_items = admissible.num_items
    choice = choose(
        num_items=num_items,
        num_admissible=num_admissible,
        num_excluded=len(admissible.excluded),
        want=expected,
        is_filtered=admissible.mask is not None,
        factory=bundle.index.factory,
    )
    found = run_plan(choice, bundle, query, expected, admissible)
    plans = [Plan(choice.name, num_admissible, choice.fetch, len(found))]
    if len(found) < expected and choice.name == "over_fetch" and choice.fetch < num_items:
        # The filter leaves little of what is near to this query: no fault of the index.
        choice = choose_filtered(num_items=num_items, num_admissible=num_admissible, want=expected)
        found = run_plan(choice, bundle, query, expected, admissible)
        plans.append(Plan(choice.name, num_admissible, choice.fetch, len(found)))
    if len(found) == expected:
        return found, Trace(plans=tuple(plans))
    warning = f"exact_scan: the index found {len(found)} of {expected}; all items were compared"
    found = exact_scan(bundle, query, expected, admissible.indices())
    plans.append(Plan("exact_scan", num_admissible, num_admissible, expected))
    return found, Trace(plans=tuple(plans), warnings=(warning,))


def exact_scan(bundle: Bundle, query: np.ndarray, want: int, allowed: np.ndarray) -> Candidates:
    """Compares the query with each allowed item.

    Args:
        bundle: Whose items.
        query: (D,) float32.
        want: How many.
        allowed: (A,) int64, ascending ``item_index``.

    Returns:
        ``min(want, A)`` candidates; equal scores keep the order of the catalogue.
    """
    direction = normalize(query)
    scores = np.empty(len(allowed), dtype=np.float32)
    for start in range(0, len(allowed), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        scores[rows] = bundle.item_directions(allowed[rows]) @ direction
    best = np.argsort(-scores, kind="stable")[:want]
    return Candidates(allowed[best], scores[best])


def run_plan(choice: Choice, bundle: Bundle, query: np.ndarray, want: int, admissible: Admissible) -> Candidates:
    """Looks for candidates in one way; may find fewer than there are."""
    if choice.name == "exact_scan":
        return exact_scan(bundle, query, want, admissible.indices())
    allowed = admissible.indices() if choice.name == "selector" else None
    scores, item_indices = bundle.index.search(query[None], choice.fetch, allowed=allowed)
    places = np.flatnonzero(admissible.keep(item_indices[0]))[:want]
    return Candidates(item_indices[0][places], scores[0][places])
