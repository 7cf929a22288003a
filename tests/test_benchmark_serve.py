"""The serving benchmark runs, on shapes and for times so small that its figures mean nothing."""

import asyncio
import json
import math
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from benchmarks.serve import main
from benchmarks.serving.load import Load, Plan, percentile, send
from benchmarks.serving.report import judged, rounded
from model_store.errors import HatstandError, InvalidInput

ROOT = Path(__file__).parent.parent
_ANSWER = b'HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n{"ok": "yes"}'
_TINY = "--num-items 200 --history 6 --tokens-per-item 4 --width 32 --heads 2 --hllm-layers 1 --hatllm-layers 4"


@asynccontextmanager
async def answering(*, pause_seconds: float = 0.0, stall_seconds: float = 0.0) -> AsyncIterator[int]:
    """A server that answers after a pause, and stalls once, when the first request comes."""
    pauses = iter([stall_seconds])

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                await reader.readexactly(int(head.rpartition(b": ")[2]))
                await asyncio.sleep(max(pause_seconds, next(pauses, 0.0)))
                writer.write(_ANSWER)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


async def test_arrivals_come_at_the_rate_whatever_the_answers_take() -> None:
    async with answering(pause_seconds=0.2) as port:
        plan = Plan(port, [[("/x", "{}")]], count=100, seconds=10, rate=100.0, marker="yes")
        load = await asyncio.to_thread(send, plan)
    assert len(load.latency_ms) == 100
    assert load.failed == 0
    assert load.due_s[-1] < 2.0  # one after the other they would take twenty seconds
    assert min(load.latency_ms) >= 200


async def test_a_stall_is_charged_to_all_who_were_due_meanwhile() -> None:
    async with answering(stall_seconds=1.5) as port:
        plan = Plan(port, [[("/x", "{}")]], count=40, seconds=10, rate=40.0, connections=1)
        load = await asyncio.to_thread(send, plan)
    # with one connection only the first request was on its way, but all others of that second waited, too
    assert load.percentile(0.5) > 500


async def test_answers_without_the_marker_have_failed() -> None:
    async with answering() as port:
        plan = Plan(port, [[("/x", "{}")]], count=10, seconds=5, connections=2, marker="no such words")
        with pytest.raises(HatstandError, match="none of 10 requests was answered well"):
            await asyncio.to_thread(send, plan)


def test_percentiles_are_of_what_was_measured() -> None:
    assert [percentile([3.0, 1.0, 2.0, 4.0], share) for share in (0.5, 0.75, 0.99)] == [2.0, 3.0, 4.0]
    assert math.isnan(percentile([], 0.5))
    load = Load(0.0, [0.1, 0.9], [5.0, 50.0], 0, 2.0, 0.5, (0.0, 0.0), "")
    assert load.percentile(0.99, lambda due: due < 0.5) == 5.0
    assert (load.throughput, load.cpu_share) == (1.0, 0.25)


def test_the_report_puts_the_worst_first_and_judges_a_small_model_by_nothing() -> None:
    cached = {
        "throughput_per_s": 1_000.0,
        "p50_ms": 1.0,
        "p99_ms": 2.0,
        "p99_over_p50": 2.0,
        "ratio_to_plain": 0.6,
        "ratio_to_empty": 0.25,
    }
    faster = {**cached, "throughput_per_s": 3_000.0, "ratio_to_empty": 0.75}
    uncached = {"p50_ms": 10.0, "p99_ms": 50.0, "p99_over_p50": 5.0, "throughput_per_s": 90.0}
    workloads = {
        "hllm": {
            "cached": dict(cached),
            "repeated": faster,
            "uncached": {**uncached, "forward_per_s": 100.0, "ratio_to_forward": 0.9},
        },
        "hatllm": {"cached": dict(cached), "uncached": {**uncached, "forward_per_s": 600.0, "ratio_to_forward": 0.15}},
    }
    figures = judged(
        workloads,
        swaps={"hllm": {"swap_p99_ratio": 1.2}, "hatllm": {"swap_p99_ratio": 1.6}},
        peers={"hllm": {**uncached, "throughput_per_s": 60.0}},
        workers={"scaling": 1.5},
        events={"ratio_to_script": 0.4},
    )
    assert figures["met"] == {
        "ratio_to_forward": True,
        "ratio_to_empty": True,
        "p99_over_p50": False,
        "swap_p99_ratio": False,
    }
    assert (figures["ratio_to_forward"], figures["ratio_to_plain"], figures["swap_p99_ratio"]) == (0.9, 0.6, 1.6)
    of_hllm, of_hatllm = figures["workloads"]["hllm"], figures["workloads"]["hatllm"]
    # the same ratio is enough for a search, and not for an answer that is there already
    assert (of_hllm["cached"]["met"]["ratio_to_plain"], of_hllm["repeated"]["met"]["ratio_to_plain"]) == (True, False)
    assert "ratio_to_forward" not in of_hatllm["uncached"]["met"]
    assert (figures["workers"]["met"], figures["events"]["met"]) == ({"scaling": True}, {"ratio_to_script": False})
    assert figures["litserve"]["hllm"]["throughput_ratio"] == 1.5
    assert rounded({"a": [1], "b": {"c": 1.23456}}) == {"a": [1], "b": {"c": 1.235}}


def test_without_litserve_one_line_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "litserve", None)
    with pytest.raises(InvalidInput, match=r"pip install 'hatstand\[benchmarks\]', or pass --no-litserve"):
        main()


def test_the_serving_benchmark_prints_its_figures_with_their_targets() -> None:
    command = [sys.executable, "-m", "benchmarks.serve", "--json", "--no-litserve", "--threads", "1", *_TINY.split()]
    done = subprocess.run(
        [*command, "--seconds", ".3", "--rounds", "1"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2_000:]
    assert len(done.stdout.splitlines()) == 1
    figures = json.loads(done.stdout)
    assert figures["targets"].keys() == figures["met"].keys()
    assert figures["workloads"]["hllm"].keys() == {"cached", "repeated", "uncached"}
    assert figures["workloads"]["hatllm"].keys() == {"cached", "repeated", "uncached", "one_new_event"}
    for of_kind in figures["workloads"].values():
        for name, one in of_kind.items():
            assert one["failed"] == 0
            assert one["encoded_share"] == (0 if name in {"cached", "repeated"} else 1)
            assert one["repeated_share"] == (1 if name == "repeated" else pytest.approx(0, abs=0.1))
            assert 0 < one["p50_ms"] <= one["p99_ms"]
            parts = [ms for stage, ms in one["stages_ms"].items() if stage != "all"]
            assert min(parts) >= 0
            assert sum(parts) == pytest.approx(one["stages_ms"]["all"], rel=0.01)
    assert all(one["swaps"] == 1 and one["failed"] == 0 for one in figures["swaps"].values())
    assert figures["workloads"]["hllm"]["cached"]["ratio_to_empty"] < 1
    assert figures["workloads"]["hllm"]["cached"]["alone"]["cpu_ms"] > 0
    assert figures["workers"]["two_per_s"] > 0
    assert 0 < figures["events"]["ratio_to_script"] < 1
