"""Runs what the README tells a newcomer to run, on a small catalogue of their own."""

import csv
import json
import os
import re
import shlex
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from model_store.artifacts.store import ModelStore
from offline.shop.demo_shop import generate_shop

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def _block(name: str) -> str:
    match = re.search(rf"<!-- {name} -->\n```\w*\n(.*?)```", README, re.DOTALL)
    assert match, f"README has no block {name}"
    return match[1]


def _run(command: str, folder: Path) -> dict[str, object]:
    """Runs a README command in a folder; returns the JSON of its last line."""
    done = subprocess.run(
        ["bash", "-euc", command.replace(".venv/bin/python", shlex.quote(sys.executable))],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr[-3000:]}"
    return json.loads(done.stdout.strip().splitlines()[-1])


@pytest.fixture(scope="module")
def own_catalogue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with items.jsonl and interactions.csv, as the README asks for."""
    folder = tmp_path_factory.mktemp("own")
    generate_shop(folder / "shop", num_items=200, num_users=60, seed=3)
    items = pq.read_table(folder / "shop/items.parquet").to_pylist()
    (folder / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    interactions = pq.read_table(folder / "shop/interactions.parquet", columns=["user_id", "item_id", "timestamp"])
    with (folder / "interactions.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["user_id", "item_id", "timestamp"])
        writer.writeheader()
        writer.writerows(interactions.to_pylist())
    return folder


@pytest.fixture(scope="module")
def service(own_catalogue: Path) -> Iterator[str]:
    """The README's one command line: builds, then serves; its url."""
    build, serve = _block("build").split("&&")
    _run(build.replace("\\\n", " ").rstrip("\\ \n"), own_catalogue)
    assignment, *command = shlex.split(serve)
    name, value = assignment.split("=")
    environment = {key: val for key, val in os.environ.items() if not key.startswith("HATSTAND_")}
    log = own_catalogue / "service.log"
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, *command[1:]],
            cwd=own_catalogue,
            env={**environment, name: value, "HATSTAND_PORT": "0"},
            stderr=stderr,
        )
    try:
        yield _url(process, log)
    finally:
        process.terminate()
        assert process.wait(timeout=30) == 0


def _url(process: subprocess.Popen[bytes], log: Path) -> str:
    for _ in range(600):
        if match := re.search(r"serving on (http://\S+)", log.read_text()):
            return match[1]
        assert process.poll() is None, log.read_text()
        time.sleep(0.1)
    pytest.fail(f"the service did not start: {log.read_text()}")


def test_the_request_of_the_readme_gets_an_answer_of_the_shown_form(service: str) -> None:
    command = shlex.split(_block("request").replace("\\\n", " "))
    body = json.loads(command[command.index("-d") + 1])
    answer = _post(service + "/recommend", body)
    shown = json.loads(_block("answer"))
    assert set(answer) == set(shown)
    assert len(answer["items"]) == len(shown["items"]) == body["k"]
    assert set(answer["items"][0]) == set(shown["items"][0])
    assert set(answer["timing_ms"]) == set(shown["timing_ms"])


def test_an_event_changes_the_next_recommendation(service: str, own_catalogue: Path) -> None:
    first, *_ = (own_catalogue / "items.jsonl").read_text().splitlines()
    item_id = json.loads(first)["item_id"]
    before = _post(service + "/recommend", {"user_id": "newcomer", "k": 5})
    events = {"events": [{"event_id": "e1", "user_id": "newcomer", "item_id": item_id, "timestamp": 1_700_000_000}]}
    assert _post(service + "/events", events)["accepted"] == 1
    after = _post(service + "/recommend", {"user_id": "newcomer", "k": 5})
    assert before["source"] == "fallback:popular"
    assert after["source"] == "model"
    assert item_id not in [item["item_id"] for item in after["items"]]


def test_the_steps_of_the_readme_end_in_a_report(own_catalogue: Path) -> None:
    model_id = ""
    for line in _block("steps").strip().splitlines():
        figures = _run(line.replace("MODEL_ID", model_id), own_catalogue)
        model_id = str(figures.get("model_id", model_id))
    report = json.loads((own_catalogue / "report.json").read_text())
    assert report["num_items"] == 200


def test_the_nightly_commands_of_the_readme_run_night_after_night(own_catalogue: Path) -> None:
    store = ModelStore(own_catalogue / "store")
    items = (own_catalogue / "items.jsonl").read_text().splitlines()
    model_id, before = store.models()[0].model_id, store.live().bundles["hllm"]
    for night in (1, 2):
        newcomer = json.dumps({**json.loads(items[0]), "item_id": f"new-{night}", "title": f"Lamp of night {night}"})
        items.append(newcomer)
        (own_catalogue / "items.jsonl").write_text("\n".join(items) + "\n")
        figures = {}
        for line in _block("night").strip().splitlines():
            figures = _run(line.replace("MODEL_ID", model_id), own_catalogue)
        assert (figures["embedded"], figures["reused"]) == (1, 199 + night), figures
        live = store.live().bundles["hllm"]
        assert live != before
        before = live


def test_every_target_of_the_makefile_that_the_readme_names_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"^make ([a-z]+)", README, re.MULTILINE)) <= targets


def test_the_changelog_starts_with_the_version_of_the_package() -> None:
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version
    assert re.search(r"^## (\d\S*)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[1] == version[1]


def _post(url: str, body: dict[str, object]) -> dict[str, object]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return json.loads(response.read())
    except urllib.error.HTTPError as error:
        pytest.fail(f"{error.code}: {error.read()!r}")
