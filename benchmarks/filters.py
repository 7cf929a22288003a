"""What constraints cost: a filtered search against the plain one over the same index, by how much the filter leaves.

Everything after the model is measured: evaluating the filter, the search, ranking, the last check; not HTTP and Redis.
The floor is the plain search for the same number of items, taken in turn with each case. Beside the plan that was
picked, the others are timed. Times are of the processor, one thread, as the clock of a shared machine says little.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import typer

from model_store.catalogue.catalogue import Catalogue
from model_store.index import build_index, normalize
from service.engine.served_bundle import MaskCache
from service.recommend.ask import Ask, Boost, Pin, Query
from service.recommend.candidates.admissible import admissible_items
from service.recommend.candidates.filter_wire import FilterNode
from service.recommend.deadline import Deadline
from service.recommend.known import Known
from service.recommend.ranking.answering import ModelView, make_answer
from service.recommend.ranking.planner import Choice, PlanName
from service.recommend.ranking.retrieve import run_plan

_SEED = 0
_NUM_BRANDS = 1_000
_SHARES = (0.9, 0.5, 0.2, 0.05, 0.01, 0.001)
_NAMES: tuple[PlanName, ...] = ("over_fetch", "selector", "exact_scan")

app = typer.Typer(add_completion=False, help=__doc__)


@app.command()
def main(
    items: Annotated[int, typer.Option(min=1_000, help="N")] = 100_000,
    width: Annotated[int, typer.Option(min=2, help="D")] = 64,
    k: Annotated[int, typer.Option(min=1, max=500)] = 10,
    rounds: Annotated[int, typer.Option(min=1, help="Medians are over so many")] = 30,
    index: Annotated[str, typer.Option(help="auto, or a FAISS factory string")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON")] = False,
) -> None:
    """Measures and prints."""
    served, users = _shop(items, width, rounds, index)
    figures = measure(served, users, k=k)
    if as_json:
        sys.stdout.write(json.dumps(figures) + "\n")
        return
    sys.stdout.write(f"{'':24}{'ms':>9}{'x floor':>9}  {'plan':12}" + "".join(f"{name:>12}" for name in _NAMES) + "\n")
    for name, row in figures["cases"].items():
        others = "".join(f"{row['plans_ms'].get(plan, float('nan')):12.3f}" for plan in _NAMES)
        sys.stdout.write(f"{name:24}{row['ms']:9.3f}{row['ratio_to_floor']:9.2f}  {row['plan']:12}{others}\n")


def measure(served: Any, users: np.ndarray, *, k: int) -> dict[str, Any]:
    """Times of every case.

    Args:
        served: What ``_shop`` made.
        users: (R, D) float32, a user for each round.
        k: Items wanted.
    """
    floors: list[float] = []
    cases: dict[str, dict[str, Any]] = {}
    for name, more in _cases(served, k).items():
        query = Query(user_id=None, k=k, timeout_seconds=10.0, **more)
        _answer(served, query, users[0])  # what is computed once per bundle
        seconds, floor = _medians(users, partial(_answer, served, query), partial(_plain_search, served, k))
        floors.append(floor)
        plan = _answer(served, query, users[0])[1].plans[-1]
        cases[name] = {
            "ms": round(1_000 * seconds, 4),
            "ratio_to_floor": round(seconds / floor, 3),
            "plan": plan.name,
            "admissible": plan.num_admissible,
            "plans_ms": _other_plans(served, query, users) if "filter" in more else {},
        }
    (first,) = _medians(users[:5], lambda _: _evaluate_anew(served, _tree(0.2)))
    return {
        "items": len(served.catalogue),
        "width": int(users.shape[1]),
        "k": k,
        "index": served.bundle.index.factory,
        "floor_ms": round(1_000 * statistics.median(floors), 4),
        "first_evaluation_ms": round(1_000 * first, 4),
        "cases": cases,
    }


def _cases(served: Any, k: int) -> dict[str, dict[str, Any]]:
    seen = tuple(served.catalogue.item_ids[:200])
    cases: dict[str, dict[str, Any]] = {"nothing": {}, "200 excluded": {"exclude_item_ids": seen}}
    for share in _SHARES:
        cases[f"filter leaves {share:.1%}"] = {"filter": _tree(share)}
    brands = {"any_of": [f"brand {number}" for number in range(0, _NUM_BRANDS, 2)]}
    sent = {"or": [{"brand": brands}, {"not": {"price": {"exists": True}}}], "rank": {"lte": 0.4}}
    cases["tree of 3 leaves"] = {"filter": FilterNode.model_validate(sent).tree()}
    cases["diversity 0.3"] = {"diversity": 0.3}
    cases["one per brand"] = {"max_per": {"brand": 1}}
    boosts = (Boost(filter=_tree(0.1), multiply=1.5), Boost(item_ids=seen[:20], add=0.2))
    cases["2 boosts, 2 pins"] = {"boosts": boosts, "pins": [Pin(seen[0], 2), Pin(seen[1], 5)]}
    cases[f"list of 500 for pages of {k}"] = {"paginate": True}
    return cases


def _other_plans(served: Any, query: Query, users: np.ndarray) -> dict[str, float]:
    """Each plan for the same admissible items; over-fetching only where it finds enough."""
    admissible = admissible_items(served, query, Known())
    count = admissible.count()
    fetch = {"over_fetch": min(int(2 * query.k * admissible.num_items / count), 20_000), "selector": query.k}
    choices = [Choice(name, fetch.get(name, count)) for name in _NAMES]

    def run(choice: Choice, user: np.ndarray) -> int:
        return len(run_plan(choice, served.bundle, user, query.k, admissible))

    choices = [choice for choice in choices if run(choice, users[0]) == min(query.k, count)]
    seconds = _medians(users[:10], *(partial(run, choice) for choice in choices))
    return {choice.name: round(1_000 * one, 4) for choice, one in zip(choices, seconds, strict=True)}


def _plain_search(served: Any, k: int, user: np.ndarray) -> Any:
    return served.bundle.index.search(user[None], k)


def _answer(served: Any, query: Query, user: np.ndarray) -> Any:
    return make_answer(Ask(query, (), served, "retrieve", Deadline.after(10.0)), Known(), ModelView(user=user))


def _evaluate_anew(served: Any, node: Any) -> None:
    fresh: Any = SimpleNamespace(**{**vars(served), "masks": MaskCache()})
    admissible_items(fresh, Query(user_id=None, k=1, timeout_seconds=1.0, filter=node), Known())


def _tree(share: float) -> Any:
    return FilterNode.model_validate({"rank": {"lte": share}}).tree()


def _medians(users: np.ndarray, *works: Callable[[np.ndarray], Any]) -> list[float]:
    """Median seconds of each piece of work, done in turn for every user."""
    times: list[list[float]] = [[] for _ in works]
    for turn, user in enumerate(users):
        for at in range(len(works)):
            place = (turn + at) % len(works)  # whoever comes second finds the index in the cache
            started = time.thread_time()
            works[place](user)
            times[place].append(time.thread_time() - started)
    return [statistics.median(of_work) for of_work in times]


def _shop(num_items: int, width: int, rounds: int, factory: str) -> tuple[Any, np.ndarray]:
    random = np.random.default_rng(_SEED)
    vectors = random.normal(size=(num_items, width)).astype(np.float32)
    ids = [f"item {number}" for number in range(num_items)]
    price = random.lognormal(3.0, 1.0, num_items)
    table = pa.table(
        {
            "item_id": ids,
            "title": ids,
            "rank": random.random(num_items),
            "price": pa.array(price, mask=random.random(num_items) < 0.1),
            "brand": [f"brand {number}" for number in random.integers(0, _NUM_BRANDS, num_items)],
            "popularity": pa.array(random.integers(0, 10_000, num_items)),
        }
    )
    built = build_index(vectors, factory=factory)
    catalogue = Catalogue.from_table(table)
    bundle = SimpleNamespace(
        index=built.index,
        item_directions=lambda item_indices: normalize(vectors[item_indices - 1]),
        catalogue=catalogue,
    )
    served = SimpleNamespace(bundle=bundle, catalogue=catalogue, masks=MaskCache(), kind="hllm")
    return served, random.normal(size=(rounds, width)).astype(np.float32)


if __name__ == "__main__":
    app()
