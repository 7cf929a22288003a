"""Tasks beside the requests end when they are told to, even those that do not listen at once."""

import asyncio

import pytest

from service.tasks import end_task


async def test_a_task_that_swallows_cancellations_ends_all_the_same() -> None:
    swallowed = 0

    async def stubborn() -> None:
        nonlocal swallowed
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                swallowed += 1
                if swallowed == 3:
                    raise

    task = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    async with asyncio.timeout(10):
        await end_task(task)
    assert (task.done(), swallowed) == (True, 3)


async def test_what_a_task_ended_with_is_not_lost() -> None:
    async def fails() -> None:
        raise ValueError("broken")

    task = asyncio.create_task(fails())
    await asyncio.sleep(0)
    with pytest.raises(ValueError, match="broken"):
        await end_task(task)
    await end_task(None)
