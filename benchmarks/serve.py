"""The running service against its floors and against LitServe, under load: throughput, latencies, swaps, stages.

A real service with its embedded Redis, on a store with a bundle of each kind (random weights of the wanted shape,
unless ``--store`` names one), is asked over loopback by a client in a process of its own:

- *cached*: the user's embedding is the one of the last request, so no model runs, but a search does. Floors: the
  *plain* app, which does the bare minimum of the same task (``ratio_to_plain``), an *empty* FastAPI route that returns
  as many bytes (``ratio_to_empty``), and a *typed* one that reads and writes the service's schemas;
- *repeated*: the question is that of the last request, too, so that no search runs either. The same floors;
- *uncached*: users who were never seen, whose history is in Redis, so the model reads all of it. Floor: the same
  encoder and index in a process without HTTP and Redis, in batches of the size that the service ran
  (``ratio_to_forward``);
- *one_new_event*: users who report an event and ask again; a HatLLM reads one item, as the rest is kept.

All of these are of one worker; ``workers`` compares two with one.
Throughput is at saturation (closed loop); latencies are of an open loop at 70 % of it, from when a request was due.
``swap_p99_ratio`` compares requests that came while the other bundle was loaded with all others of the same run.
"""

import os
import platform
import signal
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.serving.alone import ask_alone
from benchmarks.serving.events import measure_events
from benchmarks.serving.floors.forward import ForwardFloor, Task, forward_floor
from benchmarks.serving.floors.requests import start_request_floors
from benchmarks.serving.measure import (
    STEADY_SHARE,
    Budget,
    forward_floor_of,
    measure,
    say,
)
from benchmarks.serving.processes import Server, serving
from benchmarks.serving.report import judged, rounded
from benchmarks.serving.store import Served, Shape, copy_store, make_store, served_kinds
from benchmarks.serving.swaps import measure_swaps
from benchmarks.serving.traffic import Cached, OneNewEvent, PlainHistories, SameQuestion, Uncached
from benchmarks.serving.workers import compare_workers
from model_store.artifacts.store import ModelStore
from model_store.errors import InvalidInput
from offline.job import job

_WITH_KEPT_STATES = "hatllm"
_CACHED = {"cached": Cached, "repeated": SameQuestion}
app = typer.Typer(add_completion=False, help=__doc__)


class Run:
    """One run of the benchmark.

    Args:
        root: The store.
        folder: Scratch.
        budget: For how long.
        threads: Of torch, in the service, its floor and LitServe; 0: all cores.
        stack: Ends the servers.
    """

    def __init__(self, root: Path, folder: Path, budget: Budget, threads: int, stack: ExitStack) -> None:
        self._root = root
        self._folder = folder
        self._budget = budget
        self._threads = threads
        self._stack = stack
        say("a second bundle of each kind")
        self._kinds = served_kinds(root, folder)
        say("the service")
        self._service = self._serve("service", workers=1)
        self._redis_url = (folder / "service-redis" / "redis.url").read_text()
        say("the plain app and the empty routes")
        first = SameQuestion(self._service, self._kinds[0])
        self._floors = start_request_floors(
            stack,
            folder,
            budget,
            store=root,
            kinds=self._kinds,
            redis_url=self._redis_url,
            answer=self._service.post(*first.question()),
        )

    def figures(self, *, with_peer: bool) -> dict[str, Any]:
        """Everything."""
        with forward_floor(self._root, threads=self._threads) as worker:
            workloads = {served.kind: self._workloads(served, worker) for served in self._kinds}
        swaps = {served.kind: self._swaps(served, workloads[served.kind]) for served in self._kinds}
        peers = {served.kind: self._peer(served, workloads[served.kind]) for served in self._kinds} if with_peer else {}
        workers = compare_workers(self._service, self._serve("workers", workers=2), self._kinds[0], self._budget)
        events = measure_events(self._service, self._kinds[0], self._budget, self._redis_url)
        return judged(workloads, swaps=swaps, peers=peers, workers=workers, events=events)

    def _serve(self, name: str, *, workers: int) -> Server:
        return self._stack.enter_context(
            serving(
                ["-m", "service"],
                log_path=self._folder / f"{name}.log",
                ready_path="/readyz",
                port_variable="HATSTAND_PORT",
                HATSTAND_STORE=str(self._root),
                HATSTAND_WORKERS=str(workers),
                HATSTAND_REDIS_DIRECTORY=str(self._folder / f"{name}-redis"),
                HATSTAND_TORCH_THREADS=str(self._threads),
                # nobody exports the events of a benchmark
                HATSTAND_EVENT_LOG_MAX_EVENTS="100000000",
                # only a reload that is asked for swaps
                HATSTAND_STORE_POLL_SECONDS="0",
                # a large model on a slow machine is to be measured, not answered for by fallbacks
                HATSTAND_MODEL_STUCK_SECONDS="60",
                HATSTAND_REQUEST_TIMEOUT_MS="60000",
            )
        )

    def _workloads(self, served: Served, worker: ForwardFloor) -> dict[str, dict[str, Any]]:
        done = {name: self._cached(served, name) for name in _CACHED}
        done["uncached"] = self._encoded(served, worker, grows=False)
        if served.kind == _WITH_KEPT_STATES:
            done["one_new_event"] = self._encoded(served, worker, grows=True)
        return done

    def _encoded(self, served: Served, worker: ForwardFloor, *, grows: bool) -> dict[str, Any]:
        """Requests for which the model runs, beside the bare work."""
        say(f"{served.kind}, {'one new event' if grows else 'uncached'}")
        traffic = (OneNewEvent if grows else Uncached)(self._service, served)
        # batches are of the size that the service turns out to run
        task = Task(served.bundle_ids[0], 1, self._budget.seconds / 2, served.history_length, grows)
        figures, _ = measure(self._service, traffic, self._budget, floors={"forward": forward_floor_of(worker, task)})
        return figures

    def _cached(self, served: Served, name: str) -> dict[str, Any]:
        """Requests for which no model runs, beside apps that do less."""
        say(f"{served.kind}, {name}")
        traffic = _CACHED[name](self._service, served)
        floors = self._floors.of_traffic(served.kind, traffic)
        figures, _ = measure(self._service, traffic, self._budget, floors=floors)
        ours = ask_alone(self._service, traffic, self._budget.seconds / 2)
        plain = ask_alone(self._floors.plain[served.kind], traffic, self._budget.seconds / 2)
        return figures | {
            "alone": asdict(ours),
            "alone_plain": asdict(plain),
            "cpu_over_plain": ours.cpu_ms / plain.cpu_ms,
        }

    def _swaps(self, served: Served, workloads: dict[str, dict[str, Any]]) -> dict[str, Any]:
        say(f"{served.kind}, swapping bundles")
        return measure_swaps(
            self._service,
            Uncached(self._service, served),
            self._budget,
            rate=STEADY_SHARE * workloads["uncached"]["throughput_per_s"],
            store=ModelStore(self._root),
            bundle_ids=served.bundle_ids,
        )

    def _peer(self, served: Served, workloads: dict[str, dict[str, Any]]) -> dict[str, Any]:
        say(f"{served.kind}, LitServe")
        command = ["-m", "benchmarks.serving.floors.litserve", str(self._root), served.bundle_ids[0]]
        command += ["--threads", str(self._threads)]
        with serving(command, log_path=self._folder / "litserve.log", ready_path="/health") as server:
            traffic = PlainHistories(served)
            figures, _ = measure(server, traffic, self._budget, rate=workloads["uncached"]["rate_per_s"])
        return figures


