"""Real Redis servers on loopback ports, for what one embedded server on a socket cannot show."""

import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Self

from redis import Redis
from redis.exceptions import RedisError

from service.redis.embedded import find_redis_server

_SLOTS = 16_384
_BUS_OFFSET = 10_000
_WAIT_SECONDS = 30.0


class RedisProcess:
    """One server with an append-only file, on a port that it keeps when it is started again; up within ``with``."""

    def __init__(self, directory: Path, *options: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self._directory = directory
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self) -> "Redis":
        return Redis(port=self.port)

    def start(self) -> None:
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._directory)]
        options += ["--appendonly", "yes", "--appendfsync", "always", "--save", "", *self._options]
        self._process = subprocess.Popen(
            [str(find_redis_server()), *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_until(self._answers)

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        with self.client() as client:
            return bool(client.ping())


def start_cluster(directory: Path) -> list[RedisProcess]:
    """Three masters that share all slots."""
    options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "5000")
    nodes = [RedisProcess(directory / str(number), *options) for number in range(3)]
    for node in nodes:
        node.start()
    for number, node in enumerate(nodes):
        with node.client() as client:
            slots = range(_SLOTS * number // 3, _SLOTS * (number + 1) // 3)
            client.execute_command("CLUSTER ADDSLOTS", *slots)
            client.execute_command("CLUSTER SET-CONFIG-EPOCH", number + 1)
    with nodes[0].client() as client:
        for node in nodes[1:]:
            client.execute_command("CLUSTER MEET", "127.0.0.1", node.port)
    for node in nodes:
        wait_until(partial(_cluster_is_whole, node))
    return nodes


def wait_until(holds: Callable[[], bool]) -> None:
    """Returns when the condition holds; a Redis that does not answer counts as not yet."""
    deadline = time.monotonic() + _WAIT_SECONDS
    while time.monotonic() < deadline:
        try:
            if holds():
                return
        except (RedisError, OSError):
            pass
        time.sleep(0.02)
    raise TimeoutError("Redis did not get there")


def _cluster_is_whole(node: RedisProcess) -> bool:
    with node.client() as client:
        info = client.execute_command("CLUSTER INFO")
    return info["cluster_state"] == "ok" and info["cluster_known_nodes"] == "3"


def free_port() -> int:
    """A port whose cluster bus port is free, too."""
    while True:
        port = random.randrange(20_000, 50_000)
        try:
            for number in (port, port + _BUS_OFFSET):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", number))
        except OSError:
            continue
        return port
