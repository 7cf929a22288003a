"""Head and body of an answer leave together, and one without the other is not kept back."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn

from service.http.connections import ConnectionLimits, bounded
from service.http.one_piece import OnePieceTransport

LIMITS = ConnectionLimits(
    max_connections=4,
    max_headers=20,
    max_header_bytes=4_096,
    max_body_bytes=4_096,
    header_timeout_seconds=5.0,
    refused=lambda _: None,
)
LATE_SECONDS = 0.3


class Wire(asyncio.Transport):
    """Notes what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []

    def write(self, data: Any) -> None:
        self.written.append(data)

    def close(self) -> None:
        self.written.append(b"closed")


async def test_a_head_waits_for_what_comes_next_but_not_longer_than_a_turn_of_the_loop() -> None:
    wire = Wire()
    transport = OnePieceTransport(wire, asyncio.get_running_loop())
    transport.write(b"HTTP/1.1 200 OK\r\n\r\n")
    transport.write(b"body")
    transport.write(b"more")
    assert wire.written == [b"HTTP/1.1 200 OK\r\n\r\nbody", b"more"]
    await asyncio.sleep(0)
    transport.write(b"HTTP/1.1 204 No Content\r\n\r\n")
    assert len(wire.written) == 2
    await asyncio.sleep(0)
    assert wire.written[2:] == [b"HTTP/1.1 204 No Content\r\n\r\n"]
    transport.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    transport.close()
    await asyncio.sleep(0)
    assert wire.written[3:] == [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"closed"]


async def _answer(scope: Any, receive: Any, send: Any) -> None:
    """``/whole``, ``/none`` and ``/late``, whose body comes a while after its head."""
    await receive()
    status = 204 if scope["path"] == "/none" else 200
    headers = [] if status == 204 else [(b"content-length", b"6")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    if scope["path"] == "/late":
        await asyncio.sleep(LATE_SECONDS)
    await send({"type": "http.response.body", "body": b"" if status == 204 else b"answer"})


@asynccontextmanager
async def _served() -> AsyncIterator[int]:
    config = uvicorn.Config(_answer, port=0, http=bounded(LIMITS), ws="none", lifespan="off", log_config=None)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    await serving


@pytest.mark.parametrize(
    ("line", "first", "rest"),
    [
        ("GET /whole", b"answer", b""),
        ("HEAD /whole", b"", b""),
        ("GET /none", b"", b""),
        ("GET /late", b"", b"answer"),
    ],
)
async def test_what_belongs_together_arrives_together(line: str, first: bytes, rest: bytes) -> None:
    async with _served() as port, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(50 if not rest else 1):
            writer.write(f"{line} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
            head, _, body = (await reader.read(65_536)).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 20")
            assert body == first
            if rest:
                assert await reader.read(65_536) == rest
        writer.close()
        await writer.wait_closed()
