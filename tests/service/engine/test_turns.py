"""Short turns: only while something runs that others wait for, and then they make the difference."""

import sys
import threading
import time
from contextlib import nullcontext

import pytest

from service.engine.model_thread import ModelThread
from service.engine.turns import short_turns

DEFAULT = sys.getswitchinterval()


def test_turns_are_short_inside_and_as_before_after_the_last_one() -> None:
    with short_turns():
        short = sys.getswitchinterval()
        with pytest.raises(ArithmeticError), short_turns():
            raise ArithmeticError
        assert sys.getswitchinterval() == short < DEFAULT / 10
    assert sys.getswitchinterval() == DEFAULT


def test_the_model_has_short_turns_whatever_becomes_of_its_work() -> None:
    thread = ModelThread()
    assert thread.submit(sys.getswitchinterval).result(10) < DEFAULT / 10
    with pytest.raises(ZeroDivisionError):
        thread.submit(lambda: 1 / 0).result(10)
    assert thread.close(10)
    assert sys.getswitchinterval() == DEFAULT


def test_a_thread_that_gives_the_interpreter_up_often_gets_on_beside_one_that_never_does() -> None:
    def seconds(*, is_short: bool) -> float:
        is_done = threading.Event()

        def work() -> None:
            for _ in range(50):
                time.sleep(0)
            is_done.set()

        started = time.perf_counter()
        worker = threading.Thread(target=work)
        with short_turns() if is_short else nullcontext():
            worker.start()
            while not is_done.is_set():
                pass
        worker.join()
        return time.perf_counter() - started

    # on a busy machine the threads wait for a core, too, in whichever way they have their turns
    assert any(seconds(is_short=True) * 3 < seconds(is_short=False) for _ in range(20))
