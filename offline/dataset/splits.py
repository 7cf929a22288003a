"""Divides a dataset's interactions into training, validation and test.

Training never sees an interaction that is a validation or test target, nor anything after one of the same
user.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from model_store.errors import InvalidInput
from offline.dataset.dataset import Dataset, UserSequences

_EVENTS_TO_LEAVE_ONE_OUT = 3


class SplitName(StrEnum):
    """How interactions are divided into training, validation and test."""

    LEAVE_ONE_OUT = "leave-one-out"
    TEMPORAL = "temporal"


@dataclass(frozen=True)
class EvaluationCases:
    """C questions: given a user's history up to here, which item is next?

    Attributes:
        sequences: All interactions; the histories are slices of them.
        user_rows: (C,) int64, row of the user in ``sequences``.
        history_ends: (C,) int64 in the flat arrays; the history is ``[offsets[user_row], history_end)``,
            never empty.
        targets: (C,) int64 item_index, 1..N.
    """

    sequences: UserSequences
    user_rows: np.ndarray
    history_ends: np.ndarray
    targets: np.ndarray

    def __len__(self) -> int:
        return len(self.targets)


@dataclass(frozen=True)
class Split:
    """Training interactions, and the cases that choose and that judge a model."""

    train: UserSequences
    validation: EvaluationCases
    test: EvaluationCases


@dataclass(frozen=True)
class LeftOut:
    """What an evaluation on some cases does not measure.

    Attributes:
        num_users: All users.
        num_users_without_case: Those of whom no case is.
        num_cases: All cases.
        num_repeats: Cases whose target is in the user's history already.
    """

    num_users: int
    num_users_without_case: int
    num_cases: int
    num_repeats: int

    def sentences(self, split: SplitName, *, exclude_seen: bool) -> list[str]:
        """Says what is left out, and why.

        Args:
            split: That the cases are of.
            exclude_seen: Whether items of the history are not ranked.
        """
        found = []
        if self.num_users_without_case:
            reason = (
                f"they have fewer than {_EVENTS_TO_LEAVE_ONE_OUT} interactions, one each for training, validation and "
                "test"
                if split == SplitName.LEAVE_ONE_OUT
                else "they have no interaction in that time, or none before it"
            )
            found.append(f"{self.num_users_without_case} of {self.num_users} users are not measured: {reason}")
        if self.num_repeats and exclude_seen:
            found.append(
                f"{self.num_repeats} of {self.num_cases} targets are in the user's history already and count as "
                "missed, for items of the history are not ranked; measure repeat purchases with --include-seen"
            )
        return found


def count_left_out(cases: EvaluationCases) -> LeftOut:
    """Counts what an evaluation on some cases does not measure."""
    starts = cases.sequences.offsets[cases.user_rows]
    histories = zip(starts.tolist(), cases.history_ends.tolist(), cases.targets.tolist(), strict=True)
    items = cases.sequences.item_indices
    num_users = len(cases.sequences)
    return LeftOut(
        num_users=num_users,
        num_users_without_case=num_users - len(np.unique(cases.user_rows)),
        num_cases=len(cases),
        num_repeats=sum(bool((items[start:end] == target).any()) for start, end, target in histories),
    )


def leave_one_out(sequences: UserSequences) -> Split:
    """Each user's last interaction is the test target, the one before it the validation target.

    A user with fewer than three interactions has no target and is in training as a whole.

    Args:
        sequences: All interactions.

    Raises:
        InvalidInput: Fewer than two users, or none has three interactions.
    """
    _check_users(sequences)
    users = np.flatnonzero(sequences.lengths >= _EVENTS_TO_LEAVE_ONE_OUT)
    if not len(users):
        raise InvalidInput(
            f"none of {len(sequences)} users has {_EVENTS_TO_LEAVE_ONE_OUT} interactions (the most is "
            f"{int(sequences.lengths.max())}): leave-one-out needs one each for training, validation and test"
        )
    kept = sequences.lengths.copy()
    kept[users] -= 2
    ends = sequences.offsets[users + 1]
    return Split(
        train=_prefixes(sequences, kept),
        validation=_cases(sequences, users, ends - 2),
        test=_cases(sequences, users, ends - 1),
    )


def temporal(sequences: UserSequences, *, validation: float = 0.1, test: float = 0.1) -> Split:
    """Training is everything before one moment; every later interaction with a history is a target.

    As in production, the model is of the past but the history is fresh: a case's history holds all earlier
    interactions of the user, those after the moment too.

    Args:
        sequences: All interactions, timestamps on one clock (seconds, not ranks within users).
        validation: Fraction of the interactions, in 0..1, between training and test.
        test: Fraction of the interactions, in 0..1, at the end.

    Raises:
        InvalidInput: Fractions out of range, fewer than two users, or a part would be empty.
    """
    if not (0 < validation < 1 and 0 < test < 1 and validation + test < 1):
        raise InvalidInput(
            f"split fractions validation={validation} and test={test}: expected each in 0..1, together below 1"
        )
    _check_users(sequences)
    times = np.sort(sequences.timestamps)
    validation_start = times[int(len(times) * (1 - validation - test))]
    test_start = times[int(len(times) * (1 - test))]
    is_train = sequences.timestamps < validation_start
    is_test = sequences.timestamps >= test_start
    split = Split(
        train=_prefixes(sequences, _counts_per_user(sequences, is_train)),
        validation=_cases_where(sequences, ~is_train & ~is_test),
        test=_cases_where(sequences, is_test),
    )
    for name, size in (
        ("training interactions", len(split.train.item_indices)),
        ("validation cases", len(split.validation)),
        ("test cases", len(split.test)),
    ):
        if not size:
            raise InvalidInput(
                f"a temporal split at {validation_start} and {test_start} leaves no {name}: timestamps span "
                f"{times[0]}..{times[-1]}; use the leave-one-out split"
            )
    return split


def is_held_out(item_ids: Sequence[str], fraction: float, seed: int) -> np.ndarray:
    """Chooses items by a hash of their id: the same ones in every job, whatever else is in the catalogue.

    Args:
        item_ids: N ids.
        fraction: Expected fraction to choose, in 0..1.
        seed: Another seed chooses other items.

    Returns:
        (N,) bool.

    Raises:
        InvalidInput: ``fraction`` is out of range.
    """
    if not 0 <= fraction < 1:
        raise InvalidInput(f"fraction of items to hold out is {fraction}: expected at least 0 and below 1")
    limit = int(fraction * 2**64)
    hashes = (hashlib.blake2b(f"{seed}:{item_id}".encode(), digest_size=8).digest() for item_id in item_ids)
    return np.fromiter((int.from_bytes(digest) < limit for digest in hashes), dtype=bool, count=len(item_ids))


def without_items(sequences: UserSequences, is_out: np.ndarray) -> UserSequences:
    """Drops interactions with some items, and users who have no others. For training only.

    Args:
        sequences: Interactions.
        is_out: (N,) bool, row = item_index - 1.
    """
    return _select(sequences, ~is_out[sequences.item_indices - 1])


def _check_users(sequences: UserSequences) -> None:
    if len(sequences) < 2:
        raise InvalidInput(f"the dataset has {len(sequences)} user(s), expected at least 2 to train and evaluate")


def _prefixes(sequences: UserSequences, lengths: np.ndarray) -> UserSequences:
    """The first ``lengths[i]`` interactions of each user."""
    positions = np.arange(len(sequences.item_indices)) - np.repeat(sequences.offsets[:-1], sequences.lengths)
    return _select(sequences, positions < np.repeat(lengths, sequences.lengths))


def _select(sequences: UserSequences, is_kept: np.ndarray) -> UserSequences:
    counts = _counts_per_user(sequences, is_kept)
    return UserSequences(
        user_ids=[user for user, count in zip(sequences.user_ids, counts, strict=True) if count],
        offsets=np.concatenate([[0], np.cumsum(counts[counts > 0])]).astype(np.int64),
        item_indices=sequences.item_indices[is_kept],
        timestamps=sequences.timestamps[is_kept],
    )


def _counts_per_user(sequences: UserSequences, is_counted: np.ndarray) -> np.ndarray:
    totals = np.concatenate([[0], np.cumsum(is_counted)]).astype(np.int64)
    return totals[sequences.offsets[1:]] - totals[sequences.offsets[:-1]]


def _cases_where(sequences: UserSequences, is_target: np.ndarray) -> EvaluationCases:
    users = np.repeat(np.arange(len(sequences)), sequences.lengths)
    has_history = np.arange(len(users)) > sequences.offsets[users]
    ends = np.flatnonzero(is_target & has_history)
    return _cases(sequences, users[ends], ends)


def _cases(sequences: UserSequences, user_rows: np.ndarray, ends: np.ndarray) -> EvaluationCases:
    return EvaluationCases(
        sequences=sequences,
        user_rows=user_rows.astype(np.int64),
        history_ends=ends.astype(np.int64),
        targets=sequences.item_indices[ends].astype(np.int64),
    )


def divide(dataset: Dataset, split: SplitName, *, name: str) -> Split:
    """Divides a dataset's interactions.

    Args:
        dataset: The dataset.
        split: How.
        name: Of the dataset, for errors.

    Raises:
        InvalidInput: A temporal split of a dataset without seconds, or a part would be empty.
    """
    if split != SplitName.TEMPORAL:
        return leave_one_out(dataset.sequences())
    if dataset.time_unit != "seconds":
        raise InvalidInput(
            f"{name} has time_unit {dataset.time_unit!r}, expected 'seconds' for a temporal "
            "split; use --split leave-one-out"
        )
    return temporal(dataset.sequences())