@app.command()
def main(
    as_json: Annotated[bool, typer.Option("--json", help="Kept for symmetry: the result is always JSON.")] = True,  # noqa: ARG001
    store: Annotated[Path | None, typer.Option(help="A store with live bundles; a copy of it is served.")] = None,
    seconds: Annotated[float, typer.Option(min=0.2, help="Of one open loop; a closed loop takes half.")] = 6.0,
    rounds: Annotated[int, typer.Option(min=1, help="Medians are over so many; as many swaps.")] = 3,
    quick: Annotated[bool, typer.Option("--quick", help="One round of two seconds.")] = False,
    litserve: Annotated[bool, typer.Option(help="Measure LitServe too.")] = True,
    threads: Annotated[int, typer.Option(min=0, help="Of torch, for each contestant; 0 = all cores.")] = 0,
    num_items: Annotated[int, typer.Option(min=100, help="Of the made catalogue.")] = 5_000,
    history: Annotated[int, typer.Option(min=2, help="Items of a history.")] = 40,
    tokens_per_item: Annotated[int, typer.Option(min=2, help="That the HatLLM reads at most.")] = 8,
    width: Annotated[int, typer.Option(min=8, help="Of both made models.")] = 384,
    heads: Annotated[int, typer.Option(min=1, help="Attention heads.")] = 6,
    hllm_layers: Annotated[int, typer.Option(min=1, help="Depth of the made User LLM.")] = 8,
    hatllm_layers: Annotated[int, typer.Option(min=4, help="Depth of the made HatLLM.")] = 8,
) -> None:
    """Measures the service."""
    if litserve and find_spec("litserve") is None:
        raise InvalidInput("LitServe is not installed: pip install 'hatstand[benchmarks]', or pass --no-litserve")
    # ended by a signal, we still end our servers
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    shape = Shape(num_items, history, tokens_per_item, width, heads, hllm_layers, hatllm_layers)
    budget = Budget(2.0, 1) if quick else Budget(seconds, rounds)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="hatstand-") as name, ExitStack() as stack:
        folder = Path(name)
        say("the store")
        root = make_store(shape, folder) if store is None else copy_store(store, folder)
        figures = Run(root, folder, budget, threads, stack).figures(with_peer=litserve)
    figures["setup"] = {
        "store": "made, random weights" if store is None else "given",
        **({} if store is not None else {"shape": asdict(shape)}),
        **asdict(budget),
        "torch_threads": threads or "all cores",
        "hardware": f"{platform.machine()}, {os.cpu_count()} CPUs, shared by client, service and Redis",
        "took_s": time.monotonic() - started,
    }
    job.report(rounded(figures))


if __name__ == "__main__":
    job.run(app)
