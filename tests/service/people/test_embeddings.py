"""What a process remembers of users: bounded in size and age, newest wins, and gone when it is to be forgotten."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_store.people.histories import History
from model_store.people.owner import Owner
from service.people.embeddings import AgedCache, LastEmbeddings, fingerprint
from service.people.interactions import Interactions
from service.people.known_history import LastHistories, ReadHistory
from service.people.remembered import LastKnown
from tests.past import done, past

ANNA, BELA = Owner("anna"), Owner("bela")
SESSION = Owner("anna", is_session=True)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def _history(*items: int) -> History:
    return History(np.array(items, dtype=np.int64), np.arange(len(items), dtype=np.int64))


def _vector(number: float) -> np.ndarray:
    return np.full(4, number, dtype=np.float32)


def _embeddings(clock: Clock, max_bytes: int = 1 << 20) -> LastEmbeddings:
    return LastEmbeddings(max_bytes=max_bytes, max_age_seconds=100, clock=clock)


def test_the_embedding_of_this_very_history_is_told_from_that_of_an_older_one() -> None:
    clock = Clock()
    kept = _embeddings(clock)
    kept.keep(ANNA, "b1", _vector(1), fingerprint(_history(1, 2)))
    found = kept.made_of(ANNA, "b1", fingerprint(_history(1, 2)))
    assert found is not None
    assert found.tolist() == [1, 1, 1, 1]
    for other in (_history(2, 1), _history(1, 2, 3), _history(1), History(np.array([1, 2]), np.array([0, 2]))):
        assert kept.made_of(ANNA, "b1", fingerprint(other)) is None
    clock.now = 7.0
    last = kept.last(ANNA, "b1")
    assert last is not None
    assert (last.value.tolist(), last.age_seconds) == ([1, 1, 1, 1], 7.0)


def test_an_embedding_is_of_one_bundle_and_one_owner() -> None:
    kept = _embeddings(Clock())
    kept.keep(ANNA, "b1", _vector(1), b"f")
    for owner, bundle_id in ((ANNA, "b2"), (BELA, "b1"), (SESSION, "b1")):
        assert kept.last(owner, bundle_id) is None
        assert kept.made_of(owner, bundle_id, b"f") is None
    kept.keep(ANNA, "b2", _vector(2), b"f")
    assert [kept.last(ANNA, bundle_id).value[0] for bundle_id in ("b1", "b2")] == [1, 2]  # type: ignore[union-attr]
    assert kept.forget(ANNA.hash) == 2
    assert kept.forget(ANNA.hash) == 0
    assert kept.last(ANNA, "b1") is None
    assert kept.num_bytes == 0


def test_only_the_newest_few_bundles_of_somebody_are_kept() -> None:
    kept = _embeddings(Clock())
    for number in range(10):
        kept.keep(ANNA, f"b{number}", _vector(number), b"f")
    found = [number for number in range(10) if kept.last(ANNA, f"b{number}") is not None]
    assert found == [6, 7, 8, 9]


def test_an_embedding_ages_but_one_that_is_confirmed_does_not() -> None:
    clock = Clock()
    kept = _embeddings(clock)
    kept.keep(ANNA, "b1", _vector(1), b"f")
    kept.keep(ANNA, "b2", _vector(2), b"g")
    clock.now = 60.0
    assert kept.made_of(ANNA, "b1", b"f") is not None
    clock.now = 130.0
    assert kept.last(ANNA, "b1") is not None
    assert kept.last(ANNA, "b2") is None
    clock.now = 161.0
    assert kept.last(ANNA, "b1") is None
    assert kept.num_bytes == 0


def test_a_kept_embedding_is_not_the_callers_array() -> None:
    kept = _embeddings(Clock())
    vector = _vector(1)
    kept.keep(ANNA, "b1", vector, b"f")
    vector[:] = np.nan
    assert kept.last(ANNA, "b1").value.tolist() == [1, 1, 1, 1]  # type: ignore[union-attr]


def test_nothing_is_kept_without_memory_for_it() -> None:
    kept = _embeddings(Clock(), max_bytes=0)
    kept.keep(ANNA, "b1", _vector(1), b"f")
    assert kept.last(ANNA, "b1") is None
    histories = LastHistories(max_bytes=0, max_age_seconds=9)
    histories.add(ANNA, [done("i1", 1)])
    assert histories.last(ANNA) is None


@settings(max_examples=100, deadline=None)
@given(
    steps=st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 900), st.floats(0, 40)), min_size=1, max_size=60)
)
def test_a_cache_keeps_what_was_used_last_within_its_size_and_age(steps: list[tuple[str, int, float]]) -> None:
    clock = Clock()
    cache: AgedCache[str, int] = AgedCache(max_bytes=3_000, max_age_seconds=100, clock=clock)
    kept: dict[str, tuple[int, int, float]] = {}  # what must be there, what was not used for longest first
    for number, (key, size, wait) in enumerate(steps):
        clock.now += wait
        cache.put(key, number, size)
        kept.pop(key, None)
        kept[key] = (number, size + 512, clock.now)
        kept = {name: one for name, one in kept.items() if clock.now < one[2] + 100}
        while sum(num_bytes for _, num_bytes, _ in kept.values()) > 3_000:
            del kept[next(iter(kept))]
        assert cache.num_bytes == sum(num_bytes for _, num_bytes, _ in kept.values())
        for name in "abcdef":
            found = cache.get(name)
            if name not in kept:
                assert found is None
            else:
                value, _, at = kept[name]
                assert found is not None
                kept[name] = kept.pop(name)
                assert (found.value, found.age_seconds) == (value, pytest.approx(clock.now - at))


def _ids(found: Interactions) -> list[str]:
    return list(found.item_ids)


def test_a_history_is_the_last_read_one_and_what_was_reported_since() -> None:
    clock = Clock()
    kept = LastHistories(max_bytes=1 << 20, max_age_seconds=100, clock=clock)
    assert kept.last(ANNA) is None
    kept.add(ANNA, [done("i1", 1, "click")])
    clock.now = 0.5
    asked_at = kept.now()
    clock.now = 1.0
    kept.add(ANNA, [done("i9", 9, "view"), done("i3", 3, "view")])
    # read before i9 and i3 came; i3 it saw nevertheless
    read = past([done("i2", 2, "click"), done("i3", 3, "view")])
    kept.keep(ANNA, ReadHistory.made_of(read, b"version"), asked_at=asked_at)
    assert kept.last_read(ANNA).version == b"version"  # type: ignore[union-attr]
    assert kept.last_read(ANNA).interactions is read  # type: ignore[union-attr]
    last = kept.last(ANNA)
    assert last is not None
    assert list(last.value.rows()) == [done("i2", 2, "click"), done("i3", 3, "view"), done("i9", 9, "view")]
    clock.now = 2.0
    kept.keep(ANNA, ReadHistory.made_of(past([done("i5", 5)])), asked_at=1.5)
    assert kept.last_read(ANNA) is None  # nobody said which version that is
    assert _ids(kept.last(ANNA).value) == ["i5"]  # type: ignore[union-attr]
    assert kept.forget(ANNA.hash) == 1
    assert kept.last(ANNA) is None


def test_many_small_reports_stay_whole() -> None:
    kept = LastHistories(max_bytes=1 << 20, max_age_seconds=100)
    for number in range(200):
        kept.add(SESSION, [done(f"i{number}", number)])
    assert _ids(kept.last(SESSION).value) == [f"i{number}" for number in range(200)]  # type: ignore[union-attr]
    assert kept.last(ANNA) is None


def test_what_was_read_is_told_from_what_was_reported_and_is_never_a_part() -> None:
    kept = LastHistories(max_bytes=1 << 22, max_age_seconds=100)
    kept.add(ANNA, [done("i1", 1)])
    assert kept.last_read(ANNA) is None
    twice = past([done("i1", 1, "view"), done("i1", 1, "view")])
    kept.keep(ANNA, ReadHistory.made_of(twice, b"a"), asked_at=kept.now())
    assert kept.last_read(ANNA).interactions is twice  # type: ignore[union-attr]
    kept.add(ANNA, [done("i2", 2)])
    assert kept.last_read(ANNA).interactions is twice  # type: ignore[union-attr]
    long = past([done(f"i{number}", number) for number in range(10_001)])
    assert ReadHistory.made_of(long.oldest(10_000), b"a").version == b"a"
    assert ReadHistory.made_of(long, b"a").version is None


def test_forgetting_somebody_reaches_everything_and_is_counted() -> None:
    known = LastKnown(max_bytes=1 << 20, max_age_seconds=100)
    known.embeddings.keep(ANNA, "b1", _vector(1), b"f")
    known.embeddings.keep(SESSION, "b1", _vector(2), b"f")
    known.add(ANNA, [done("i1", 1), done("i2", 2)])
    assert known.forgetting.forget(ANNA.hash) == {"last_embeddings": 1, "last_histories": 2, "last_answers": 0}
    assert known.forgetting.count == 1
    assert known.forgetting.forget(ANNA.hash) == {"last_embeddings": 0, "last_histories": 0, "last_answers": 0}
    assert known.embeddings.last(SESSION, "b1") is not None
    assert known.kept_bytes()["histories"] == 0
