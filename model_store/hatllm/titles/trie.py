"""Every title of the catalogue as a trie over its tokens, without a node in memory.

The distinct token sequences are kept in lexicographic order, so the titles below a node are neighbours: a node
is ``(depth, lo, hi)``, the rows ``lo:hi`` that share their first ``depth`` tokens. Where a node's children begin
is read off the number of tokens that each row shares with the row before it. A million titles cost their tokens
and less than fifty bytes each, and one very long title costs no more than itself.

A leaf is one distinct sequence. Items with the same title have the same leaf: tokens cannot tell them apart.
"""

from typing import NamedTuple

import numpy as np

from model_store.errors import InvalidInput

_ENDED = -1  # sorts before every token: what a title has after its last one
_SAME_TITLE = -1


class TrieNode(NamedTuple):
    """The sorted rows ``lo:hi``: all the distinct titles that share their first ``depth`` tokens."""

    depth: int
    lo: int
    hi: int


class TitleTrie:
    """The titles of a catalogue by their tokens; immutable, and safe to share between threads.

    Built by :meth:`from_tokens`.

    Attributes:
        num_items: N.
        num_leaves: U, the number of distinct titles; rows of the sorted order are ``0..U - 1``.
        largest_token: The largest token id in any title.
    """

    def __init__(self, token_ids: np.ndarray, spans: np.ndarray, shared: np.ndarray, items: np.ndarray) -> None:
        first_items = np.flatnonzero(shared != _SAME_TITLE)
        self._token_ids = token_ids
        self._starts, self._ends = spans[first_items].T.copy()  # (U,) each: where in token_ids a row's tokens are
        self._shared = shared[first_items]  # (U,) how many tokens a row shares with the row before it
        self._items = items  # (N,) item_index, row by row
        self._item_offsets = np.append(first_items, len(items))  # (U + 1,)
        self.num_items = len(items)
        self.num_leaves = len(first_items)
        self.largest_token = int(token_ids.max())
        self._root_children = self._find_children(self.root)  # the widest node, and every search opens it
        for array in self._root_children:
            array.flags.writeable = False

    @classmethod
    def from_tokens(cls, token_ids: np.ndarray, offsets: np.ndarray, popularity: np.ndarray) -> "TitleTrie":
        """Sorts the titles of a catalogue.

        Args:
            token_ids: (total,) int32, every item's title with its end marker; kept, not copied.
            offsets: (N + 1,) int64; the title of ``item_index`` i is ``token_ids[offsets[i - 1] : offsets[i]]``.
            popularity: (N,) numbers, larger is more popular; orders the items that share a title.

        Raises:
            InvalidInput: No items, arrays that do not fit each other, a negative token, a title without tokens, or
                one that is the beginning of another, so that nothing says where it ends.
        """
        _check_tokens(token_ids, offsets, popularity)
        # every later sort is stable, so items with one title stay in this order
        by_popularity = np.argsort(-np.asarray(popularity, dtype=np.float64), kind="stable")
        rows, shared = _sorted_titles(token_ids, offsets, by_popularity)
        spans = np.stack([offsets[rows], offsets[rows + 1]], axis=1).astype(np.int64)
        return cls(token_ids, spans, shared, rows + 1)

    @property
    def root(self) -> TrieNode:
        """The node of no tokens, above every title."""
        return TrieNode(0, 0, self.num_leaves)

    def children(self, node: TrieNode) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The tokens that may follow a node, and the titles below each.

        Args:
            node: The root or what this method gave; a complete title has no children.

        Returns:
            tokens, los, his: (C,) int64 each, tokens ascending; child ``c`` is
            ``TrieNode(node.depth + 1, los[c], his[c])``. Not to be written to.
        """
        return self._root_children if node == self.root else self._find_children(node)

    def _find_children(self, node: TrieNode) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        depth, lo, hi = node
        if self._starts[lo] + depth == self._ends[lo]:  # complete, and then it is alone: no title begins another
            return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.int64)
        # all rows of the node share `depth` tokens; a row that shares no more than that begins another child
        begins = np.flatnonzero(self._shared[lo + 1 : hi] == depth) + (lo + 1)
        los = np.concatenate([[lo], begins])
        tokens = self._token_ids[self._starts[los] + depth].astype(np.int64)
        return tokens, los, np.append(begins, hi)

    def items_of(self, leaf: int) -> np.ndarray:
        """The items whose title is row ``leaf``: (C,) int64 item_index, most popular first, ties by item_index."""
        return self._items[self._item_offsets[leaf] : self._item_offsets[leaf + 1]]

    def admissible_counts(self, allowed: np.ndarray) -> np.ndarray:
        """How many of the first rows hold an allowed item.

        Args:
            allowed: (N,) bool; row ``i`` is ``item_index`` ``i + 1``.

        Returns:
            (U + 1,) int64 prefix sums: ``counts[hi] - counts[lo]`` titles below a node can still be recommended.

        Raises:
            InvalidInput: A mask of another shape or type.
        """
        if allowed.dtype != np.bool_ or allowed.shape != (self.num_items,):
            raise InvalidInput(
                f"allowed is {allowed.dtype} of shape {allowed.shape}, expected bool of shape ({self.num_items},)"
            )
        counts = _prefix_sums(allowed[self._items - 1])
        if self.num_leaves == self.num_items:
            return counts
        return _prefix_sums(np.diff(counts[self._item_offsets]) > 0)


def _prefix_sums(flags: np.ndarray) -> np.ndarray:
    sums = np.zeros(len(flags) + 1, dtype=np.int64)
    np.cumsum(flags, out=sums[1:])
    return sums


def _check_tokens(token_ids: np.ndarray, offsets: np.ndarray, popularity: np.ndarray) -> None:
    if len(offsets) < 2:
        raise InvalidInput("the catalogue is empty, expected at least one title")
    lengths = np.diff(offsets)
    if offsets[0] != 0 or offsets[-1] != len(token_ids) or lengths.min() < 0:
        raise InvalidInput(
            f"offsets run from {offsets[0]} to {offsets[-1]}, expected ascending ones from 0 to {len(token_ids)}"
        )
    if popularity.shape != lengths.shape:
        raise InvalidInput(f"popularity has shape {popularity.shape}, expected {lengths.shape}")
    if lengths.min() == 0:
        raise InvalidInput(
            f"the title of item_index {int(lengths.argmin()) + 1} has no tokens, expected at least an end marker"
        )
    if token_ids.min() < 0:
        raise InvalidInput(f"a title holds the token {token_ids.min()}, expected 0 or more")


def _sorted_titles(token_ids: np.ndarray, offsets: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sorts titles token by token, at each depth only those that are still equal to a neighbour.

    Padding every title to the longest for one sort would be simpler, and let a single title decide the memory.

    Args:
        token_ids: (total,) int.
        offsets: (N + 1,) int.
        rows: (N,) int64, the titles in the order that equal ones shall keep.

    Returns:
        rows (N,) int64 in lexicographic order, and (N,) int32 how many tokens each shares with the one before it,
        ``_SAME_TITLE`` if it is the same, 0 for the first.
    """
    starts, lengths = offsets[:-1], np.diff(offsets)
    rows = rows.copy()
    shared = np.full(len(rows), _SAME_TITLE, dtype=np.int32)
    shared[0] = 0
    places = np.arange(len(rows))  # in the sorted order: those whose title is not yet told from a neighbour's
    groups = np.zeros(len(rows), dtype=np.int64)  # of each place, the first place with an equal title so far
    stride = int(token_ids.max()) + 2
    depth = 0
    while len(places):
        here = rows[places]
        tokens = token_ids.take(starts[here] + depth, mode="clip").astype(np.int64)
        tokens[lengths[here] == depth] = _ENDED
        keys = groups * stride + (tokens + 1)
        order = np.argsort(keys, kind="stable")
        rows[places], tokens, keys = here[order], tokens[order], keys[order]
        begins = np.diff(keys, prepend=-1) != 0
        parts = np.flatnonzero(begins & (places != groups))  # where a group falls apart
        shared[places[parts]] = depth
        _check_ends(rows, places, parts[tokens[parts - 1] == _ENDED])
        sizes = np.diff(np.append(np.flatnonzero(begins), len(places)))
        still_open = np.repeat(sizes > 1, sizes) & (tokens != _ENDED)
        groups = np.repeat(places[begins], sizes)[still_open]
        places = places[still_open]
        depth += 1
    return rows, shared


def _check_ends(rows: np.ndarray, places: np.ndarray, after_an_end: np.ndarray) -> None:
    """Refuses a title that ended where an equal one goes on; ``after_an_end`` indexes ``places``."""
    if len(after_an_end):
        shorter, longer = rows[places[after_an_end[0] - 1]] + 1, rows[places[after_an_end[0]]] + 1
        raise InvalidInput(
            f"the tokens of item_index {shorter} are the beginning of those of item_index {longer}; "
            "expected an end marker that occurs nowhere else in a title"
        )
