"""The JavaScript client in Node, against a real service."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.clients.conftest import KEYS
from tests.processes.service_process import ServiceProcess

HERE = Path(__file__).parent


def find_node() -> str:
    """Node 18 or later; skips where there is none."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    version = subprocess.run([node, "--version"], check=True, capture_output=True, text=True).stdout
    if int(version.removeprefix("v").split(".")[0]) < 18:
        pytest.skip(f"node is {version.strip()}, expected 18 or later")
    return node


def test_the_javascript_client_works_in_node(shop_service: ServiceProcess) -> None:
    environment = {**os.environ, "HATSTAND_URL": shop_service.url, "HATSTAND_KEY": KEYS["operator"]}
    done = subprocess.run(
        [find_node(), "--test", str(HERE / "hatstand.test.mjs")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout[-6_000:]
    assert "pass 10" in done.stdout, done.stdout[-2_000:]


def test_the_javascript_client_is_one_small_file_without_imports() -> None:
    source = (HERE.parents[2] / "clients/javascript/hatstand.js").read_text()
    assert len(source.splitlines()) < 180
    assert not [line for line in source.splitlines() if line.startswith("import ")]
