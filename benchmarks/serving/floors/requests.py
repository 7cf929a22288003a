"""The floors of a request for which no model runs: servers that do less, asked by the same client in turn."""

import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks.serving.counters import Growth
from benchmarks.serving.measure import Budget, best_level, closed
from benchmarks.serving.processes import Server, serving
from benchmarks.serving.store import Served
from benchmarks.serving.traffic import Repeated, Traffic

Floor = Callable[[Growth], float]


@dataclass(frozen=True)
class RequestFloors:
    """The servers, and how many callers get the most out of each.

    Attributes:
        plain: By kind of model: the plain app over the live bundle's items.
        empty: Has the routes ``/empty`` and ``/typed``.
        budget: For how long each is measured.
    """

    plain: Mapping[str, Server]
    empty: Server
    budget: Budget

    def of_traffic(self, kind: str, traffic: Traffic) -> dict[str, Floor]:
        """By name, what measures one of the floors once; ``plain`` is asked what the service is asked."""
        return {
            "plain": self._floor(self.plain[kind], traffic),
            "empty": self._floor(self.empty, Repeated("/empty")),
            "typed": self._floor(self.empty, Repeated("/typed")),
        }

    def _floor(self, server: Server, traffic: Traffic) -> Floor:
        callers, rate = best_level(server, traffic, self.budget.seconds / 6)

        def measure_once(_: Growth) -> float:
            return closed(server, traffic, callers=callers, seconds=self.budget.seconds / 2, rate=rate).throughput

        return measure_once


def start_request_floors(
    stack: ExitStack,
    folder: Path,
    budget: Budget,
    *,
    store: Path,
    kinds: list[Served],
    redis_url: str,
    answer: Mapping[str, object],
) -> RequestFloors:
    """Starts the servers; they end with the stack.

    Args:
        stack: Of what has to be ended.
        folder: Scratch.
        budget: For how long each floor is measured.
        store: Whose items the plain app searches.
        kinds: What is live.
        redis_url: Where the service keeps histories.
        answer: One answer of the service, which ``empty`` and ``typed`` give to everybody.
    """
    path = folder / "answer.json"
    path.write_text(json.dumps(answer, separators=(",", ":")))

    def start(name: str, *command: str) -> Server:
        return stack.enter_context(serving(["-m", *command], log_path=folder / f"{name}.log", ready_path="/readyz"))

    plain = {
        one.kind: start(
            f"plain-{one.kind}", "benchmarks.serving.floors.plain", "serve", str(store), one.bundle_ids[0], redis_url
        )
        for one in kinds
    }
    return RequestFloors(plain, start("empty", "benchmarks.serving.floors.empty", str(path)), budget)
