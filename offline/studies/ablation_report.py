"""Tables and plots of ablations: one of each per study."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from model_store.artifacts.durable import write_atomically
from offline.studies.ablation_results import METRICS, Row
from offline.studies.ablation_studies import STUDIES

_HEADERS = ("R@5", "R@10", "N@5", "N@10")
_DRAWN = ("recall@10", "ndcg@10")


def write_study(directory: Path, name: str, rows: Sequence[Row], *, setup: Mapping[str, Any], with_plot: bool) -> str:
    """Writes ``<study>.md``, ``<study>.json`` and, where wanted, ``<study>.png``.

    Args:
        directory: Where to.
        name: Of the study.
        rows: As far as they are done.
        setup: What all rows share, by name: dataset, split, candidates and so on.
        with_plot: Draw too, which takes a second.

    Returns:
        The table, as markdown.
    """
    table = format_study(name, rows, setup=setup)
    content = {"study": name, "setup": dict(setup), "rows": [row.to_dict() for row in rows]}
    write_atomically(directory / f"{name}.md", f"{table}\n".encode())
    write_atomically(directory / f"{name}.json", json.dumps(content, indent=2).encode() + b"\n")
    if with_plot:
        draw_study(name, rows, directory / f"{name}.png")
    return table


def format_study(name: str, rows: Sequence[Row], *, setup: Mapping[str, Any]) -> str:
    """One line per row: means over seeds, with the standard deviation behind them."""
    lines = [
        f"### {name}: {STUDIES[name].title}",
        "",
        "; ".join(f"{key}: {value}" for key, value in setup.items()) + ".",
        "Mean and standard deviation over seeds; *base* is what the study started from, and the gain is over it, seed "
        "by seed.",
        "",
        f"| {name} | seeds | {' | '.join(_HEADERS)} | gain in N@10 | training |",
        f"|---|---|{'---|' * len(_HEADERS)}---|---|",
    ]
    for row in rows:
        figures = row.to_dict()
        cells = [
            row.value + (" *(base)*" if row.is_base else ""),
            ",".join(map(str, row.seeds)) or "none yet",
            *(_cell(figures["metrics"][metric]) for metric in METRICS),
            "" if row.is_base else _cell(figures["ndcg@10_over_base"], signed=True),
            _duration(figures["training_seconds"]["mean"]),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(figure: Mapping[str, float | None], *, signed: bool = False) -> str:
    if figure["mean"] is None:
        return "-"
    mean = format(figure["mean"], "+.4f" if signed else ".4f")
    return mean if figure["sd"] is None else f"{mean} ± {figure['sd']:.4f}"


def _duration(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def draw_study(name: str, rows: Sequence[Row], path: Path) -> None:
    """Draws recall and NDCG at 10 of each row: every seed as a point, the mean with its standard deviation."""
    # here and not above: importing matplotlib takes a second that no other user of this module should pay
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    is_number = all(row.value.isdigit() for row in rows)
    places = [int(row.value) if is_number else place for place, row in enumerate(rows)]
    for axis, metric in zip(figure.subplots(1, len(_DRAWN)), _DRAWN, strict=True):
        for place, row in zip(places, rows, strict=True):
            axis.plot([place] * len(row.records), row.values(metric), ".", color="0.6")
        done = [(place, row.to_dict()["metrics"][metric]) for place, row in zip(places, rows, strict=True) if row.seeds]
        axis.errorbar(
            [place for place, _ in done],
            [figure["mean"] for _, figure in done],
            yerr=[figure["sd"] or 0.0 for _, figure in done],
            fmt="o-" if is_number else "o",
            capsize=3,
        )
        axis.set_xticks(places, [row.value + ("\n(base)" if row.is_base else "") for row in rows])
        axis.set(xlabel=STUDIES[name].title, ylabel=metric)
        axis.margins(x=0.1)
    figure.savefig(path, dpi=120)
