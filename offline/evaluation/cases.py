"""Which cases of a dataset an evaluation measures."""

from enum import StrEnum

import numpy as np

from offline.dataset.splits import EvaluationCases, Split


class CaseName(StrEnum):
    """Which part of a split is measured."""

    TEST = "test"
    VALIDATION = "validation"


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
