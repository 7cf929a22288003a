from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_store.errors import InvalidInput
from offline.dataset.dataset import UserSequences
from offline.dataset.splits import (
    EvaluationCases,
    SplitName,
    count_left_out,
    is_held_out,
    leave_one_out,
    temporal,
    without_items,
)
from tests.offline.datasets import sequences_of


def _history(cases: EvaluationCases, case: int) -> list[int]:
    start = cases.sequences.offsets[cases.user_rows[case]]
    return cases.sequences.item_indices[start : cases.history_ends[case]].tolist()


def _items_by_user(sequences: UserSequences) -> dict[str, list[int]]:
    return {user: sequences.user(row).item_indices.tolist() for row, user in enumerate(sequences.user_ids)}


def test_leave_one_out_takes_the_last_two_events_of_each_user() -> None:
    split = leave_one_out(sequences_of([(1, 0), (2, 1), (3, 2), (4, 3)], [(5, 0), (6, 1), (7, 2)]))

    assert _items_by_user(split.train) == {"u0": [1, 2], "u1": [5]}
    assert split.validation.targets.tolist() == [3, 6]
    assert [_history(split.validation, case) for case in (0, 1)] == [[1, 2], [5]]
    assert split.test.targets.tolist() == [4, 7]
    assert [_history(split.test, case) for case in (0, 1)] == [[1, 2, 3], [5, 6]]


def test_leave_one_out_trains_on_all_events_of_users_too_short_to_evaluate() -> None:
    split = leave_one_out(sequences_of([(1, 0), (2, 1)], [(3, 0), (4, 1), (5, 2)]))

    assert _items_by_user(split.train) == {"u0": [1, 2], "u1": [3]}
    assert split.test.user_rows.tolist() == [1]


@pytest.mark.parametrize("split", [leave_one_out, temporal])
def test_one_user_is_refused(split: object) -> None:
    with pytest.raises(InvalidInput, match=r"has 1 user\(s\), expected at least 2"):
        split(sequences_of([(1, 0), (2, 1), (3, 2)]))  # type: ignore[operator]


def test_leave_one_out_refuses_a_dataset_in_which_nobody_has_three_events() -> None:
    with pytest.raises(InvalidInput, match=r"none of 2 users has 3 interactions \(the most is 2\)"):
        leave_one_out(sequences_of([(1, 0), (2, 1)], [(3, 0)]))


def test_temporal_targets_are_all_later_events_that_have_a_history() -> None:
    early = [(item, item) for item in range(1, 9)]
    split = temporal(sequences_of(early, [(9, 8), (1, 9)], [(2, 10), (3, 11)]), validation=0.2, test=0.2)

    # 12 events: validation begins at the 8th timestamp (8), test at the 10th (9)
    assert _items_by_user(split.train) == {"u0": [1, 2, 3, 4, 5, 6, 7]}
    assert split.validation.targets.tolist() == [8]
    assert split.test.targets.tolist() == [1, 3]
    assert [_history(split.test, case) for case in (0, 1)] == [[9], [2]]


@pytest.mark.parametrize(("validation", "test"), [(0.0, 0.1), (0.1, 1.0), (0.5, 0.5), (-0.1, 0.1)])
def test_temporal_refuses_fractions_that_leave_nothing(validation: float, test: float) -> None:
    with pytest.raises(InvalidInput, match="split fractions"):
        temporal(sequences_of([(1, 0)], [(2, 1)]), validation=validation, test=test)


def test_temporal_says_which_part_would_be_empty() -> None:
    with pytest.raises(InvalidInput, match="leaves no training interactions: timestamps span 5..5"):
        temporal(sequences_of([(1, 5), (2, 5)], [(3, 5)]))


def test_held_out_items_depend_on_id_and_seed_alone() -> None:
    ids = [f"item-{number}" for number in range(2_000)]

    chosen = is_held_out(ids, 0.1, seed=1)

    assert 150 < chosen.sum() < 250
    assert is_held_out(ids[::-1], 0.1, seed=1).tolist() == chosen[::-1].tolist()
    assert is_held_out(ids, 0.1, seed=2).tolist() != chosen.tolist()
    assert not is_held_out(ids, 0.0, seed=1).any()
    assert (is_held_out(ids, 0.2, seed=1) >= chosen).all()


