"""Search in titles: every word of the query must be there, as it is or, where that finds too little, nearly."""

import re
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rapidfuzz import process
from rapidfuzz.distance import OSA

from service.engine.served_bundle import ServedBundle
from service.people.hidden_set import HiddenItems
from service.recommend.browse import shown_items

# A word of so many letters may have one mistake, of so many two; shorter ones would be like everything.
_LETTERS_FOR_ONE, _LETTERS_FOR_TWO = 4, 8
# Words of the catalogue that one word of a query may stand for, the likest ones.
_MAX_NEAR = 20
# Of a longer query the other words must be there as they are, so that its cost is bounded.
_MAX_NEAR_WORDS = 8


def find_by_title(served: ServedBundle, query: str, limit: int, hidden: HiddenItems) -> np.ndarray:
    """Items whose title has every word of the query in it, the most popular first; then those that nearly have.

    Upper and lower case are the same. A word nearly is another one if few letters are missing, too many, wrong or in
    the wrong order: one of four letters or more, two of eight or more.

    Args:
        served: Whose catalogue.
        query: Words; an empty query finds everything.
        limit: How many.
        hidden: What is not found.

    Returns:
        (at most limit,) int64 item indices.
    """
    titles = served.catalogue.column("title")
    words = query.split()
    shown = shown_items(served, hidden).allowed()
    exact = np.logical_and.reduce([shown, *(_contains(titles, [word]) for word in words)])
    found = _most_popular(served, exact, limit)
    if len(found) >= limit or not words:
        return found
    vocabulary = served.catalogue.title_words
    nearly = [
        _contains(titles, [word, *(_near_words(word, vocabulary) if at < _MAX_NEAR_WORDS else ())])
        for at, word in enumerate(words)
    ]
    more = np.logical_and.reduce([shown & ~exact, *nearly])
    return np.concatenate([found, _most_popular(served, more, limit - len(found))])


def _most_popular(served: ServedBundle, matches: np.ndarray, limit: int) -> np.ndarray:
    popular = served.catalogue.popular()
    return popular[matches[popular - 1]][:limit]


def _contains(titles: pa.ChunkedArray, words: Sequence[str]) -> np.ndarray:
    """(N,) bool: which titles have one of the words in them."""
    if len(words) == 1:
        found = pc.match_substring(titles, words[0], ignore_case=True)
    else:
        found = pc.match_substring_regex(titles, "|".join(re.escape(word) for word in words), ignore_case=True)
    mask: np.ndarray = pc.fill_null(found, False).to_numpy()
    return mask


def _near_words(word: str, vocabulary: Sequence[str]) -> list[str]:
    if len(word) < _LETTERS_FOR_ONE:
        return []
    most = 2 if len(word) >= _LETTERS_FOR_TWO else 1
    near = process.extract(word.lower(), vocabulary, scorer=OSA.distance, score_cutoff=most, limit=_MAX_NEAR)
    return [found for found, _, _ in near]
