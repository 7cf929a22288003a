"""Answers that leave in one piece: head and body go to the connection together.

uvicorn writes the head, then the body. A process that is killed in between leaves its caller a head and nothing after
it; a proxy has passed the head on by then, and cannot ask another replica any more.
"""

import asyncio
from typing import Any

_HEAD = b"HTTP/1.1 "


class OnePieceTransport:
    """A transport that keeps what begins an answer until more of it comes, or the event loop goes round once.

    Args:
        transport: What everything is handed to.
        loop: That it belongs to.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._head = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Writes it now, or with what comes next."""
        if not self._head and data.startswith(_HEAD):
            self._head = data
            # an answer without a body, or one whose body takes its time
            self._loop.call_soon(self._flush)
            return
        head, self._head = self._head, b""
        self._transport.write(head + data if head else data)

    def close(self) -> None:
        """Closes the connection once all is written."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        head, self._head = self._head, b""
        if head:
            self._transport.write(head)
