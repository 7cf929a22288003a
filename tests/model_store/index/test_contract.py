"""Every index type against answers that can be worked out by hand."""

from pathlib import Path

import numpy as np
import pytest

from model_store.errors import InvalidInput
from model_store.index import VectorIndex, build_index, load_index, save_index

# exact to float32, to half precision, or to 8 bits a component
TOLERANCE = {
    "Flat": 1e-6,
    "IVF16,Flat": 1e-6,
    "HNSW32": 1e-6,
    "IVF16_HNSW8,Flat": 1e-6,
    "RR8,IVF16,Flat": 1e-5,
    "SQfp16": 1e-3,
    "SQbf16": 1e-2,
    "SQ8": 2e-2,
    "IVF16,SQ8": 2e-2,
    "HNSW32,SQ8": 2e-2,
}
NUM_ITEMS = 64


def fan() -> np.ndarray:
    """(64, 8): items 1..64 fan out from the first axis by a degree each, with norms 1..64."""
    angles = np.radians(np.arange(NUM_ITEMS))
    vectors = np.zeros((NUM_ITEMS, 8), dtype=np.float32)
    vectors[:, 0], vectors[:, 1] = np.cos(angles), np.sin(angles)
    return vectors * np.arange(1, NUM_ITEMS + 1, dtype=np.float32)[:, None]


def axis(first: float, second: float) -> np.ndarray:
    query = np.zeros((1, 8), dtype=np.float32)
    query[0, :2] = first, second
    return query


@pytest.fixture(scope="module", params=TOLERANCE)
def index(request: pytest.FixtureRequest) -> VectorIndex:
    return build_index(fan(), factory=request.param).index


def test_nearest_items_come_first_with_their_cosine(index: VectorIndex) -> None:
    scores, items = index.search(axis(5.0, 0.0), 4)

    tolerance = TOLERANCE[index.factory]
    # items 1, 2, 3, 4 lie at 0, 1, 2, 3 degrees; quantised, neighbours may tie, so compare cosines
    np.testing.assert_allclose(scores[0], np.cos(np.radians([0, 1, 2, 3])), atol=tolerance)
    assert scores.dtype == np.float32
    assert items.dtype == np.int64
    if tolerance <= 1e-5:
        assert items[0].tolist() == [1, 2, 3, 4]


def test_opposite_query_ranks_the_other_way_round(index: VectorIndex) -> None:
    scores, items = index.search(axis(0.0, 0.01), 2)

    np.testing.assert_allclose(scores[0], np.sin(np.radians([63, 62])), atol=TOLERANCE[index.factory])
    if TOLERANCE[index.factory] <= 1e-5:
        assert items[0].tolist() == [64, 63]


@pytest.mark.parametrize("k", [1, 10, 63, 64])
def test_exactly_k_different_items_come_back_in_descending_order(index: VectorIndex, k: int) -> None:
    queries = np.random.default_rng(k).normal(size=(5, 8)).astype(np.float32)

    scores, items = index.search(queries, k)

    assert scores.shape == items.shape == (5, k)
    for row in range(5):
        assert len(set(items[row].tolist())) == k
        assert items[row].min() >= 1
        assert items[row].max() <= NUM_ITEMS
        assert (np.diff(scores[row]) <= 0).all()
        assert (np.abs(scores[row]) <= 1).all()


def test_more_than_there_are_is_filled_with_nothing(index: VectorIndex) -> None:
    scores, items = index.search(axis(1.0, 0.0), 70)

    assert sorted(items[0, :64].tolist()) == list(range(1, 65))
    assert items[0, 64:].tolist() == [0] * 6
    assert np.isneginf(scores[0, 64:]).all()


@pytest.mark.parametrize("allowed", [[7], [64, 1, 30], list(range(2, 65, 2)), [5, 5, 0, 6]])
def test_only_allowed_items_and_all_of_them_come_back(index: VectorIndex, allowed: list[int]) -> None:
    expected = set(allowed) - {0}

    scores, items = index.search(axis(1.0, 0.0), 40, allowed=np.array(allowed))

    assert set(items[0, : len(expected)].tolist()) == expected
    assert (items[0, len(expected) :] == 0).all()
    cosines = np.sort(np.cos(np.radians(np.array(sorted(expected)) - 1)))[::-1]
    np.testing.assert_allclose(scores[0, : len(expected)], cosines, atol=TOLERANCE[index.factory])


def test_no_allowed_item_means_no_result(index: VectorIndex) -> None:
    scores, items = index.search(axis(1.0, 0.0), 3, allowed=np.array([], dtype=np.int64))

    assert items.tolist() == [[0, 0, 0]]
    assert np.isneginf(scores).all()


def test_a_batch_equals_its_queries_one_by_one(index: VectorIndex) -> None:
    queries = np.random.default_rng(0).normal(size=(9, 8)).astype(np.float32)

    scores, items = index.search(queries, 5)

    for row in range(9):
        one_scores, one_items = index.search(queries[row : row + 1], 5)
        np.testing.assert_allclose(one_scores[0], scores[row], atol=1e-6)  # other summation order
        assert one_items[0].tolist() == items[row].tolist()


def test_no_query_is_an_empty_answer(index: VectorIndex) -> None:
    scores, items = index.search(np.empty((0, 8), dtype=np.float32), 5)

    assert scores.shape == items.shape == (0, 5)


def test_a_saved_index_answers_like_the_one_in_memory(index: VectorIndex, tmp_path: Path) -> None:
    built = build_index(fan(), factory=index.factory)
    save_index(built.index, tmp_path / "index.faiss")

    loaded = load_index(tmp_path / "index.faiss", built.parameters, factory=built.factory)

    queries = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)
    assert (loaded.num_items, loaded.embedding_dim, loaded.factory) == (NUM_ITEMS, 8, index.factory)
    np.testing.assert_array_equal(loaded.search(queries, 7)[1], built.index.search(queries, 7)[1])
    allowed = np.arange(1, 20)
    np.testing.assert_array_equal(
        loaded.search(queries, 7, allowed=allowed)[1], built.index.search(queries, 7, allowed=allowed)[1]
    )
    assert [path.name for path in tmp_path.iterdir()] == ["index.faiss"]


@pytest.mark.parametrize(
    ("query", "k", "allowed", "message"),
    [
        (axis(1, 0), 0, None, "k is 0"),
        (axis(0, 0), 1, None, "is zero"),
        (axis(np.nan, 0), 1, None, "not finite"),
        (axis(np.inf, 0), 1, None, "not finite"),
        (np.ones((1, 7), dtype=np.float32), 1, None, "shape"),
        (np.ones(8, dtype=np.float32), 1, None, "shape"),
        (axis(1, 0), 1, np.array([65]), "65"),
        (axis(1, 0), 1, np.array([-1]), "-1"),
        (axis(1, 0), 1, np.array([0.5]), "float64"),
    ],
)
def test_bad_queries_are_refused(
    index: VectorIndex, query: np.ndarray, k: int, allowed: np.ndarray | None, message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        index.search(query, k, allowed=allowed)
