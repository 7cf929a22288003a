"""docs/architecture.md names the files that a real request and a real event pass, and the files that it names exist."""

import asyncio
import re

import pytest

from service.settings import Settings
from tests.followed import ROOT, Follower, installed
from tests.shop import event, running_app

PAGE = (ROOT / "docs/architecture.md").read_text()


def _section(title: str) -> str:
    return PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def _named(text: str) -> set[str]:
    return set(re.findall(r"`((?:service|model_store|offline)/[\w/]+\.py)`", text))


def _check(follower: Follower, title: str) -> None:
    passed = set(follower.files)
    assert passed, "nothing was followed"
    unnamed = passed - _named(_section(title))
    assert not unnamed, f"{title}: the page does not name {sorted(unnamed)}, which the request passed"


async def test_a_recommendation_and_an_event_pass_the_files_that_the_page_names_and_no_others(
    settings: Settings,
) -> None:
    with installed() as follower:
        async with running_app(settings) as (_, client):
            before = [event("walker", f"i{number}", 100 + number) for number in range(5)]
            assert (await client.post("/events", json={"events": before})).json()["accepted"] == 5
            await asyncio.sleep(0.5)  # what is done beside the first request is not the second one's
            with follower.following():
                answer = await client.post("/recommend", json={"user_id": "walker", "k": 5})
            assert answer.json()["source"] == "model"
            _check(follower, "A recommendation")
            follower.files.clear()
            with follower.following():
                answer = await client.post("/events", json={"events": [event("walker", "i9", 200)]})
            assert answer.json()["accepted"] == 1
            _check(follower, "An event")


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`((?:service|model_store|offline|tests)/[\w/.]*)`", PAGE))))
def test_what_the_page_names_exists(path: str) -> None:
    assert (ROOT / path).exists()
