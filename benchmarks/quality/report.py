"""The comparison as Markdown, JSON and a plot."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.quality.statistics import Interval, average_gain

_COLUMNS = ("recall@5", "recall@10", "recall@50", "ndcg@5", "ndcg@10", "ndcg@50")


@dataclass(frozen=True)
class SystemResult:
    """One system, over all seeds.

    Attributes:
        seeds: That it was trained with.
        metrics: With the items of the history not ranked.
        unmasked: NDCG@10 and recall@10 with those items ranked, too.
        beyond: Coverage, novelty and the share of the most popular hundredth of the items, at 10.
        slices: Name of a part of the users to its metrics.
        over_best_ids: The difference to the best system that knows clicks alone.
    """

    seeds: tuple[int, ...]
    metrics: Mapping[str, Interval]
    unmasked: Mapping[str, float]
    beyond: Mapping[str, float]
    slices: Mapping[str, Mapping[str, float]]
    over_best_ids: Mapping[str, Interval]


@dataclass(frozen=True)
class Comparison:
    """All systems on one dataset.

    Attributes:
        about: Dataset, split, counts, date, hardware and versions.
        best_ids: Name of the best system that knows clicks alone, by NDCG@10.
        systems: By name.
    """

    about: Mapping[str, Any]
    best_ids: str
    systems: Mapping[str, SystemResult]

    def markdown(self) -> str:
        """Three tables: accuracy, beyond accuracy, slices."""
        parts = [
            f"# Quality on {self.about['dataset']}",
            ", ".join(f"{name} {value}" for name, value in self.about.items() if name != "dataset") + ".",
            "The whole catalogue is ranked without the items of the history; the target is each user's last item. "
            "In brackets: where 95 % of the means lie when users are redrawn. "
            f"*Over ids*: NDCG@10 minus that of {self.best_ids}, the best system of clicks alone, user by user; "
            "*average gain*: over recall and NDCG at 10, 50 and 200, beside the same system.",
            self._accuracy(),
            "## Beyond accuracy",
            "*Head*: share of recommendations that are among the most popular hundredth of the items. *Seen ranked*: "
            "the items of the history are ranked, too.",
            self._beyond(),
            "## By user and item (NDCG@10)",
            self._slices(),
        ]
        return "\n\n".join(parts) + "\n"

    def write(self, directory: Path) -> None:
        """Writes ``quality.md``, ``quality.json`` and ``quality.png``."""
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "quality.md").write_text(self.markdown())
        (directory / "quality.json").write_text(json.dumps(asdict(self), indent=2) + "\n")
        _draw(self, directory / "quality.png")

    def _ordered(self) -> list[tuple[str, SystemResult]]:
        return sorted(self.systems.items(), key=lambda one: -one[1].metrics["ndcg@10"].mean)

    def _accuracy(self) -> str:
        best = self.systems[self.best_ids].metrics
        rows = []
        for name, one in self._ordered():
            cells = [_figure(one.metrics[column]) for column in _COLUMNS]
            over = "" if name == self.best_ids else _signed(one.over_best_ids["ndcg@10"])
            rows.append([name, str(len(one.seeds)), *cells, over, f"{average_gain(one.metrics, best):+.1%}"])
        heads = ["system", "seeds", *(column.replace("recall", "R").replace("ndcg", "N") for column in _COLUMNS)]
        return _table([*heads, "over ids", "average gain"], rows)

    def _beyond(self) -> str:
        rows = [
            [
                name,
                *(f"{one.beyond[key]:.3f}" for key in ("coverage@10", "novelty@10", "head@10")),
                *(_short(one.unmasked[key]) for key in ("recall@10", "ndcg@10")),
            ]
            for name, one in self._ordered()
        ]
        heads = ["system", "coverage@10", "novelty@10 (bits)", "head@10", "seen ranked: R@10", "seen ranked: N@10"]
        return _table(heads, rows)

    def _slices(self) -> str:
        names = list(next(iter(self.systems.values())).slices)
        rows = [[name, *(_short(one.slices[part]["ndcg@10"]) for part in names)] for name, one in self._ordered()]
        return _table(["system", *(part.replace("_", " ") for part in names)], rows)


def _table(heads: list[str], rows: list[list[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _short(value: float) -> str:
    return f"{value:.4f}".removeprefix("0")


def _figure(interval: Interval) -> str:
    return f"{_short(interval.mean)} [{_short(interval.low)}, {_short(interval.high)}]"


def _signed(interval: Interval) -> str:
    return f"{interval.mean:+.4f} [{interval.low:+.4f}, {interval.high:+.4f}]"


def _draw(comparison: Comparison, path: Path) -> None:
    # importing matplotlib takes a second that reading results should not pay
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    systems = sorted(comparison.systems.items(), key=lambda one: one[1].metrics["ndcg@10"].mean)
    figure = Figure(figsize=(8, 1 + 0.4 * len(systems)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    values = [one.metrics["ndcg@10"] for _, one in systems]
    errors = [[value.mean - value.low for value in values], [value.high - value.mean for value in values]]
    axes.barh([name for name, _ in systems], [value.mean for value in values], xerr=errors)
    axes.set(xlabel="NDCG@10, 95 % intervals over users", title=str(comparison.about["dataset"]))
    figure.savefig(path, dpi=120)
