"""The floor of an uncached request: the same encoder and index, in the same batches, without HTTP and Redis.

A worker process of its own; it reads one task a line from standard input, and answers each with a line.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import typer

from benchmarks.serving.traffic import POOL_USERS, K
from model_store.artifacts.bundle import Bundle, open_bundle
from model_store.artifacts.store import ModelStore
from model_store.encoding import UserEncoder
from model_store.errors import HatstandError
from model_store.kinds import make_user_encoder
from model_store.people.histories import History


@dataclass(frozen=True)
class Task:
    """One measurement.

    Attributes:
        bundle_id: Whose encoder and index.
        batch: B, users in one forward pass.
        seconds: For so long, at least one batch.
        history_length: L.
        grows: The same users come back, each time with one more item; else every history is new.
    """

    bundle_id: str
    batch: int
    seconds: float
    history_length: int
    grows: bool


class ForwardFloor:
    """The worker, seen from outside."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def users_per_second(self, task: Task) -> float:
        """Encodes and searches for so many users.

        Raises:
            HatstandError: The worker ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asdict(task)) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise HatstandError("the floor's process ended")
        return float(json.loads(answer)["users_per_second"])


@contextmanager
def forward_floor(store: Path, *, threads: int) -> Iterator[ForwardFloor]:
    """A worker, until the block ends."""
    command = [sys.executable, "-m", "benchmarks.serving.floors.forward", str(store), str(threads)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield ForwardFloor(process)
    finally:
        process.kill()
        process.communicate()


class _Users:
    """Whose histories are encoded, batch by batch."""

    def __init__(self, num_items: int, task: Task) -> None:
        self._random = np.random.default_rng(0)
        self._num_items = num_items
        self._task = task
        self._pool = [self._items(task.history_length) for _ in range(POOL_USERS)] if task.grows else []
        self._turn = 0

    def all(self) -> list[History]:
        """Those who come back, before their first new item."""
        return [_history(items, owner=str(user)) for user, items in enumerate(self._pool)]

    def next_batch(self) -> list[History]:
        """B histories."""
        if not self._pool:
            return [_history(self._items(self._task.history_length)) for _ in range(self._task.batch)]
        # a batch never holds a user twice
        turns = [(self._turn + at) % POOL_USERS for at in range(min(self._task.batch, POOL_USERS))]
        self._turn += len(turns)
        for user in turns:
            self._pool[user] = np.append(self._pool[user], self._items(1))
        return [_history(self._pool[user], owner=str(user)) for user in turns]

    def _items(self, number: int) -> np.ndarray:
        return self._random.integers(1, self._num_items + 1, number)


def _history(items: np.ndarray, owner: str | None = None) -> History:
    return History(items, np.arange(len(items), dtype=np.int64), owner)


def main(store: Path, threads: int) -> None:
    """Works on tasks from standard input; ``threads`` 0 leaves the number to torch."""
    if threads:
        torch.set_num_threads(threads)
    bundles: dict[str, tuple[Bundle, UserEncoder]] = {}
    for line in sys.stdin:
        task = Task(**json.loads(line))
        if task.bundle_id not in bundles:
            opened = open_bundle(ModelStore(store), task.bundle_id)
            bundles[task.bundle_id] = opened, make_user_encoder(opened)
        bundle, encoder = bundles[task.bundle_id]
        users = _Users(len(bundle.catalogue), task)
        for history in users.all():
            encoder.encode([history])
        bundle.index.search(encoder.encode(users.next_batch()), K)  # warms up
        started, num_users, seconds = time.perf_counter(), 0, 0.0
        while seconds < task.seconds:
            batch = users.next_batch()
            bundle.index.search(encoder.encode(batch), K)
            num_users += len(batch)
            seconds = time.perf_counter() - started
        sys.stdout.write(json.dumps({"users_per_second": num_users / seconds}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    typer.run(main)
