"""One process at a time loads, where there is no room for all."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from model_store.artifacts.store import ModelStore
from service.engine.loading import Loader
from service.engine.loading_turn import LoadingTurn
from service.engine.memory import InsufficientMemory, estimate_need

# Has the turn until its standard input ends.
HOLDER = """
import sys
from service.engine.loading_turn import LoadingTurn
with LoadingTurn(int(sys.argv[1]), num_processes=2).taken():
    print("taken", flush=True)
    sys.stdin.read()
"""


@contextmanager
def _held_by_another_process(descriptor: int) -> Iterator["subprocess.Popen[str]"]:
    """Another process that inherited the same file has the turn."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(descriptor)],
        pass_fds=(descriptor,),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "taken\n"
        yield process
        process.kill()


def test_a_process_that_dies_gives_its_turn_up() -> None:
    with tempfile.TemporaryFile() as file, _held_by_another_process(file.fileno()) as process:
        turn = LoadingTurn(os.dup(file.fileno()), num_processes=2)
        started = time.monotonic()
        process.kill()
        with turn.taken():
            assert time.monotonic() - started < 30


@pytest.mark.parametrize("is_short", [True, False])
def test_the_turn_is_waited_for_only_where_memory_is_short(shop_root: Path, is_short: bool) -> None:
    store = ModelStore(shop_root)
    (manifest,) = store.bundles()
    (model,) = store.models()
    need = estimate_need(manifest, model, device="cpu").host_bytes
    with tempfile.TemporaryFile() as file, _held_by_another_process(file.fileno()) as process:
        turn = LoadingTurn(file.fileno(), num_processes=2)
        waited: list[float] = []

        def available(_: str) -> int:
            # Asked once for all processes, and once more for this one, which in the first case has waited for its turn.
            waited.append(time.monotonic())
            if is_short and len(waited) == 1:
                process.kill()
            return need + 1 if is_short else 3 * need

        loader = Loader(store, device="cpu", state_bytes=0, available=available, turn=turn)
        assert loader.open(manifest.bundle_id).bundle_id == manifest.bundle_id
        assert (process.poll() is not None) == is_short


def test_what_has_no_room_even_alone_is_refused(shop_root: Path) -> None:
    store = ModelStore(shop_root)
    with tempfile.TemporaryFile() as file:
        turn = LoadingTurn(file.fileno(), num_processes=2)
        loader = Loader(store, device="cpu", state_bytes=0, available=lambda _: 1, turn=turn)
        with pytest.raises(InsufficientMemory, match="is not loaded"):
            loader.open(store.bundles()[0].bundle_id)
