"""docs/first-hour.md from beginning to end, each of its commands as it stands there, in an empty folder."""

import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs_commands import ROOT, shell_lines

TEXT = (ROOT / "docs/first-hour.md").read_text()
# installs, or needs an engine: tests/test_docs_commands.py looks at what they name
NOT_HERE = ("make install", "docker compose --profile observability up --build --wait")


def _block(name: str) -> str:
    found = re.search(rf"<!-- {name} -->\n```bash\n(.*?)```", TEXT, re.DOTALL)
    assert found, f"docs/first-hour.md has no block {name}"
    return found[1].replace(".venv/bin/python", shlex.quote(sys.executable))


def _run(script: str, folder: Path) -> list[str]:
    """What its commands print, line by line."""
    script = re.sub(r"^(curl .*?[^\\])$", r"\1; echo", script, flags=re.MULTILINE)
    script = re.sub(r"(  -d '.*)$", r"\1; echo", script, flags=re.MULTILINE).replace("; echo; echo", "; echo")
    done = subprocess.run(
        ["bash", "-euc", script], cwd=folder, capture_output=True, text=True, timeout=240, env=_environment()
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr[-3000:]}"
    return done.stdout.strip().splitlines()


def _environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HATSTAND_")}
    return kept | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | more


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """The folder, and the url of the service that serves it."""
    folder = tmp_path_factory.mktemp("hour")
    for name in ("data", "build", "scenario"):
        _run(_block(name), folder)
    log = folder / "service.log"
    with log.open("w") as stderr:
        # exec: the signal at the end is for the service
        script = (
            _block("serve").strip().replace(" " + shlex.quote(sys.executable), " exec " + shlex.quote(sys.executable))
        )
        variables, _, command = script.partition(" exec ")
        process = subprocess.Popen(
            ["bash", "-euc", f"export {variables}; exec {command}"],
            cwd=folder,
            env=_environment(HATSTAND_PORT="0"),
            stderr=stderr,
        )
    try:
        yield folder, _url(process, log)
    finally:
        process.terminate()
        assert process.wait(timeout=30) == 0


def _url(process: "subprocess.Popen[bytes]", log: Path) -> str:
    for _ in range(600):
        if found := re.search(r"serving on (http://\S+)", log.read_text()):
            return found[1]
        assert process.poll() is None, log.read_text()
        time.sleep(0.1)
    raise TimeoutError(log.read_text())


def _asked(name: str, shop: tuple[Path, str]) -> list[str]:
    folder, url = shop
    return _run(_block(name).replace("http://127.0.0.1:8000", url), folder)


def test_the_scenario_holds_and_an_event_is_counted_in_and_the_numbers_live(shop: tuple[Path, str]) -> None:
    scenarios, answer = map(json.loads, _asked("ask", shop))
    assert [one["name"] for one in scenarios["scenarios"]] == ["home"]
    items = answer["items"]
    assert (answer["source"], answer["scenario"]["name"], len(items)) == ("model", "home", 8)
    assert all(item["fields"]["stock"] >= 1 for item in items)
    genres = [item["fields"]["genre"] for item in items]
    assert max(map(genres.count, genres)) <= 3
    assert items[1]["item_id"] == "book-7"

    reported, following = map(json.loads, _asked("event", shop))
    assert reported["accepted"] == 1
    assert (following["source"], following["history_length"]) == ("model", 1)
    assert "book-1" not in [item["item_id"] for item in following["items"]]

    numbers = "\n".join(_asked("numbers", shop))
    assert re.search(r'^hatstand_recommendations_total\{[^}]*kind="hllm"[^}]*source="model"\} 2\.0$', numbers, re.M)
    assert 'hatstand_events_total{result="accepted"} 1.0' in numbers

    loaded, known = map(json.loads, _asked("load", shop))
    assert (loaded["users"], loaded["events_added"]) == (80, 640)
    assert (known["source"], known["history_length"]) == ("model", 8)
    page = _run(f"curl -s {shop[1]}/", shop[0])
    assert any("Operations" in line for line in page)


def test_nothing_of_the_document_is_left_out() -> None:
    run = "\n".join(_block(name) for name in ("data", "build", "scenario", "serve", "ask", "event", "load", "numbers"))
    run = re.sub(r"\s*\\\n\s*", " ", run.replace(shlex.quote(sys.executable), ".venv/bin/python"))
    for line in shell_lines(ROOT / "docs/first-hour.md"):
        words = " ".join(line.split())
        assert words in NOT_HERE or words in " ".join(run.split()), line
