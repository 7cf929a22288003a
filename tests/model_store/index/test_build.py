import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model_store.errors import ArtifactCorrupt, ArtifactNotFound, InvalidInput
from model_store.index import build, build_index, check_vectors, load_index, measure_recall, save_index
from model_store.index import faiss_index as engine
from model_store.index.build import num_cells


def random_vectors(num_items: int, embedding_dim: int = 16) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(num_items, embedding_dim)).astype(np.float32)


def test_auto_makes_about_four_root_n_cells() -> None:
    assert num_cells(100_001) == 1024
    assert num_cells(1_000_000) == 4096


def test_auto_over_a_large_catalogue_uses_its_clusters_if_it_has_any(monkeypatch: pytest.MonkeyPatch) -> None:
    # the true limit is 100,000 items, too many for a quick test
    monkeypatch.setattr(build, "EXHAUSTIVE_ITEMS", 1000)
    spread = random_vectors(4000, 64)
    clustered = spread * np.float32(0.2) + random_vectors(50, 64)[np.arange(4000) % 50]

    with_clusters, without = build_index(clustered), build_index(spread)

    assert with_clusters.factory == "IVF256,Flat"
    assert with_clusters.parameters["nprobe"] <= 32
    assert with_clusters.recall >= 0.97
    assert (without.factory, without.parameters) == ("SQfp16", {})
    assert without.recall >= 0.99


def test_auto_over_a_small_catalogue_finds_everything_and_leaves_the_vectors_alone() -> None:
    vectors = random_vectors(300)
    before = vectors.copy()

    built = build_index(vectors)

    assert (built.factory, built.parameters, built.recall) == ("Flat", {}, 1.0)
    np.testing.assert_array_equal(vectors, before)


@pytest.mark.parametrize("factory", ["IVF64,Flat", "HNSW8"])
def test_effort_is_raised_until_the_target_is_met(factory: str) -> None:
    vectors = random_vectors(5000, 32)

    hasty = build_index(vectors, factory=factory, recall_target=0.3)
    careful = build_index(vectors, factory=factory, recall_target=0.99)

    (name,) = hasty.parameters
    assert careful.parameters[name] > hasty.parameters[name]
    assert careful.recall >= 0.98  # other queries than the tuned ones, so not exactly the target
    assert careful.recall > hasty.recall


def test_recall_counts_what_a_careless_search_misses() -> None:
    vectors = random_vectors(5000, 32)
    built = build_index(vectors, factory="IVF64,Flat", recall_target=1.0)

    assert measure_recall(built.index, vectors) == 1.0
    assert isinstance(built.index, engine.FaissIndex)
    one_cell = built.index.with_effort(1)
    assert measure_recall(one_cell, vectors) < 0.7


def test_recall_takes_ties_for_found() -> None:
    vectors = np.repeat(random_vectors(20), 50, axis=0)  # every item fifty times: which ten of them, is chance

    assert build_index(vectors, factory="IVF16,Flat").recall == 1.0


def test_recall_can_be_measured_on_real_queries() -> None:
    vectors = random_vectors(50)

    assert measure_recall(build_index(vectors).index, vectors, queries=random_vectors(3)) == 1.0
    with pytest.raises(InvalidInput, match="50 items, but there are 49"):
        measure_recall(build_index(vectors).index, vectors[:49])


