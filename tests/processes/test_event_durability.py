"""What a killed Redis costs in acknowledged events, with each setting of its append-only file."""

from pathlib import Path

import pytest

from benchmarks.event_durability import measure


@pytest.mark.parametrize("kills", [1, pytest.param(8, marks=pytest.mark.slow)])
async def test_synced_on_every_write_nothing_that_was_acknowledged_is_lost(tmp_path: Path, kills: int) -> None:
    figures = await measure("always", clients=8, kills=kills, seconds=0.5, directory=tmp_path)
    assert figures.acknowledged > 20
    assert figures.kills == kills
    assert figures.lost == 0


@pytest.mark.slow
async def test_synced_every_second_no_more_is_lost_than_the_last_two_seconds_of_each_kill(tmp_path: Path) -> None:
    figures = await measure("everysec", clients=8, kills=8, seconds=3.0, directory=tmp_path)
    assert figures.acknowledged > 100
    assert figures.lost <= 2 * figures.events_per_second * figures.kills
    # in fact it is hardly anything: only what waits for a sync is not in the file
    assert figures.lost < figures.acknowledged / 100
