"""``python -m service`` as a process: what it prints works, it ends cleanly, and it says in one line why it cannot."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from service.__main__ import main


def _environment(**settings: str) -> dict[str, str]:
    return {**os.environ, **{f"HATSTAND_{name.upper()}": value for name, value in settings.items()}}


def test_the_printed_command_works_and_what_was_acknowledged_is_there_after_a_kill(
    shop_root: Path, tmp_path: Path
) -> None:
    environment = _environment(
        store=str(shop_root), port="0", redis_directory=str(tmp_path / "redis"), torch_threads="1"
    )
    for number in (signal.SIGKILL, signal.SIGTERM):
        with subprocess.Popen(
            [sys.executable, "-m", "service"], env=environment, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stderr is not None
            command = next(line for line in process.stderr if line.startswith("curl"))
            url, body = re.search(r"(http://\S+)/recommend", command)[1], shlex.split(command)[-1]  # type: ignore[index]
            with httpx2.Client(base_url=url) as client:
                answer = client.post("/recommend", json=json.loads(body)).json()
                assert (answer["source"], len(answer["items"])) == ("model", 5)
                event = {"event_id": "e1", "user_id": "u1", "item_id": "i1", "timestamp": 1}
                counts = client.post("/events", json={"events": [event]}).json()
            process.send_signal(number)
            rest = process.stderr.read()
        if number == signal.SIGKILL:
            assert counts["accepted"] == 1
        else:
            assert counts["duplicates"] == 1
            assert process.returncode == 0
            assert "Traceback" not in rest


@pytest.fixture
def _own_signal_handlers() -> Iterator[None]:
    """The service takes over the signals of its process, which here is the tests'."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("_own_signal_handlers")
@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("HATSTAND_STOER", "x", "unknown setting HATSTAND_STOER"),
        ("HATSTAND_PORT", "http", "HATSTAND_PORT: expected a whole number"),
        ("HATSTAND_HOST", "0.0.0.0", "HATSTAND_ALLOW_ANONYMOUS=1"),
        ("HATSTAND_STORE", __file__, f"store {__file__} is a file"),
    ],
)
def test_a_start_that_cannot_be_ends_with_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str, value: str, reason: str
) -> None:
    monkeypatch.setenv(name, value)
    assert main() == 2
    (record,) = caplog.records
    assert reason in record.getMessage()
