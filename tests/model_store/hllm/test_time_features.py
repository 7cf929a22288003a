from datetime import UTC, datetime

import pytest
import torch

from model_store.hllm.time_features import TimeFeatures, calendar_fields


def test_calendar_fields_are_those_of_the_standard_library() -> None:
    torch.manual_seed(0)
    timestamps = torch.cat(
        [
            torch.randint(-(2**35), 2**32 - 2**28, (5000,)),
            torch.tensor([0, -1, 951_782_400, 951_868_799, 951_868_800, 1_709_164_800, 4_102_444_799]),
        ]
    )
    expected = [
        (t.year, t.month, t.day, t.hour, t.minute, t.second)
        for t in (datetime.fromtimestamp(s, UTC) for s in timestamps.tolist())
    ]
    assert calendar_fields(timestamps).tolist() == [list(row) for row in expected]


@pytest.mark.parametrize(("seconds", "year"), [(2**62, 2099), (884_541_340_800, 2099), (-(2**62), 1)])
def test_times_beyond_the_tables_are_clamped(seconds: int, year: int) -> None:
    assert calendar_fields(torch.tensor([seconds]))[0, 0] == year


def test_time_starts_as_nothing_and_can_be_learned() -> None:
    features = TimeFeatures(16)
    timestamps = torch.randint(0, 2**31, (2, 3))
    assert torch.equal(features(timestamps), torch.zeros(2, 3, 16))
    (features(timestamps) - 1).square().sum().backward()
    assert features.output.weight.grad is not None
    assert features.output.weight.grad.abs().sum() > 0
