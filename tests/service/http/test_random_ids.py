"""Random names: of the length asked for, none twice, in no thread and in no forked process."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from service.http.random_ids import random_hex


def test_names_are_as_long_as_asked_for_and_none_comes_twice() -> None:
    assert [len(random_hex(size)) for size in (1, 8, 15, 64)] == [2, 16, 30, 128]
    with ThreadPoolExecutor(8) as threads:
        names = list(threads.map(lambda _: random_hex(16), range(20_000)))
    assert len(set(names)) == 20_000


_FORKING = """
import os
from service.http.random_ids import random_hex
random_hex(1)
child = os.fork()
if child:
    os.waitpid(child, 0)  # one after the other, or their lines may mix
print(random_hex(16), flush=True)
"""


def test_a_forked_process_draws_its_own() -> None:
    # in a process without threads, as forking one with threads is no good
    printed = subprocess.run(
        [sys.executable, "-c", _FORKING], capture_output=True, text=True, check=True
    ).stdout.split()
    assert len(printed) == len(set(printed)) == 2
