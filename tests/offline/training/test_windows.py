import numpy as np
import pytest

from model_store.errors import InvalidInput
from offline.dataset.dataset import UserSequences
from offline.dataset.splits import EvaluationCases
from offline.training.windows import LengthGrouped, RankingCases, TrainingWindows, collate_windows


def sequences(*lengths: int) -> UserSequences:
    offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
    return UserSequences(
        user_ids=[f"u{row}" for row in range(len(lengths))],
        offsets=offsets,
        item_indices=np.arange(1, offsets[-1] + 1, dtype=np.int32),
        timestamps=np.arange(offsets[-1], dtype=np.int64),
    )


def test_a_long_history_is_cut_into_windows_aligned_to_its_end() -> None:
    windows = TrainingWindows(sequences(8, 1, 2), max_history_length=2)
    assert [windows[row]["input_ids"].tolist() for row in range(len(windows))] == [
        [6, 7, 8],
        [3, 4, 5],
        [1, 2],
        [10, 11],
    ]


def test_no_user_with_two_events_is_refused() -> None:
    with pytest.raises(InvalidInput, match="two events"):
        TrainingWindows(sequences(1, 1), max_history_length=5)


def test_cases_read_the_latest_events_and_have_seen_all() -> None:
    events = sequences(5)
    cases = EvaluationCases(
        sequences=events, user_rows=np.array([0]), history_ends=np.array([4]), targets=np.array([5])
    )
    case = RankingCases(cases, window=lambda _: 2)[0]
    assert case["input_ids"].tolist() == [3, 4]
    assert case["seen"].tolist() == [1, 2, 3, 4]
    assert case["targets"] == 5


def test_cases_of_targets_that_are_not_allowed_are_left_out() -> None:
    events = sequences(3, 3)
    cases = EvaluationCases(
        sequences=events, user_rows=np.array([0, 1]), history_ends=np.array([2, 5]), targets=np.array([3, 6])
    )
    allowed = np.array([False, True, True, False, True, True, True])
    assert RankingCases(cases, window=lambda _: 2, allowed_targets=allowed)[0]["targets"] == 6
    assert len(RankingCases(cases, window=lambda _: 2, allowed_targets=allowed)) == 1


def test_collation_pads_on_the_right() -> None:
    batch = collate_windows(
        [
            {"input_ids": np.array([1, 2]), "targets": np.asarray(7)},
            {"input_ids": np.array([3]), "targets": np.asarray(8)},
        ]
    )
    assert batch["input_ids"].tolist() == [[1, 2], [3, 0]]
    assert batch["targets"].tolist() == [7, 8]


def test_the_order_of_an_epoch_depends_on_seed_and_epoch_alone() -> None:
    lengths = list(np.random.default_rng(0).integers(2, 50, size=1000))
    first, second = LengthGrouped(lengths, 8, seed=1), LengthGrouped(lengths, 8, seed=1)
    assert list(first) == list(second) == list(first)
    first.set_epoch(1)
    assert list(first) != list(second)
    assert sorted(first) == list(range(1000))


def test_batches_hold_examples_of_about_equal_length() -> None:
    lengths = list(np.random.default_rng(0).integers(2, 50, size=1024))
    order = list(LengthGrouped(lengths, 8, seed=1))
    spans = [np.ptp([lengths[row] for row in order[start : start + 8]]) for start in range(0, 1024, 8)]
    assert np.mean(spans) < 5
