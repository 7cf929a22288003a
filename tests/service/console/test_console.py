"""The console's page, its files, and what it is told of a catalogue; test_console_*.py looks at it with a browser."""

import fnmatch
import gzip
import re
import tomllib
from pathlib import Path

import httpx2
import numpy as np
import pyarrow as pa
import pytest

from model_store.catalogue.catalogue import Catalogue
from service.console.attributes import MAX_ATTRIBUTES, MAX_VALUES, NUM_BINS, Attribute, describe_attributes
from service.settings import ApiKey, Settings, load_settings
from tests.shop import running_app

ROOT = Path(__file__).parents[3]
CONSOLE = ROOT / "service/console"
STATIC = CONSOLE / "static"
KEY = ApiKey(
    name="shop",
    sha256="2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b",  # "secret"
    scopes=frozenset({"recommend"}),
)


def addresses(page: str) -> list[str]:
    return re.findall(r'(?:href|src)="(console/static/[^"]+)"', page)


async def test_the_page_and_all_that_it_names_are_served(client: httpx2.AsyncClient) -> None:
    page = await client.get("/")
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "{{" not in page.text
    named = addresses(page.text)
    assert {Path(address).name for address in named} == {path.name for path in STATIC.iterdir()}
    for address in named:
        answer = await client.get(f"/{address}")
        assert answer.status_code == 200, address
        assert answer.content == (STATIC / Path(address).name).read_bytes()
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"


