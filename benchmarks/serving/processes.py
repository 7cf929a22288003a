"""Servers as processes of their own, on a free port of loopback, ended by their id whatever happens."""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from model_store.errors import HatstandError

_START_SECONDS = 180.0
_END_SECONDS = 20.0
_POLL_SECONDS = 0.1
_PREFIX = "HATSTAND_"

# A sample of a Prometheus page: its name and its labels.
Sample = tuple[str, frozenset[tuple[str, str]]]


@dataclass(frozen=True)
class Server:
    """Where it listens.

    Attributes:
        port: On 127.0.0.1.
        process_id: Of its main process.
    """

    port: int
    process_id: int

    def post(self, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Sends JSON and returns the JSON that comes back.

        Raises:
            HatstandError: The answer is not 200.
        """
        status, content = self._ask("POST", path, json.dumps(body or {}))
        if status != http.HTTPStatus.OK:
            raise HatstandError(f"POST {path} answered {status}: {content[:500].decode(errors='replace')}")
        answer: dict[str, Any] = json.loads(content)
        return answer

    def metrics(self) -> dict[Sample, float]:
        """All samples of ``/metrics``; nothing of a server that has none."""
        status, content = self._ask("GET", "/metrics")
        if status != http.HTTPStatus.OK:
            return {}
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(content.decode())
            for sample in family.samples
        }

    def cpu_seconds(self) -> float:
        """Processor time of its main process so far; what its children take is not in it."""
        fields = Path(f"/proc/{self.process_id}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def is_ready(self, path: str) -> bool:
        """Whether it answers 200 there."""
        try:
            return self._ask("GET", path)[0] == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False

    def _ask(self, method: str, path: str, body: str | None = None) -> tuple[int, bytes]:
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)) as client:
            client.request(method, path, body, {"content-type": "application/json"})
            response = client.getresponse()
            return response.status, response.read()


@contextmanager
def serving(
    command: Sequence[str], *, log_path: Path, ready_path: str, port_variable: str = "PORT", **settings: str
) -> Iterator[Server]:
    """Runs a server until the block ends.

    Args:
        command: What follows ``python``.
        log_path: Takes what it writes.
        ready_path: Answers 200 once it is ready.
        port_variable: Tells it its port, in the environment.
        settings: Further variables; variables of this process that begin with ``HATSTAND_`` are not handed on.

    Raises:
        HatstandError: It ended, or was not ready in time; with the end of its log.
    """
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(_PREFIX)}
    environment |= {port_variable: str(port), **settings}
    with log_path.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, *command],
            env=environment,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            # a Ctrl-C is for us; we end the server and whatever it has started
            start_new_session=True,
        )
    try:
        server = Server(port, process.pid)
        if not _becomes_ready(server, process, ready_path):
            raise HatstandError(f"{' '.join(command)} is not ready: {log_path.read_text()[-2_000:]}")
        yield server
    finally:
        _end(process)


def _becomes_ready(server: Server, process: "subprocess.Popen[bytes]", path: str) -> bool:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if server.is_ready(path):
            return True
        time.sleep(_POLL_SECONDS)
    return False


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Asks the server to end, and then ends what is left of its own group."""
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_END_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
