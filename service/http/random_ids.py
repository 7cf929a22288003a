"""Random names for requests, answers and events. Bytes are drawn many at a time: each draw is a system call."""

import os
from threading import Lock

_DRAWN_AT_ONCE = 4_096

_lock = Lock()
_drawn = b""


def random_hex(num_bytes: int) -> str:
    """Twice as many hexadecimal digits, as good as ``secrets.token_hex``.

    Args:
        num_bytes: At most 64.
    """
    global _drawn
    with _lock:
        if len(_drawn) < num_bytes:
            _drawn = os.urandom(_DRAWN_AT_ONCE)
        taken, _drawn = _drawn[:num_bytes], _drawn[num_bytes:]
    return taken.hex()


def _forget_drawn() -> None:
    global _drawn
    _drawn = b""


# Two processes must not hand out the same bytes.
os.register_at_fork(after_in_child=_forget_drawn)