async def test_a_browser_that_has_the_page_is_told_so(client: httpx2.AsyncClient) -> None:
    first = await client.get("/")
    again = await client.get("/", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert first.headers["cache-control"] == "no-cache"
    assert (await client.get("/", headers={"if-none-match": '"another"'})).status_code == 200


async def test_files_are_compressed_for_those_who_take_it(client: httpx2.AsyncClient) -> None:
    address = next(it for it in addresses((await client.get("/")).text) if it.endswith("main.js"))
    plain = await client.get(f"/{address}", headers={"accept-encoding": "identity"})
    assert "content-encoding" not in plain.headers
    async with client.stream("GET", f"/{address}", headers={"accept-encoding": "gzip"}) as answer:
        raw = b"".join([chunk async for chunk in answer.aiter_raw()])
        assert answer.headers["content-encoding"] == "gzip"
        assert answer.headers["vary"] == "Accept-Encoding"
    assert len(raw) < len(plain.content) / 2
    assert gzip.decompress(raw) == plain.content


async def test_what_is_no_file_of_this_version_is_not_found(client: httpx2.AsyncClient) -> None:
    version = addresses((await client.get("/")).text)[0].split("/")[2]
    for path in (
        "/console/static/0000000000000000/main.js",
        f"/console/static/{version}/none.js",
        f"/console/static/{version}/..%2f..%2fpage.py",
        f"/console/static/{version}/%2e%2e/page.py",
        f"/console/static/{version}/../page.py",
        f"/console/static/{version}/main.js%00",
        f"/console/static/{version}/",
    ):
        answer = await client.get(path)
        assert answer.status_code == 404, path
        assert answer.headers["content-type"] == "application/problem+json"


async def test_the_page_lets_nothing_in_from_elsewhere_or_inline(client: httpx2.AsyncClient) -> None:
    page = await client.get("/")
    policies = page.headers.get_list("content-security-policy")
    assert len(policies) == 1
    directives = {name: value for name, _, value in (it.strip().partition(" ") for it in policies[0].split(";"))}
    assert directives["default-src"] == "'none'"
    assert {directives[name] for name in ("script-src", "style-src", "connect-src")} == {"'self'"}
    assert directives["img-src"] == "'self' https:"  # the pictures that a catalogue names
    assert directives["frame-ancestors"] == "'none'"
    assert page.headers["x-content-type-options"] == "nosniff"
    assert "<style" not in page.text
    assert not re.search(r"\son[a-z]+=|\sstyle=|<script(?![^>]*\ssrc=)", page.text)


@pytest.mark.parametrize("path", sorted(STATIC.glob("*.js")), ids=lambda path: path.name)
def test_no_script_makes_markup_or_code_of_text(path: Path) -> None:
    script = path.read_text()
    forbidden = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|createContextualFragment|srcdoc"
    assert not re.search(rf"{forbidden}|\beval\(|new Function|javascript:", script)
    for module in re.findall(r'from "([^"]+)"|import\("([^"]+)"\)', script):
        name = "".join(module)
        assert name.startswith("./")
        assert (STATIC / name).is_file()


def test_no_file_loads_anything_from_another_site() -> None:
    for path in [*STATIC.iterdir(), CONSOLE / "index.html"]:
        foreign = set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+", path.read_text())) - {"http://www.w3.org"}
        assert not foreign, path
        assert not re.search(r"@import|url\(", path.read_text()), path


def test_an_installed_package_has_every_file_of_the_console() -> None:
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["service"]
    for path in CONSOLE.rglob("*"):
        if path.is_file() and path.suffix not in {".py", ".pyc"}:
            name = path.relative_to(ROOT / "service").as_posix()
            assert any(fnmatch.fnmatch(name, pattern) for pattern in patterns), name


@pytest.mark.parametrize(
    ("host", "console", "is_there"),
    [("127.0.0.1", None, True), ("127.0.0.1", False, False), ("0.0.0.0", None, False), ("0.0.0.0", True, True)],
)
async def test_it_is_there_on_loopback_or_when_it_is_wanted(
    settings: Settings, host: str, console: bool | None, is_there: bool
) -> None:
    changed = settings.model_copy(update={"host": host, "console": console, "allow_anonymous": True})
    async with running_app(changed) as (_, client):
        page = await client.get("/")
        catalogue = await client.get("/console/catalogue")
        assert page.status_code == catalogue.status_code == (200 if is_there else 404)


@pytest.mark.parametrize(("value", "expected"), [("", None), ("1", True), ("0", False)])
def test_the_setting_is_on_off_or_left_to_the_address(
    monkeypatch: pytest.MonkeyPatch, value: str, expected: bool | None
) -> None:
    monkeypatch.setenv("HATSTAND_CONSOLE", value)
    assert load_settings({"HATSTAND_CONSOLE": value}).console is expected


async def test_the_page_needs_no_key_and_the_catalogue_does(settings: Settings) -> None:
    keyed = settings.model_copy(update={"api_keys": (KEY,)})
    async with running_app(keyed) as (_, client):
        page = await client.get("/")
        assert page.status_code == 200
        assert 'data-wants-key="yes"' in page.text
        assert (await client.get("/console/catalogue")).status_code == 401
        answer = await client.get("/console/catalogue", headers={"authorization": "Bearer secret"})
        assert answer.status_code == 200


async def test_the_catalogue_is_described_as_it_is(client: httpx2.AsyncClient) -> None:
    body = (await client.get("/console/catalogue")).json()
    assert (body["kind"], body["num_items"], body["num_attributes"]) == ("hllm", 60, 5)
    attributes = {attribute["name"]: attribute for attribute in body["attributes"]}
    assert list(attributes) == ["category", "price", "stock", "is_new", "tags"]
    assert attributes["category"]["values"] == [{"value": it, "count": 20} for it in ("Audio", "Books", "Garden")]
    assert attributes["tags"]["values"] == [{"value": it, "count": 30} for it in ("even", "odd", "solo")]
    assert attributes["is_new"]["values"] == [{"value": False, "count": 50}, {"value": True, "count": 10}]
    price = attributes["price"]
    assert (price["kind"], price["smallest"], price["largest"], price["num_missing"]) == ("number", 1.0, 59.0, 6)
    assert (len(price["bins"]), sum(price["bins"])) == (NUM_BINS, 54)


async def test_what_is_offered_is_what_a_filter_takes(client: httpx2.AsyncClient) -> None:
    attributes = (await client.get("/console/catalogue")).json()["attributes"]
    for attribute in attributes:
        if attribute["kind"] == "number":
            conditions = [({"gte": attribute["smallest"], "lte": attribute["largest"]}, 60 - attribute["num_missing"])]
        else:
            conditions = [({"any_of": [it["value"]]}, it["count"]) for it in attribute["values"]]
        for condition, count in conditions:
            body = {"history": [], "k": 60, "filter": {attribute["name"]: condition}}
            answer = await client.post("/recommend", json=body)
            assert len(answer.json()["items"]) == count, (attribute["name"], condition)


async def test_the_other_model_has_its_own_catalogue(both_client: httpx2.AsyncClient) -> None:
    for kind in ("hllm", "hatllm"):
        assert (await both_client.get(f"/console/catalogue?model={kind}")).json()["kind"] == kind
    assert (await both_client.get("/console/catalogue?model=none")).json()["code"] == "unknown_model"


def described(**columns: pa.Array) -> dict[str, Attribute]:
    rows = len(next(iter(columns.values())))
    table = pa.table({"item_id": [f"i{row}" for row in range(rows)], "title": ["it"] * rows, **columns})
    return {attribute.name: attribute for attribute in describe_attributes(Catalogue.from_table(table))}


def test_odd_attributes_are_described_or_left_alone() -> None:
    found = described(
        empty=pa.nulls(3),
        none=pa.array([None, None, None], pa.string()),
        nan=pa.array([float("nan"), None, float("inf")]),
        wide=pa.array([-1.7e308, 0.0, 1.7e308]),
        same=pa.array([2, 2, 2], pa.int32()),
        big=pa.array([0, 2**63 - 1, None], pa.int64()),
        coded=pa.array(["a", "b", "a"]).dictionary_encode(),
        lists=pa.array([["a", "b"], [], None]),
        numbers=pa.array([[1], [2], None]),
        record=pa.array([{"a": 1}, None, {"a": 2}]),
        large=pa.array(["x", None, "x"], pa.large_string()),
    )
    assert found["empty"].kind == found["numbers"].kind == found["record"].kind == "other"
    assert (found["none"].kind, found["none"].values, found["none"].num_missing) == ("words", [], 3)
    assert (found["nan"].kind, found["nan"].smallest, found["nan"].num_missing) == ("number", None, 2)
    assert (found["wide"].smallest, found["wide"].largest) == (-1.7e308, 1.7e308)
    assert [at for at, count in enumerate(found["wide"].bins) if count] == [0, NUM_BINS // 2, NUM_BINS - 1]
    assert (found["same"].smallest, found["same"].largest, sum(found["same"].bins)) == (2.0, 2.0, 3)
    assert found["big"].num_missing == 1
    assert [(it.value, it.count) for it in found["coded"].values] == [("a", 2), ("b", 1)]
    assert ([it.value for it in found["lists"].values], found["lists"].num_missing) == (["a", "b"], 2)
    assert [(it.value, it.count) for it in found["large"].values] == [("x", 2)]


def test_a_description_is_bounded_whatever_the_catalogue() -> None:
    rows = 500
    columns = {f"a{number}": pa.array(np.arange(rows)) for number in range(MAX_ATTRIBUTES + 5)}
    assert len(described(**columns)) == MAX_ATTRIBUTES
    words = described(names=pa.array([f"value {row}" for row in range(rows - 2)] + ["x" * 10_000] * 2))["names"]
    assert len(words.values) == MAX_VALUES
    assert words.num_distinct == rows - 1
    assert max(len(str(it.value)) for it in words.values) < 100
