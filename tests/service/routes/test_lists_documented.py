"""Every request and every file in docs/lists.md works as it stands there."""

import json
import re
from pathlib import Path

import pytest
import yaml

from service.recommend.scenarios import Scenario
from service.settings import Settings
from tests.shop import event, running_app

DOCUMENT = (Path(__file__).parents[3] / "docs/lists.md").read_text()


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", DOCUMENT, re.DOTALL | re.MULTILINE)


@pytest.fixture
def documented_settings(settings: Settings, tmp_path: Path) -> Settings:
    (text,) = _blocks("yaml")
    (tmp_path / "scenarios.yaml").write_text(text)
    return settings.model_copy(update={"scenarios": tmp_path / "scenarios.yaml"})


async def test_every_request_is_answered(documented_settings: Settings) -> None:
    bodies = [json.loads(block) for block in _blocks("json")]
    assert len(bodies) == 6
    async with running_app(documented_settings) as (_, client):
        await client.post("/events", json={"events": [event("u1", "i5", 1)]})
        for body in bodies:
            answer = await client.post("/recommend", json=body)
            assert answer.status_code == 200, answer.text
            assert answer.json()["items"]
            assert not [one for one in answer.json()["warnings"] if not one.startswith("max_per_short")]
        following = {"user_id": "u1", "cursor": answer.json()["next_cursor"], "k": 20}
        assert len((await client.post("/recommend", json=following)).json()["items"]) == 20
        refused = await client.post("/recommend", json={"user_id": "u", "filter": {"or": [{"stock": {"gte": "ten"}}]}})
        assert refused.json()["detail"] in DOCUMENT


async def test_every_command_does_what_it_says(documented_settings: Settings) -> None:
    commands = re.findall(r"^curl -s (?:-X (POST) )?localhost:8000(\S+)$", DOCUMENT, re.MULTILINE)
    assert len(commands) == 3
    async with running_app(documented_settings) as (_, client):
        for method, path in commands:
            assert (await client.request(method or "GET", path)).status_code == 200


def test_the_scenario_shows_every_key_that_there_is() -> None:
    (text,) = _blocks("yaml")
    assert set(yaml.safe_load(text)["scenarios"]["home"]) == set(Scenario.model_fields)


@pytest.mark.parametrize("name", ["hatstand_retrieval_plans_total"])
async def test_what_is_counted_is_counted(documented_settings: Settings, name: str) -> None:
    async with running_app(documented_settings) as (_, client):
        body = {"history": ["i5"], "filter": {"stock": {"lte": 6}}}
        for _ in range(2):
            await client.post("/recommend", json=body)
        assert f'{name}{{plan="exact_scan"}} 2.0' in (await client.get("/metrics")).text
