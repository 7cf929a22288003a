"""The service as its own process, and what stands between it and others: raw sockets, and proxies that can fail."""

import asyncio
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import httpx2

_START_SECONDS = 120.0
_END_SECONDS = 30.0


@dataclass
class ServiceProcess:
    """``python -m service`` on a port of its own.

    Attributes:
        log_path: What it wrote to standard error.
        settings: By name, without ``HATSTAND_``.
    """

    log_path: Path
    settings: dict[str, str]
    url: str = ""
    process: "subprocess.Popen[bytes] | None" = None

    def start(self) -> None:
        """Returns when it listens."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HATSTAND_")}
        environment |= {
            "OMP_NUM_THREADS": "1",
            "HATSTAND_PORT": "0",
            "HATSTAND_TORCH_THREADS": "1",
            "HATSTAND_WORKERS": "1",
        }
        environment |= {f"HATSTAND_{name.upper()}": value for name, value in self.settings.items()}
        begins_at = self.log_path.stat().st_size if self.log_path.exists() else 0
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen([sys.executable, "-m", "service"], env=environment, stderr=log)
        ends_at = time.monotonic() + _START_SECONDS
        while time.monotonic() < ends_at:
            found = re.search(r"serving on (http://[\w.:\[\]]+)", self.log()[begins_at:])
            if found:
                self.url = found[1]
                return
            assert self.process.poll() is None, self.log()
            time.sleep(0.05)
        raise TimeoutError(self.log())

    def start_again_at_the_same_port(self) -> None:
        """As before it was killed."""
        self.settings = {**self.settings, "port": str(self.address[1])}
        self.start()

    def log(self) -> str:
        """All that was written so far."""
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    def send(self, number: signal.Signals) -> None:
        """Sends a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self) -> int:
        """Ends it with SIGTERM; its exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise

    def kill(self) -> None:
        """Ends it with SIGKILL."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        parts = urlsplit(self.url)
        return parts.hostname or "", parts.port or 0

    def client(self, **more: object) -> httpx2.Client:
        """Asks it."""
        return httpx2.Client(base_url=self.url, timeout=30, **more)  # type: ignore[arg-type]


@contextmanager
def service_process(log_path: Path, **settings: str) -> Iterator[ServiceProcess]:
    """A service that runs inside the block."""
    service = ServiceProcess(log_path, settings)
    try:
        service.start()
        yield service
    finally:
        service.kill()


def exchange(
    address: tuple[str, int], pieces: Sequence[bytes], *, pause_seconds: float = 0.0, wait_seconds: float = 15.0
) -> bytes:
    """Sends pieces with pauses, and reads until the other side closes or says nothing for a while.

    The other side may close while we still send; what it said before is returned.
    """
    with socket.create_connection(address, timeout=wait_seconds) as connection:
        with contextlib.suppress(OSError):
            for number, piece in enumerate(pieces):
                if number and pause_seconds:
                    time.sleep(pause_seconds)
                connection.sendall(piece)
        return receive(connection)


def receive(connection: socket.socket) -> bytes:
    """Reads one response, or what there is of it when the other side closes or says nothing any more."""
    answer = bytearray()
    with contextlib.suppress(OSError):
        while not _is_whole(bytes(answer)) and (data := connection.recv(65_536)):
            answer += data
    return bytes(answer)


def status_of(answer: bytes) -> int:
    """Of the first response; 0 if there is none."""
    found = re.match(rb"HTTP/1\.1 (\d{3})", answer)
    return int(found[1]) if found else 0


def _is_whole(answer: bytes) -> bool:
    head, end, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head.lower())
    return bool(end) and length is not None and len(body) >= int(length[1])


@dataclass
class TcpProxy:
    """Passes bytes on to one of several addresses, later if it is told to, to whoever accepts.

    Attributes:
        targets: Hosts and ports, tried in turn.
        delay_seconds: Every piece is held for so long.
    """

    targets: Sequence[tuple[str, int]]
    delay_seconds: float = 0.0
    port: int = 0
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    _thread: threading.Thread | None = None
    _turn: int = 0

    def start(self) -> None:
        """Returns when it listens."""
        is_ready = threading.Event()

        async def listen() -> asyncio.Server:
            server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
            self.port = server.sockets[0].getsockname()[1]
            is_ready.set()
            return server

        async def end(server: asyncio.Server) -> None:
            server.close()
            tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        def run() -> None:
            server = self._loop.run_until_complete(listen())
            self._loop.run_forever()
            self._loop.run_until_complete(end(server))
            self._loop.close()

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()
        assert is_ready.wait(10)

    def stop(self) -> None:
        """Stops passing anything on."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        if self._thread is not None:
            self._thread.join(10)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(len(self.targets)):
            self._turn += 1
            host, port = self.targets[self._turn % len(self.targets)]
            try:
                there_reader, there_writer = await asyncio.open_connection(host, port)
            except OSError:
                continue
            ways = ((reader, there_writer), (there_reader, writer))
            await asyncio.gather(*(self._pass_on(source, sink) for source, sink in ways))
            return
        writer.close()

    async def _pass_on(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(OSError):
                while data := await source.read(65_536):
                    if self.delay_seconds:
                        await asyncio.sleep(self.delay_seconds)
                    sink.write(data)
                    await sink.drain()
        finally:
            sink.close()


@contextmanager
def tcp_proxy(*targets: tuple[str, int], delay_seconds: float = 0.0) -> Iterator[TcpProxy]:
    """A proxy that passes on inside the block."""
    proxy = TcpProxy(targets, delay_seconds)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()


def within(holds: Callable[[], bool], seconds: float) -> float:
    """How long it took until the condition held.

    Raises:
        TimeoutError: Longer than ``seconds``.
    """
    started = time.monotonic()
    while time.monotonic() - started < seconds:
        if holds():
            return time.monotonic() - started
        time.sleep(0.02)
    raise TimeoutError(f"not within {seconds} s")


@contextlib.asynccontextmanager
async def steady_load(
    url: str, ask: Callable[[httpx2.AsyncClient, int], "asyncio.Future[httpx2.Response]"], *, num_clients: int = 4
) -> AsyncIterator[list[int]]:
    """Asks without pause inside the block; the list fills with the statuses of the answers, 0 = no answer."""
    statuses: list[int] = []
    is_done = False

    async def loop(client: httpx2.AsyncClient, number: int) -> None:
        while not is_done:
            try:
                statuses.append((await ask(client, number)).status_code)
            except httpx2.TransportError as error:
                print(f"no answer: {error!r}")  # noqa: T201 - shown where the test fails
                statuses.append(0)
                await asyncio.sleep(0.02)
            number += num_clients

    async with httpx2.AsyncClient(base_url=url, timeout=30) as client:
        tasks = [asyncio.create_task(loop(client, number)) for number in range(num_clients)]
        try:
            yield statuses
        finally:
            is_done = True
            await asyncio.gather(*tasks)