def test_fraction_to_hold_out_is_checked() -> None:
    with pytest.raises(InvalidInput, match="fraction of items to hold out is 1.5"):
        is_held_out(["a"], 1.5, seed=0)


def test_without_items_drops_their_events_and_users_left_with_none() -> None:
    kept = without_items(sequences_of([(1, 0), (2, 1), (1, 2)], [(2, 0)], [(3, 5)]), np.array([False, True, False]))

    assert _items_by_user(kept) == {"u0": [1, 1], "u2": [3]}
    assert kept.timestamps.tolist() == [0, 2, 5]


_HISTORIES = st.lists(
    st.lists(st.tuples(st.integers(1, 9), st.integers(0, 50)), min_size=1, max_size=8).map(
        lambda events: sorted(events, key=lambda event: event[1])
    ),
    min_size=2,
    max_size=8,
)


@given(_HISTORIES)
def test_leave_one_out_divides_without_loss_or_leak(histories: Sequence[Sequence[tuple[int, int]]]) -> None:
    sequences = sequences_of(*histories)
    if max(map(len, histories)) < 3:
        return
    split = leave_one_out(sequences)

    trained = _items_by_user(split.train)
    assert len(split.train.item_indices) + len(split.validation) + len(split.test) == sum(map(len, histories))
    for case, row in enumerate(split.test.user_rows.tolist()):
        items = [item for item, _ in histories[row]]
        assert [*_history(split.test, case), int(split.test.targets[case])] == items
        assert [*_history(split.validation, case), int(split.validation.targets[case])] == items[:-1]
        assert trained[f"u{row}"] == items[:-2]


@given(_HISTORIES, st.floats(0.05, 0.45), st.floats(0.05, 0.45))
def test_temporal_training_is_wholly_before_every_target(
    histories: Sequence[Sequence[tuple[int, int]]], validation: float, test: float
) -> None:
    sequences = sequences_of(*histories)
    try:
        split = temporal(sequences, validation=validation, test=test)
    except InvalidInput:
        return
    validation_times = sequences.timestamps[split.validation.history_ends]
    test_times = sequences.timestamps[split.test.history_ends]

    assert split.train.timestamps.max() < validation_times.min()
    assert validation_times.max() < test_times.min()
    for cases in (split.validation, split.test):
        starts, ends = sequences.offsets[cases.user_rows], sequences.offsets[cases.user_rows + 1]
        assert ((starts < cases.history_ends) & (cases.history_ends < ends)).all()
        assert cases.targets.tolist() == sequences.item_indices[cases.history_ends].tolist()


def test_users_and_targets_that_are_not_measured_are_said() -> None:
    once = [[(1, number)] for number in range(297)]
    repeat = [[(1, 0), (2, 1), (1, 2)], [(3, 0), (3, 1), (3, 2)], [(1, 0), (2, 1), (3, 2)]]
    left_out = count_left_out(leave_one_out(sequences_of(*once, *repeat)).test)

    assert left_out.sentences(SplitName.LEAVE_ONE_OUT, exclude_seen=True) == [
        "297 of 300 users are not measured: they have fewer than 3 interactions, one each for training, validation and "
        "test",
        "2 of 3 targets are in the user's history already and count as missed, for items of the history are not "
        "ranked; measure repeat purchases with --include-seen",
    ]
    assert len(left_out.sentences(SplitName.LEAVE_ONE_OUT, exclude_seen=False)) == 1


def test_nothing_is_said_where_nothing_is_left_out() -> None:
    left_out = count_left_out(leave_one_out(sequences_of([(1, 0), (2, 1), (3, 2)], [(3, 0), (2, 1), (1, 2)])).test)

    assert left_out.sentences(SplitName.LEAVE_ONE_OUT, exclude_seen=True) == []


@given(_HISTORIES)
def test_users_without_a_case_are_those_without_a_late_interaction_that_has_a_history(
    histories: Sequence[Sequence[tuple[int, int]]],
) -> None:
    try:
        cases = temporal(sequences_of(*histories), validation=0.2, test=0.3).test
    except InvalidInput:
        return

    left_out = count_left_out(cases)

    assert left_out.num_users_without_case == len(histories) - len(set(cases.user_rows.tolist()))
    assert left_out.num_repeats == sum(
        int(target) in _history(cases, case) for case, target in enumerate(cases.targets.tolist())
    )
