"""Runs exports in processes that are killed with SIGKILL at a chosen step, as a power cut would."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from tests.offline.export.log_writing import export

# a server process that has imported everything forks the runs, so that one takes a tenth of a second
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.offline.export.killing"])
_TIMEOUT_SECONDS = 60


def killed_at_step(url: str, out: Path, step: int) -> bool:
    """Runs an export that is killed right before it touches the file system for the n-th time.

    Returns:
        Whether it was killed: False if it ended by itself, having less steps.
    """
    return _run(_export_killed_at_step, url, out, step) == -signal.SIGKILL


def killed_after(url: str, out: Path, seconds: float) -> bool:
    """Runs an export that is killed after some time; returns whether it was."""
    return _run(_export_killed_after, url, out, seconds) == -signal.SIGKILL


def _run(target: Callable[..., None], *arguments: object) -> int | None:
    process = _CONTEXT.Process(target=target, args=arguments)
    process.start()
    process.join(_TIMEOUT_SECONDS)
    assert process.exitcode in {0, -signal.SIGKILL}, f"the export ended with {process.exitcode}"
    return process.exitcode


def _export_killed_at_step(url: str, out: Path, step: int) -> None:
    left = step

    def count_down(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal left
        touches = event in {"os.rename", "os.remove", "os.mkdir"} or (
            event == "open" and str(arguments[0]).startswith(str(out))
        )
        if touches:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count_down)
    export(url, out, trim=True)


def _export_killed_after(url: str, out: Path, seconds: float) -> None:
    signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    signal.setitimer(signal.ITIMER_REAL, seconds)
    export(url, out, trim=True)
    signal.setitimer(signal.ITIMER_REAL, 0)
