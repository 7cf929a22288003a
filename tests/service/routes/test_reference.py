"""``/docs`` is a page of this service alone."""

import re

from service.settings import Settings
from tests.shop import running_app


async def test_the_page_and_all_that_it_loads_come_from_this_service(settings: Settings) -> None:
    async with running_app(settings) as (_, client):
        page = await client.get("/docs")
        assert page.status_code == 200
        assert "http" not in re.sub(r"<title>.*</title>", "", page.text)
        loaded = re.findall(r'(?:src|href)="([^"]+)"', page.text)
        assert len(loaded) == 3
        for name in loaded:
            file = await client.get(f"/{name}")
            assert file.status_code == 200, name
            assert len(file.content) > 300
            assert file.headers["content-type"].partition(";")[0] in {"text/css", "text/javascript"}
        script = (await client.get("/docs/reference.js")).text
        assert (await client.get("/" + re.search(r'url: "(.+?)"', script)[1])).json()["paths"]


async def test_the_page_may_load_nothing_from_elsewhere(settings: Settings) -> None:
    async with running_app(settings) as (_, client):
        policy = (await client.get("/docs")).headers["content-security-policy"]
    sources = {source for part in policy.split("; ") for source in part.split()[1:]}
    assert sources == {"'none'", "'self'", "data:"}
    assert re.search(r"script-src 'self';", policy)


async def test_no_other_file_is_served(settings: Settings) -> None:
    async with running_app(settings) as (_, client):
        for path in ("/docs/redoc.standalone.js", "/docs/..%2Fcore.py", "/docs/oauth2-redirect", "/redoc"):
            assert (await client.get(path)).status_code == 404, path
