"""The trie against tries written out by hand, against sorted lists of Python, and on a large catalogue."""

import time
import tracemalloc
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_store.errors import InvalidInput
from model_store.hatllm.titles.trie import TitleTrie, TrieNode

END = 0
TITLES = st.lists(st.lists(st.integers(1, 3), max_size=5), min_size=1, max_size=25)


def make_trie(titles: Sequence[Sequence[int]], popularity: Sequence[float] | None = None) -> TitleTrie:
    offsets = np.cumsum([0, *map(len, titles)]).astype(np.int64)
    token_ids = np.array([token for title in titles for token in title], dtype=np.int32)
    return TitleTrie.from_tokens(token_ids, offsets, np.asarray(popularity or [0.0] * len(titles)))


def children(trie: TitleTrie, node: TrieNode) -> dict[int, TrieNode]:
    tokens, los, his = trie.children(node)
    assert len(tokens) == len(los) == len(his)
    return {
        int(token): TrieNode(node.depth + 1, int(lo), int(hi)) for token, lo, hi in zip(tokens, los, his, strict=True)
    }


def walk(trie: TitleTrie, node: TrieNode | None = None, prefix: tuple[int, ...] = ()) -> dict[tuple[int, ...], int]:
    """Every complete title that the trie can be walked to, and its leaf."""
    node = node or trie.root
    below = children(trie, node)
    if not below:
        assert node.hi - node.lo == 1
        return {prefix: node.lo}
    assert [child.lo for child in below.values()] == [node.lo, *(child.hi for child in below.values())][:-1]
    assert list(below.values())[-1].hi == node.hi
    found: dict[tuple[int, ...], int] = {}
    for token, child in below.items():
        found |= walk(trie, child, (*prefix, token))
    return found


def test_the_nodes_are_those_written_out_by_hand() -> None:
    # item 1: 5 7 0, item 2: 4 0, item 3: 5 7 8 0, item 4: 5 6 0, so in order: [4 0] [5 6 0] [5 7 0] [5 7 8 0]
    trie = make_trie([[5, 7, END], [4, END], [5, 7, 8, END], [5, 6, END]])
    assert (trie.num_items, trie.num_leaves, trie.largest_token) == (4, 4, 8)
    assert trie.root == (0, 0, 4)
    assert children(trie, trie.root) == {4: (1, 0, 1), 5: (1, 1, 4)}
    assert children(trie, TrieNode(1, 0, 1)) == {END: (2, 0, 1)}
    assert children(trie, TrieNode(2, 0, 1)) == {}
    assert children(trie, TrieNode(1, 1, 4)) == {6: (2, 1, 2), 7: (2, 2, 4)}
    assert children(trie, TrieNode(2, 2, 4)) == {END: (3, 2, 3), 8: (3, 3, 4)}
    assert [trie.items_of(leaf).tolist() for leaf in range(4)] == [[2], [4], [1], [3]]


def test_a_title_that_continues_another_is_told_apart_by_the_end_marker() -> None:
    trie = make_trie([[3, END], [3, 3, END], [3, 3, 3, END]])
    assert walk(trie) == {(3, END): 0, (3, 3, END): 1, (3, 3, 3, END): 2}


def test_items_with_one_title_share_a_leaf_the_most_popular_first_and_ties_by_index() -> None:
    trie = make_trie([[2, END], [1, END], [2, END], [2, END], [2, END]], popularity=[1, 0, 9, 1, 9])
    assert trie.num_leaves == 2
    assert trie.items_of(0).tolist() == [2]
    assert trie.items_of(1).tolist() == [3, 5, 1, 4]


def test_unsigned_popularities_are_not_wrapped_around() -> None:
    token_ids, offsets = np.zeros(3, dtype=np.int32), np.arange(4)
    trie = TitleTrie.from_tokens(token_ids, offsets, np.array([0, 2, 1], dtype=np.uint32))
    assert trie.items_of(0).tolist() == [2, 3, 1]


def test_one_item_is_a_trie() -> None:
    trie = make_trie([[END]])
    assert children(trie, trie.root) == {END: (1, 0, 1)}
    assert children(trie, TrieNode(1, 0, 1)) == {}


def test_admissible_titles_are_counted_once_however_many_items_bear_them() -> None:
    trie = make_trie([[2, END], [1, END], [2, END], [3, END]])
    assert trie.admissible_counts(np.array([True, True, True, True])).tolist() == [0, 1, 2, 3]
    assert trie.admissible_counts(np.array([False, True, True, False])).tolist() == [0, 1, 2, 2]
    assert trie.admissible_counts(np.array([False, False, False, True])).tolist() == [0, 0, 0, 1]
    without_duplicates = make_trie([[2, END], [1, END], [3, END]])
    assert without_duplicates.admissible_counts(np.array([True, False, False])).tolist() == [0, 0, 1, 1]