def test_a_filter_on_a_large_catalogue_is_searched_in_the_index_and_still_gives_k(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # the true limit is 100,000 items, too many for a quick test
    monkeypatch.setattr(engine, "EXHAUSTIVE_ITEMS", 10)
    vectors = random_vectors(3000)
    allowed = np.arange(1, 3001, 20)
    exact = build_index(vectors).index.search(vectors[:20], 100, allowed=allowed)[1]
    for factory in ("IVF32,Flat", "HNSW16"):
        index = build_index(vectors, factory=factory).index

        found = index.search(vectors[:20], 100, allowed=allowed)[1]

        assert np.isin(found, allowed).all()
        overlap = np.mean([len(set(a) & set(b)) / 100 for a, b in zip(exact.tolist(), found.tolist(), strict=True)])
        assert overlap > 0.95


def test_an_index_keeps_its_effort_when_loaded(tmp_path: Path) -> None:
    built = build_index(random_vectors(2000), factory="IVF64,Flat", recall_target=0.99)
    save_index(built.index, tmp_path / "index.faiss")

    loaded = load_index(tmp_path / "index.faiss", built.parameters)

    assert isinstance(loaded, engine.FaissIndex)
    assert loaded.parameters == built.parameters


def test_threads_may_search_one_index_with_different_filters() -> None:
    index = build_index(random_vectors(2000), factory="IVF16,Flat").index
    queries = random_vectors(1)
    failures: list[int] = []

    def search(start: int) -> None:
        allowed = np.arange(start, start + 50)
        for _ in range(50):
            found = index.search(queries, 50, allowed=allowed)[1]
            if set(found[0].tolist()) != set(allowed.tolist()):
                failures.append(start)

    threads = [threading.Thread(target=search, args=(1 + 50 * number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_searching_one_query_leaves_the_thread_setting_as_it_was() -> None:
    index = build_index(random_vectors(50)).index
    before = engine.faiss.omp_get_max_threads()

    index.search(random_vectors(1), 3)

    assert engine.faiss.omp_get_max_threads() == before


class _ThreadCounter:
    """A FAISS index of the same vectors that notes how many OpenMP threads each search may use."""

    def __init__(self, vectors: np.ndarray) -> None:
        self._flat = engine.faiss.IndexFlatIP(vectors.shape[1])
        self._flat.add(vectors)
        self.ntotal, self.d = self._flat.ntotal, self._flat.d
        self.num_threads: list[int] = []

    def search(self, *args: Any, **options: Any) -> Any:
        self.num_threads.append(engine.faiss.omp_get_max_threads())
        return self._flat.search(*args, **options)


def test_the_calling_thread_uses_one_openmp_thread_for_one_query_and_all_for_a_batch() -> None:
    counter = _ThreadCounter(random_vectors(20))
    index = engine.FaissIndex(counter, factory="Flat", parameters={})
    before = engine.faiss.omp_get_max_threads()
    engine.faiss.omp_set_num_threads(3)
    try:
        index.search(random_vectors(1), 5)
        index.search(random_vectors(2), 5)
        assert engine.faiss.omp_get_max_threads() == 3
    finally:
        engine.faiss.omp_set_num_threads(before)
    assert counter.num_threads == [1, 3]


@pytest.mark.parametrize(
    "factory", ["", "Nope", "IVF16", "IVF1000,Flat", "IDMap,Flat", "PQ4x4", "NSG16", "LSH", "Flat,Flat,Flat"]
)
def test_factories_that_cannot_serve_are_refused(factory: str) -> None:
    with pytest.raises(InvalidInput, match="index '"):
        build_index(random_vectors(300), factory=factory)


@pytest.mark.parametrize("target", [0.0, -1.0, 1.5, float("nan")])
def test_a_recall_target_out_of_range_is_refused(target: float) -> None:
    with pytest.raises(InvalidInput, match="recall target"):
        build_index(random_vectors(10), recall_target=target)


@pytest.mark.parametrize(
    ("value", "message"),
    [(np.nan, "vector 3 .* not finite"), (np.inf, "vector 3 .* not finite"), (0.0, "vector 3 .* is zero")],
)
def test_vectors_that_have_no_direction_are_refused(value: float, message: str) -> None:
    vectors = random_vectors(6)
    vectors[3] = value

    with pytest.raises(InvalidInput, match=message):
        build_index(vectors)


@pytest.mark.parametrize("vectors", [np.ones((3, 4)), np.ones(4, dtype=np.float32), np.empty((0, 4), dtype=np.float32)])
def test_vectors_of_another_shape_or_type_are_refused(vectors: np.ndarray) -> None:
    with pytest.raises(InvalidInput, match="expected \\(N, D\\) float32"):
        check_vectors(vectors)


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e18])
def test_norms_far_from_one_do_not_change_the_ranking(scale: float) -> None:
    vectors = random_vectors(50)
    expected = build_index(vectors).index.search(vectors, 5)[1]

    scaled = (vectors * np.float32(scale)).astype(np.float32)

    np.testing.assert_array_equal(build_index(scaled).index.search(scaled, 5)[1], expected)


def test_a_damaged_or_missing_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "index.faiss"
    with pytest.raises(ArtifactNotFound, match=r"index\.faiss"):
        load_index(path, {})
    save_index(build_index(random_vectors(50)).index, path)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ArtifactCorrupt, match=r"index\.faiss"):
        load_index(path, {})
