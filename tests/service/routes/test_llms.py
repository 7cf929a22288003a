"""``/llms.txt`` is served, and what it names is there."""

import json
import re
from pathlib import Path

from service.settings import Settings
from tests.shop import running_app

ROOT = Path(__file__).parents[3]
PATHS = json.loads((ROOT / "docs/openapi.json").read_text())["paths"]


async def test_it_is_served_and_is_the_file_of_the_root(settings: Settings) -> None:
    async with running_app(settings) as (_, client):
        answer = await client.get("/llms.txt")
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/plain")
        assert answer.text == (ROOT / "llms.txt").read_text()
        for link in re.findall(r"\]\((/[^)]+)\)", answer.text):
            expected = 404 if link == "/mcp" else 200  # off by default, as the file says
            assert (await client.get(link)).status_code == expected, link


def test_every_route_and_option_that_it_names_is_documented() -> None:
    text = (ROOT / "llms.txt").read_text()
    for method, path in re.findall(r"`(GET|POST) (/[^`?]*)", text):
        assert method.lower() in PATHS[path], path
    schemas = json.loads((ROOT / "docs/openapi.json").read_text())["components"]["schemas"]
    options = re.search(r"Options: (.*?)\n\n", text, re.DOTALL)
    assert options
    named = set(re.findall(r"`(\w+)`", re.sub(r"\(.*?\)", "", options[1], flags=re.DOTALL)))
    assert named <= set(schemas["RecommendRequest"]["properties"])
    assert len(named) > 6


async def test_the_requests_that_it_shows_are_answered(settings: Settings) -> None:
    recommend, events = [
        json.loads(one) for one in re.findall(r"^    (\{.*\})$", (ROOT / "llms.txt").read_text(), re.M)
    ]
    async with running_app(settings) as (_, client):
        assert (await client.post("/recommend", json=recommend)).status_code == 200
        assert (await client.post("/events", json=events)).json()["rejected"] == []
