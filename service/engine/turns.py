"""How long threads that compute wait for the interpreter beside a busy event loop.

A forward pass gives the interpreter up and takes it back a few hundred times. A thread that wants it back asks whoever
has it after ``sys.getswitchinterval()``, 5 ms by default: beside an event loop that always has something to do, a pass
of 30 ms takes two seconds. With shorter turns all the time, threads that have nothing urgent to do would interrupt the
loop at every step. So turns are short only while something runs that others wait for.
"""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_SHORT_SECONDS = 0.0001
_DEFAULT_SECONDS = sys.getswitchinterval()

_lock = threading.Lock()
_num_inside = 0


@contextmanager
def short_turns() -> Iterator[None]:
    """Inside the block, of this thread or of several, all threads of the process take short turns."""
    _count(+1)
    try:
        yield
    finally:
        _count(-1)


def _count(change: int) -> None:
    global _num_inside
    with _lock:
        _num_inside += change
        sys.setswitchinterval(_SHORT_SECONDS if _num_inside else _DEFAULT_SECONDS)
