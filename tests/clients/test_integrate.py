"""docs/integrate.md: all blocks of a language, one after the other, against a real service."""

import re
import subprocess
import sys
from pathlib import Path

from hatstand_client import Client
from offline.dataset.formats.rows import Interaction, Item
from offline.dataset.writer import WriteOptions, write_dataset
from tests.clients.conftest import KEYS
from tests.clients.javascript.test_hatstand import find_node
from tests.processes.service_process import ServiceProcess

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/integrate.md").read_text()


def _program(language: str, service: ServiceProcess) -> str:
    blocks = re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    assert len(blocks) > 8
    text = "".join(blocks)
    assert text.count("http://127.0.0.1:8000") == text.count("YOUR-KEY") == 1
    return text.replace("http://127.0.0.1:8000", service.url).replace("YOUR-KEY", KEYS["shop"])


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-4_000:]
    return done.stdout


def _history(service: ServiceProcess, user_id: str) -> list[tuple[str, str]]:
    with Client(service.url, api_key=KEYS["operator"]) as client:
        return [(event.type, event.item_id) for event in client.user_history(user_id).history]


def test_the_python_of_the_page_runs(shop_service: ServiceProcess, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(_program("python", shop_service))
    printed = _run([sys.executable, str(program)])
    assert "events moved" in printed
    assert "422 invalid_request /k:" in printed
    assert "accepted=2" in printed
    assert ("purchase", re.findall(r"^\d (i\d+) ", printed, re.MULTILINE)[1]) in _history(shop_service, "customer-7")
    assert _history(shop_service, "customer-9") == [("click", "i1"), ("click", "i2")]


def test_the_javascript_of_the_page_runs(shop_service: ServiceProcess, tmp_path: Path) -> None:
    program = tmp_path / "program.mjs"
    module = (ROOT / "clients/javascript/hatstand.js").as_uri()
    # Node has no localStorage; a page does.
    storage = "const kept = new Map();\nglobalThis.localStorage = { getItem: (name) => kept.get(name) ?? null, " + (
        "setItem: (name, value) => kept.set(name, value) };\n"
    )
    program.write_text(storage + _program("javascript", shop_service).replace('"./hatstand.js"', f'"{module}"'))
    printed = _run([find_node(), str(program)])
    assert "2 events moved" in printed
    assert "422 invalid_request /k:" in printed
    assert sorted(kind for kind, _ in _history(shop_service, "customer-8")) == ["click", "purchase"]
    assert _history(shop_service, "customer-10") == [("click", "i1"), ("click", "i2")]


def test_the_command_of_the_page_makes_the_users_of_a_dataset_known(
    shop_service: ServiceProcess, tmp_path: Path
) -> None:
    items = [Item(f"i{number}", f"thing {number}", {}) for number in range(1, 61)]
    log = [Interaction("from-the-log", f"i{number}", 1_700_000_000 + number, "click") for number in range(1, 5)]
    log.append(Interaction("somebody-else", "i9", 1_700_000_000))
    write_dataset(tmp_path / "dataset", items=items, interactions=log, options=WriteOptions(source="test"))
    [command] = re.findall(r"^\.venv/bin/python (-m offline\.load_histories .*)$", PAGE, re.MULTILINE)
    redis_url = shop_service.settings["redis_url"]
    arguments = [
        {"dataset": str(tmp_path / "dataset"), "redis://localhost:6379/0": redis_url}.get(word, word)
        for word in command.split()
    ]
    with Client(shop_service.url, api_key=KEYS["operator"]) as client:
        assert client.recommend(user_id="from-the-log").source == "fallback:popular"
        _run([sys.executable, *arguments])
        assert client.recommend(user_id="from-the-log").source == "model"
    assert _history(shop_service, "from-the-log") == [("click", f"i{number}") for number in range(1, 5)]
