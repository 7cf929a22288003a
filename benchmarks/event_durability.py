"""What killing Redis costs in acknowledged events, and what each setting of its append-only file costs in speed.

Several clients report single events to the history store, as ``POST /events`` does, while the server is killed with
SIGKILL a few times and started again; then all acknowledged events are looked for. Both settings in the same run::

    python -m benchmarks.event_durability

A killed process loses nothing that it has written to the file, synced or not: the pages are the system's. With
``everysec`` Redis holds its writes back while the sync of the second before is running (two seconds at most) and
answers all the same, so a few events can be lost even so. A machine that dies loses whatever was not synced, which this
does not measure.
"""

import asyncio
import random
import subprocess
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer
from redis import Redis
from redis.exceptions import RedisError

from benchmarks.serving.processes import free_port
from model_store.people.appending import RetentionLimits
from model_store.people.owner import Owner
from offline.job import job
from service.errors import HistoryUnavailable
from service.people.history_store import Event
from service.redis.calls import RedisCalls, connect
from service.redis.embedded import find_redis_server
from service.redis.histories import RedisHistoryStore

app = typer.Typer(add_completion=False, help=__doc__)

_SETTINGS = ("always", "everysec")
_DOWN_SECONDS = 0.2


@dataclass(frozen=True)
class Figures:
    """What one setting did.

    Attributes:
        fsync: The setting.
        acknowledged: Events.
        lost: Of them, after all kills.
        refused: Events that were not acknowledged.
        kills: How often the server was killed.
        events_per_second: Acknowledged while the server was up.
        p50_ms: Of one acknowledged report.
        p99_ms: The same.
    """

    fsync: str
    acknowledged: int
    lost: int
    refused: int
    kills: int
    events_per_second: float
    p50_ms: float
    p99_ms: float


class _Server:
    """A Redis that can be killed."""

    def __init__(self, directory: Path, fsync: str) -> None:
        self.port = free_port()
        self._command = [str(find_redis_server()), "--port", str(self.port), "--bind", "127.0.0.1"]
        self._command += ["--dir", str(directory), "--appendonly", "yes", "--appendfsync", fsync, "--save", ""]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when it answers."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with Redis(port=self.port) as client:
            while True:
                with suppress(RedisError):
                    if client.ping():
                        return
                time.sleep(0.01)

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


async def measure(fsync: str, *, clients: int, kills: int, seconds: float, directory: Path) -> Figures:
    """Reports events while the server is killed; ``seconds`` between two kills."""
    server = _Server(directory, fsync)
    server.start()
    limits = RetentionLimits(max_events=10_000, max_remembered=100_000, max_logged=0)
    client = connect(f"redis://127.0.0.1:{server.port}/0", cluster=False, timeout_seconds=2)
    store = RedisHistoryStore(RedisCalls(client, timeout_seconds=2), limits=limits)
    acknowledged: list[tuple[str, str]] = []
    took: list[float] = []
    refused = 0
    is_done = False

    async def report(client: int) -> None:
        nonlocal refused
        number = 0
        while not is_done:
            # not more of one user than is kept of one
            user_id, event_id = f"user-{client}-{number // 1_000}", f"{client}-{number}"
            started = time.perf_counter()
            try:
                await store.append([Event(event_id=event_id, owner=Owner(user_id), item_id="i1", timestamp=number)])
            except HistoryUnavailable:
                refused += 1
            else:
                took.append(time.perf_counter() - started)
                acknowledged.append((user_id, event_id))
            number += 1

    tasks = [asyncio.create_task(report(client)) for client in range(clients)]
    up_seconds = 0.0
    try:
        for _ in range(kills):
            started = time.perf_counter()
            await asyncio.sleep(seconds * random.uniform(0.5, 1.5))
            server.kill()
            up_seconds += time.perf_counter() - started
            await asyncio.sleep(_DOWN_SECONDS)
            await asyncio.to_thread(server.start)
        is_done = True
        await asyncio.gather(*tasks)
        kept = {
            (user_id, event.event_id)
            for user_id in sorted({user_id for user_id, _ in acknowledged})
            for event in await store.events(Owner(user_id))
        }
    finally:
        is_done = True
        await asyncio.gather(*tasks, return_exceptions=True)
        await store.aclose()
        server.kill()
    took.sort()
    return Figures(
        fsync=fsync,
        acknowledged=len(acknowledged),
        lost=len(set(acknowledged) - kept),
        refused=refused,
        kills=kills,
        events_per_second=round(len(acknowledged) / up_seconds, 1),
        p50_ms=round(1_000 * took[len(took) // 2], 2),
        p99_ms=round(1_000 * took[len(took) * 99 // 100], 2),
    )


@app.command()
def main(
    clients: Annotated[int, typer.Option(help="Events on their way at once.", min=1)] = 16,
    kills: Annotated[int, typer.Option(help="Of the server, per setting.", min=1)] = 8,
    seconds: Annotated[float, typer.Option(help="Between two kills, half more or less.", min=0.1)] = 1.0,
    directory: Annotated[Path | None, typer.Option(help="On the disk to measure; a temporary one if absent.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Kept for symmetry: the result is always JSON.")] = True,  # noqa: ARG001
) -> None:
    """Measures both settings of ``appendfsync``, one after the other."""
    figures = []
    for fsync in _SETTINGS:
        with tempfile.TemporaryDirectory(dir=directory) as folder:
            figures.append(
                asyncio.run(measure(fsync, clients=clients, kills=kills, seconds=seconds, directory=Path(folder)))
            )
    always, everysec = figures
    ratio = round(everysec.events_per_second / always.events_per_second, 2)
    job.report({"settings": [asdict(one) for one in figures], "everysec_over_always": ratio})


if __name__ == "__main__":
    job.run(app)
