"""The k nearest admissible items, by the plan that the planner picks; an exact scan where the index falls short."""

from dataclasses import dataclass

import numpy as np

from model_store.artifacts.bundle import Bundle
from service.recommend.ask import Plan
from service.recommend.candidates.admissible import Admissible
from service.recommend.ranking.planner import Choice, choose, choose_filtered

_ROWS_AT_ONCE = 65_536


@dataclass(frozen=True)
class Candidates:
    """Retrieved items, best first.

    Attributes:
        item_indices: (C,) int64, all admissible.
        scores: (C,) float32, cosine with the query.
        warning: What had to be done beyond what was planned, if anything.
        plans: What was done, in order.
    """

    item_indices: np.ndarray
    scores: np.ndarray
    warning: str | None = None
    plans: tuple[Plan, ...] = ()


NO_CANDIDATES = Candidates(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32))


def retrieve(bundle: Bundle, query: np.ndarray, want: int, admissible: Admissible) -> Candidates:
    """Finds the admissible items nearest to a query.

    Args:
        bundle: Whose items.
        query: (D,) float32, any norm but 0.
        want: How many.
        admissible: Which items may be returned.

    Returns:
        ``min(want, admissible.count())`` candidates.
    """
    num_admissible = admissible.count()
    expected = min(want, num_admissible)
    if expected <= 0:
        return NO_CANDIDATES
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
    plans = [Plan(choice.name, num_admissible, choice.fetch, len(found.item_indices))]
    if len(found.item_indices) < expected and choice.name == "over_fetch" and choice.fetch < num_items:
        # The filter leaves little of what is near to this query: no fault of the index.
        choice = choose_filtered(num_items=num_items, num_admissible=num_admissible, want=expected)
        found = run_plan(choice, bundle, query, expected, admissible)
        plans.append(Plan(choice.name, num_admissible, choice.fetch, len(found.item_indices)))
    warning = None
    num_found = len(found.item_indices)
    if num_found < expected:
        found = exact_scan(bundle, query, expected, admissible.indices())
        plans.append(Plan("exact_scan", num_admissible, num_admissible, expected))
        warning = f"exact_scan: the index found {num_found} of {expected}; all items were compared"
    return Candidates(found.item_indices, found.scores, warning, tuple(plans))


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
    unit = query / np.linalg.norm(query)
    scores = np.empty(len(allowed), dtype=np.float32)
    for start in range(0, len(allowed), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        embeddings = bundle.item_embeddings(allowed[rows])  # (rows, D)
        norms = np.maximum(np.linalg.norm(embeddings, axis=1), np.finfo(np.float32).tiny)
        scores[rows] = (embeddings @ unit) / norms
    best = np.argsort(-scores, kind="stable")[:want]
    return Candidates(allowed[best], scores[best])


def run_plan(choice: Choice, bundle: Bundle, query: np.ndarray, want: int, admissible: Admissible) -> Candidates:
    """Looks for candidates in one way; may find fewer than there are."""
    if choice.name == "exact_scan":
        return exact_scan(bundle, query, want, admissible.indices())
    allowed = admissible.indices() if choice.name == "selector" else None
    scores, item_indices = bundle.index.search(query[None], choice.fetch, allowed=allowed)
    is_kept = admissible.keep(item_indices[0])
    return Candidates(item_indices[0][is_kept][:want], scores[0][is_kept][:want])
