"""What waits is estimated from what was measured; what was not measured is taken to be quick."""

from service.engine.queue_time import QueueTime


def _stopped() -> float:
    return 0.0


def test_nothing_measured_takes_no_time() -> None:
    times = QueueTime(max_users=4, clock=_stopped)
    times.user_came("hllm")
    times.work_came("generate")
    assert times.waiting_seconds() == 0


def test_batches_of_each_kind_are_added_up() -> None:
    times = QueueTime(max_users=4, clock=_stopped)
    times.batch_ran("hllm", num_users=1, seconds=1.0)
    times.batch_ran("hllm", num_users=4, seconds=2.0)
    times.batch_ran("hatllm", num_users=1, seconds=10.0)
    times.work_ran("generate", 100.0)
    for _ in range(9):
        times.user_came("hllm")
    assert times.waiting_seconds() == 2 + 2 + 1
    assert times.waiting_seconds(another="hllm") == 2 + 2 + 1  # two in the last batch: at least as long as one
    assert times.waiting_seconds(another="hatllm") == 5 + 10
    assert times.waiting_seconds(another_work="generate") == 5 + 100
    for _ in range(9):
        times.user_left("hllm")
    assert times.waiting_seconds() == 0


def test_a_larger_batch_than_seen_takes_at_least_as_long_as_a_smaller_one() -> None:
    times = QueueTime(max_users=8, clock=_stopped)
    times.batch_ran("hllm", num_users=2, seconds=1.0)
    assert times.batch_seconds("hllm", 1) == 0
    assert times.batch_seconds("hllm", 8) == 1.0
    times.batch_ran("hllm", num_users=8, seconds=0.5)
    assert times.batch_seconds("hllm", 8) == 1.0


def test_later_measurements_count() -> None:
    times = QueueTime(max_users=1, clock=_stopped)
    times.work_ran("generate", 1.0)
    for _ in range(50):
        times.work_ran("generate", 3.0)
    assert 2.9 < times.work_seconds("generate") <= 3.0


def test_kinds_are_bounded() -> None:
    times = QueueTime(max_users=1, clock=_stopped)
    for number in range(1_000):
        times.work_ran(number, 1.0)
    assert sum(times.work_seconds(number) for number in range(1_000)) == 64


def test_one_slow_piece_of_work_does_not_have_its_kind_refused_for_good() -> None:
    now = 0.0
    times = QueueTime(max_users=4, clock=lambda: now)
    times.work_ran("generate", 8.0)
    times.batch_ran("hllm", num_users=1, seconds=4.0)
    now = 10.0
    assert times.waiting_seconds(another_work="generate") == 4.0
    assert times.waiting_seconds(another="hllm") == 2.0
    times.work_ran("generate", 8.0)
    assert times.work_seconds("generate") == 8.0
    now = 70.0
    assert times.waiting_seconds(another_work="generate") < 0.2
