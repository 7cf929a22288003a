"""Which cases of a dataset an evaluation measures."""

from enum import StrEnum

import numpy as np

from model_store.errors import InvalidInput
from offline.dataset.dataset import Dataset
from offline.dataset.splits import EvaluationCases, Split, SplitName, leave_one_out, temporal


class CaseName(StrEnum):
    """Which part of a split is measured."""

    TEST = "test"
    VALIDATION = "validation"


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


def cases_of(split: Split, part: CaseName) -> EvaluationCases:
    """The cases of one part of a split."""
    return split.test if part == CaseName.TEST else split.validation


def sample_cases(cases: EvaluationCases, size: int, *, seed: int) -> EvaluationCases:
    """A sample without replacement, in the order of the cases; all of them if ``size`` is 0 or too large.

    Args:
        cases: C cases.
        size: How many to choose.
        seed: Another seed chooses others.
    """
    if not 0 < size < len(cases.targets):
        return cases
    chosen = np.random.default_rng(seed).choice(len(cases.targets), size, replace=False)
    chosen.sort()
    return EvaluationCases(
        sequences=cases.sequences,
        user_rows=cases.user_rows[chosen],
        history_ends=cases.history_ends[chosen],
        targets=cases.targets[chosen],
    )
