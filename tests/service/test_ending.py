"""The service ends whenever it is told to, also while what runs beside the requests has just begun."""

import asyncio

from service.app import create_app
from service.settings import Settings


async def test_it_ends_at_any_moment_after_it_has_started(settings: Settings) -> None:
    for milliseconds in (0, 1, 1, 2, 3, 5, 8):
        app = create_app(settings)
        async with asyncio.timeout(30), app.router.lifespan_context(app):
            await asyncio.sleep(milliseconds / 1_000)
