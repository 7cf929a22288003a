"""Boosts: some items count as more, or less, relevant than their score says.

Items fall into classes by which boosts they meet, and within a class boosting keeps the order. So the best boosted
items are among the best ones of each class, and nothing has to be scored that would not be returned.
"""

import math
from collections.abc import Sequence

import numpy as np

from service.engine.served_bundle import ServedBundle
from service.recommend.ask import Boost
from service.recommend.candidates.admissible import Admissible, exclusions
from service.recommend.candidates.filters import evaluate, unpack
from service.recommend.ranking.candidates import Candidates
from service.recommend.ranking.sources import Source

MAX_BOOSTS = 8
# With more classes than this, all items are scored at once.
_MANY_CLASSES = 16


def boost_source(source: Source, served: ServedBundle, boosts: Sequence[Boost]) -> Source:
    """The same source, its candidates in the order of their boosted relevance.

    Args:
        source: A source.
        served: Whose items.
        boosts: At most ``MAX_BOOSTS``; an item that meets several is multiplied by all, then gets all that is added.

    Raises:
        InvalidRequest: A boost's filter does not fit the catalogue.
    """
    if not boosts:
        return source
    codes = boost_codes(served, boosts)
    classes = served.masks.get(("boost classes", tuple(boosts)), lambda: np.unique(codes)).tolist()

    def find(want: int, admissible: Admissible) -> Candidates:
        if len(classes) > _MANY_CLASSES:
            parts = [source(admissible.count(), admissible)]
        else:
            parts = [source(want, admissible.within(codes == code)) for code in classes]
        item_indices = np.concatenate([part.item_indices for part in parts])
        relevance = np.concatenate([part.gains for part in parts]).astype(np.float64)
        relevance = _lifted(relevance, codes[item_indices - 1], boosts)
        found = Candidates(item_indices, np.concatenate([part.scores for part in parts]), relevance=relevance)
        return found.take(np.argsort(-relevance, kind="stable")[:want])

    return find


def boost_codes(served: ServedBundle, boosts: Sequence[Boost]) -> np.ndarray:
    """(N,) uint8, bit b says whether an item meets boost b; worked out once per bundle.

    Raises:
        InvalidRequest: A boost's filter does not fit the catalogue.
    """
    return served.masks.get(("boosts", tuple(boosts)), lambda: _codes(served, boosts))


def _codes(served: ServedBundle, boosts: Sequence[Boost]) -> np.ndarray:
    """(N,) uint8, bit b says whether an item meets boost b."""
    codes = np.zeros(len(served.catalogue), dtype=np.uint8)
    for bit, boost in enumerate(boosts):
        if boost.filter is not None:
            mask = unpack(evaluate(boost.filter, served.catalogue, served.masks), len(codes))
        else:
            mask = np.zeros(len(codes), dtype=bool)
            mask[exclusions(served.catalogue, boost.item_ids) - 1] = True
        codes |= mask.astype(np.uint8) << np.uint8(bit)
    return codes


def _lifted(relevance: np.ndarray, codes: np.ndarray, boosts: Sequence[Boost]) -> np.ndarray:
    lifted = relevance.copy()
    for code in np.unique(codes[codes > 0]).tolist():
        met = [boost for bit, boost in enumerate(boosts) if code >> bit & 1]
        of_class = codes == code
        factor = math.prod(boost.multiply for boost in met)
        lifted[of_class] = (1.0 + relevance[of_class]) * factor + sum(boost.add for boost in met) - 1.0
    return lifted
