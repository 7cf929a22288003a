"""Generates a believable shop: a catalogue and half a year of its visitors' sessions.

What a visitor does next follows from what they just did: a session has an intent (a department, and within it
one brand's product line), alternatives are compared, and what was found calls for what goes with it (a
grinder after an espresso machine, of the same line). Over it lie popularity, trends that come and go, new
arrivals, and noise. So the order of a history tells much more than popularity does, and titles tell what goes
with a new item.
"""

import bisect
import itertools
import math
import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from model_store.errors import InvalidInput
from offline.dataset.dataset import DatasetDescription
from offline.dataset.formats.rows import Interaction, Item
from offline.dataset.writer import WriteOptions, write_dataset
from offline.job import job
from offline.shop.vocabulary import COLOURS, DEPARTMENTS, Department

app = typer.Typer(add_completion=False, help=__doc__)

_DAY = 86_400
_START = 1_735_689_600  # 2025-01-01, so that a shop is the same whenever it is generated
_DAYS = 181
_MIN_ITEMS = 50
_MEAN_SESSIONS = 4.0
_MEAN_FURTHER_EVENTS = 2.3
_TREND_DAYS = 10.0
_TREND_STRENGTH = 6.0
_NEW_ARRIVALS = 0.03
_NEW_ARRIVAL_DAYS = 25
# what a visitor does after looking at an item; the rest of the time they look at anything in the department
_TO_COMPLEMENT = 0.48
_TO_ALTERNATIVE = 0.30
_TO_TREND = 0.12
_ANOTHER_DEPARTMENT = 0.1
_FAVOURITE_LINE = 0.65


@dataclass(frozen=True)
class _Product:
    """An item and what decides how often it is looked at.

    Attributes:
        item: As it is in the catalogue.
        cell: Department, place of its category there, product line.
        appeal: Popularity, above 0.
        peak: When its trend peaks, seconds.
        launched: Nobody sees it before, seconds.
    """

    item: Item
    cell: tuple[int, int, int]
    appeal: float
    peak: float
    launched: float

    def attraction(self, now: float) -> float:
        if now < self.launched:
            return 0.0
        trend = math.exp(-(((now - self.peak) / (_TREND_DAYS * _DAY)) ** 2))
        return self.appeal * (1 + _TREND_STRENGTH * trend)


@dataclass(frozen=True)
class _Visitor:
    """Who comes to the shop.

    Attributes:
        user_id: As it is in the log.
        departments: What they care about, most first.
        lines: Their favourite product line in each department.
    """

    user_id: str
    departments: list[int]
    lines: list[int]


def generate_shop(
    out: Path, *, num_items: int = 2_000, num_users: int = 3_500, seed: int = 0, overwrite: bool = False
) -> DatasetDescription:
    """Writes a dataset of a generated shop; the same arguments make the same one.

    Args:
        out: The dataset directory to make.
        num_items: At least 50.
        num_users: At least 2; each has about 14 interactions.
        seed: Another seed makes another shop.
        overwrite: Replace a dataset that is there already.

    Raises:
        InvalidInput: Too few items or users, or ``out`` is taken.
    """
    if num_items < _MIN_ITEMS:
        raise InvalidInput(f"a shop of {num_items} items, expected at least {_MIN_ITEMS}")
    products = _products(num_items, random.Random(f"products {seed}"))
    visits = _Visits(products, random.Random(f"visits {seed}"))
    return write_dataset(
        out,
        items=(product.item for product in products),
        interactions=visits.interactions(num_users),
        options=WriteOptions(source="demo shop", time_unit="seconds", overwrite=overwrite),
        report=lambda: {"files": [], "seed": seed},
    )


def _products(num_items: int, rng: random.Random) -> list[_Product]:
    cells = [
        (department, place, line)
        for department, its in enumerate(DEPARTMENTS)
        for line in range(len(_lines(its)))
        for place in range(len(its.categories))
    ]
    rng.shuffle(cells)
    in_order = list(itertools.islice(itertools.cycle(cells), num_items))
    rng.shuffle(in_order)
    titles: set[str] = set()
    return [_product(number, cell, titles, rng) for number, cell in enumerate(in_order, start=1)]


def _product(number: int, cell: tuple[int, int, int], titles: set[str], rng: random.Random) -> _Product:
    department = DEPARTMENTS[cell[0]]
    category = department.categories[cell[1]]
    brand, line = _lines(department)[cell[2]]
    for attempt in itertools.count():
        words = f"{brand} {line} {rng.choice(category.nouns)}"
        title = f"{words}, {rng.choice(category.features)}, {rng.choice(COLOURS)}"
        if attempt >= 20:
            title = f"{title}, No. {number}"
        if title not in titles:
            break
    titles.add(title)
    price = max(1.0, round(category.price * (0.7 + 0.15 * (cell[2] % 5)) * rng.lognormvariate(0, 0.2)) - 0.01)
    attributes = {
        "category": category.name,
        "department": department.name,
        "brand": brand,
        "price": round(price, 2),
    }
    is_new = rng.random() < _NEW_ARRIVALS
    return _Product(
        item=Item(f"item-{number:05d}", title, attributes),
        cell=cell,
        appeal=rng.paretovariate(1.6),
        peak=_START + rng.uniform(-0.1, 1.1) * _DAYS * _DAY,
        launched=_START + (_DAYS - rng.uniform(0, _NEW_ARRIVAL_DAYS)) * _DAY if is_new else 0.0,
    )