@given(TITLES, st.data())
def test_any_catalogue_is_found_again_by_walking(bodies: list[list[int]], data: st.DataObject) -> None:
    titles = [(*body, END) for body in bodies]
    popularity = data.draw(st.lists(st.integers(0, 3), min_size=len(titles), max_size=len(titles)))
    allowed = np.array(data.draw(st.lists(st.booleans(), min_size=len(titles), max_size=len(titles))))
    trie = make_trie(titles, [float(value) for value in popularity])
    ordered = sorted(set(titles))
    assert walk(trie) == {title: leaf for leaf, title in enumerate(ordered)}
    counts = trie.admissible_counts(allowed)
    for leaf, title in enumerate(ordered):
        items = [item for item in range(1, len(titles) + 1) if titles[item - 1] == title]
        assert trie.items_of(leaf).tolist() == sorted(items, key=lambda item: (-popularity[item - 1], item))
        assert counts[leaf + 1] - counts[leaf] == any(allowed[item - 1] for item in items)


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=3), min_size=1, max_size=8))
def test_titles_are_refused_exactly_if_one_is_the_beginning_of_another(titles: list[list[int]]) -> None:
    begins = any(len(a) < len(b) and b[: len(a)] == a for a in titles for b in titles)
    if begins:
        with pytest.raises(InvalidInput, match="are the beginning of those of item_index"):
            make_trie(titles)
    else:
        assert walk(make_trie(titles)).keys() == set(map(tuple, titles))


def test_the_refusal_names_both_items() -> None:
    with pytest.raises(InvalidInput, match=r"item_index 3 are the beginning of those of item_index 1;"):
        make_trie([[4, 5, 6], [1, 2], [4, 5]])


@pytest.mark.parametrize(
    ("token_ids", "offsets", "popularity", "message"),
    [
        ([], [0], [], "the catalogue is empty"),
        ([], [], [], "the catalogue is empty"),
        ([1, 0], [0, 2, 2], [1, 1], "item_index 2 has no tokens"),
        ([1, -1], [0, 2], [1], "the token -1, expected 0 or more"),
        ([1, 0], [0, 3], [1], "offsets run from 0 to 3, expected ascending ones from 0 to 2"),
        ([1, 0], [1, 2], [1], "offsets run from 1 to 2"),
        ([1, 0], [0, 2, 1, 2], [1, 1, 1], "ascending"),
        ([1, 0], [0, 2], [1, 2], r"popularity has shape \(2,\), expected \(1,\)"),
    ],
)
def test_catalogues_that_make_no_trie_are_refused(
    token_ids: list[int], offsets: list[int], popularity: list[float], message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        TitleTrie.from_tokens(np.array(token_ids, np.int32), np.array(offsets, np.int64), np.array(popularity))


@pytest.mark.parametrize("allowed", [np.ones(3, bool), np.ones((2, 1), bool), np.ones(2, np.int64)])
def test_a_mask_that_does_not_fit_is_refused(allowed: np.ndarray) -> None:
    with pytest.raises(InvalidInput, match=r"expected bool of shape \(2,\)"):
        make_trie([[1, END], [2, END]]).admissible_counts(allowed)


def test_two_hundred_thousand_titles_are_sorted_in_seconds_and_one_long_title_does_not_multiply_the_memory() -> None:
    generator = np.random.default_rng(0)
    lengths = generator.integers(2, 24, size=200_000)
    lengths[17] = 20_000  # padded to it, the titles would take 16 GB
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    token_ids = generator.integers(1, 300, size=offsets[-1], dtype=np.int32)
    token_ids[offsets[:-1]] = 300  # every title starts alike
    token_ids[offsets[1:] - 1] = END
    tracemalloc.start()
    try:
        started = time.perf_counter()
        trie = TitleTrie.from_tokens(token_ids, offsets, generator.random(200_000))
        seconds = time.perf_counter() - started
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert seconds < 5.0
    assert kept < 60 * trie.num_items
    assert peak < 200 * trie.num_items
    for item in (1, 18, 200_000):  # where a walk by an item's own tokens ends, the item is
        node = trie.root
        for token in token_ids[offsets[item - 1] : offsets[item]]:
            tokens, los, his = trie.children(node)
            child = int(np.searchsorted(tokens, token))
            assert tokens[child] == token
            node = TrieNode(node.depth + 1, int(los[child]), int(his[child]))
        assert item in trie.items_of(node.lo)