def _lines(department: Department) -> list[tuple[str, str]]:
    return [(brand, line) for brand, lines in department.brands.items() for line in lines]


class _Visits:
    """Lets visitors walk through the shop."""

    def __init__(self, products: list[_Product], rng: random.Random) -> None:
        self._rng = rng
        self._by_cell: dict[tuple[int, ...], list[_Product]] = defaultdict(list)
        for product in products:
            department, place, line = product.cell
            # found by department, by category, and by category and line
            for key in ((department,), (department, place), (department, place, line)):
                self._by_cell[key].append(product)

    def interactions(self, num_users: int) -> Iterator[Interaction]:
        """Yields the log, user by user."""
        for number in range(1, num_users + 1):
            yield from self._visitor_log(self._visitor(number))

    def _visitor(self, number: int) -> _Visitor:
        departments = self._rng.sample(range(len(DEPARTMENTS)), 3)
        lines = [self._popular_line(department) for department in range(len(DEPARTMENTS))]
        return _Visitor(f"user-{number:05d}", departments, lines)

    def _popular_line(self, department: int) -> int:
        """Some lines are liked by more people than others."""
        count = len(_lines(DEPARTMENTS[department]))
        return min(int(self._rng.random() ** 1.5 * count), count - 1)

    def _visitor_log(self, visitor: _Visitor) -> Iterator[Interaction]:
        seen: set[str] = set()
        num_sessions = 2 + int(self._rng.expovariate(1 / (_MEAN_SESSIONS - 1.5)))
        starts = sorted(_START + self._rng.random() * _DAYS * _DAY for _ in range(num_sessions))
        for start in starts:
            yield from self._session(visitor, start, seen)

    def _session(self, visitor: _Visitor, now: float, seen: set[str]) -> Iterator[Interaction]:
        department = self._intended_department(visitor)
        line = visitor.lines[department] if self._rng.random() < _FAVOURITE_LINE else self._popular_line(department)
        place = int(self._rng.random() ** 1.7 * len(DEPARTMENTS[department].categories))
        product = self._pick((department, place, line), now, seen)
        num_events = 2 + int(self._rng.expovariate(1 / _MEAN_FURTHER_EVENTS))
        for number in range(num_events):
            if product is None:
                return
            seen.add(product.item.item_id)
            is_last = number == num_events - 1
            kind = self._rng.choices(("view", "cart", "purchase"), (2, 1, 3) if is_last else (8, 2, 1))[0]
            yield Interaction(visitor.user_id, product.item.item_id, int(now), kind)
            now += self._rng.uniform(15, 240)
            product = self._following(product, now, seen)

    def _intended_department(self, visitor: _Visitor) -> int:
        if self._rng.random() < _ANOTHER_DEPARTMENT:
            return self._rng.randrange(len(DEPARTMENTS))
        return self._rng.choices(visitor.departments, (6, 3, 1))[0]

    def _following(self, product: _Product, now: float, seen: set[str]) -> _Product | None:
        department, place, line = product.cell
        chance = self._rng.random()
        keys: list[tuple[int, ...]] = []
        if chance < _TO_COMPLEMENT:
            keys.append((department, (place + 1) % len(DEPARTMENTS[department].categories), line))
        elif chance < _TO_COMPLEMENT + _TO_ALTERNATIVE:
            keys.append((department, place, line))
        if chance < _TO_COMPLEMENT + _TO_ALTERNATIVE + _TO_TREND:
            keys.append((department, place))
        for key in (*keys, (department,)):
            found = self._pick(key, now, seen)
            if found is not None:
                return found
        return None

    def _pick(self, key: tuple[int, ...], now: float, seen: set[str]) -> _Product | None:
        """One of the products there that the visitor has not seen, by attraction."""
        candidates = [product for product in self._by_cell[key] if product.item.item_id not in seen]
        weights = list(itertools.accumulate(product.attraction(now) for product in candidates))
        if not weights or not weights[-1]:
            return None
        return candidates[bisect.bisect(weights, self._rng.random() * weights[-1], hi=len(weights) - 1)]


@app.command()
def main(
    out: Annotated[Path, typer.Option(help="The dataset directory to make.")],
    num_items: Annotated[int, typer.Option(help="At least 50.", min=1)] = 2_000,
    num_users: Annotated[int, typer.Option(help="Each has about 14 interactions.", min=2)] = 3_500,
    seed: Annotated[int, typer.Option(help="Another seed makes another shop.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the dataset at --out.")] = False,
) -> None:
    """Generate the demo shop as a dataset."""
    description = generate_shop(out, num_items=num_items, num_users=num_users, seed=seed, overwrite=overwrite)
    job.report({"dataset": out, **description.model_dump(exclude={"report", "schema_version"})})


if __name__ == "__main__":
    job.run(app)
