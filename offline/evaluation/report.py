"""Sums an evaluation up: metrics by slice, a table to read, a plot to look at."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from offline.evaluation.catalogue_ranking import Ranking
from offline.evaluation.ranking_metrics import (
    CUTOFFS,
    coverage_at_k,
    ndcg_gains,
    novelty_at_k,
    rank_metrics,
    self_information,
)

ALL_CASES = "all"
_TABLE_COLUMNS = (
    *(f"recall@{k}" for k in CUTOFFS),
    *(f"ndcg@{k}" for k in CUTOFFS),
    "mrr@10",
    "coverage@10",
    "novelty@10",
)


def summarise(ranking: Ranking, slices: Mapping[str, np.ndarray], *, counts: np.ndarray) -> dict[str, dict[str, Any]]:
    """Metrics of one system on each slice of the cases.

    Args:
        ranking: Its ranks and recommendations in C cases.
        slices: Name -> (C,) bool. Slices without a case are left out.
        counts: (N,) int64 interactions of each item in training, for novelty.

    Returns:
        Slice -> cases, recall, ndcg, mrr, coverage (share of the catalogue) and novelty (bits) at each
        cutoff, and the standard errors of recall@10 and ndcg@10.
    """
    information = self_information(counts)
    summary: dict[str, dict[str, Any]] = {}
    for name, is_member in slices.items():
        if not is_member.any():
            continue
        ranks, recommended = ranking.ranks[is_member], ranking.recommended[is_member]
        metrics: dict[str, Any] = {"cases": int(is_member.sum())} | rank_metrics(ranks)
        for k in CUTOFFS:
            metrics[f"coverage@{k}"] = coverage_at_k(recommended, k, num_items=len(counts))
            metrics[f"novelty@{k}"] = novelty_at_k(recommended, k, information=information)
        metrics["recall@10_standard_error"] = standard_error((ranks <= 10).astype(np.float64))
        metrics["ndcg@10_standard_error"] = standard_error(ndcg_gains(ranks, 10))
        # JSON has no NaN
        summary[name] = {key: None if _is_nan(value) else value for key, value in metrics.items()}
    return summary


def standard_error(values: np.ndarray) -> float:
    """Standard error of the mean of (C,) values."""
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else float("nan")


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def format_table(systems: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """A table of text: one line for each slice and system, the systems of a slice together."""
    header = ("slice", "system", "cases", *_TABLE_COLUMNS)
    slices = dict.fromkeys(name for summary in systems.values() for name in summary)
    lines = [
        (name, system, str(summary[name]["cases"]), *(_cell(summary[name][key]) for key in _TABLE_COLUMNS))
        for name in slices
        for system, summary in systems.items()
        if name in summary
    ]
    widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]

    def line(cells: tuple[str, ...]) -> str:
        names = [cell.ljust(width) for cell, width in zip(cells[:2], widths[:2], strict=True)]
        figures = [cell.rjust(width) for cell, width in zip(cells[2:], widths[2:], strict=True)]
        return "  ".join(names + figures)

    return "\n".join([line(header), line(tuple("-" * width for width in widths)), *map(line, lines)])


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def draw_plot(report: Mapping[str, Any], path: Path) -> None:
    """Draws recall over k, and NDCG@10 by slice, of each system.

    Args:
        report: What ``evaluate`` returns.
        path: Where to write it; the suffix says the format.
    """
    # here and not above: importing matplotlib takes a second that no other user of this module should pay
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    systems = report["systems"]
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for name, summary in systems.items():
        left.plot(CUTOFFS, [summary[ALL_CASES][f"recall@{k}"] for k in CUTOFFS], marker="o", label=name)
    left.set(xscale="log", xlabel="k", ylabel="recall@k", title="All cases")
    left.set_xticks(CUTOFFS, [str(k) for k in CUTOFFS])
    left.minorticks_off()
    left.legend()
    slices = list(dict.fromkeys(name for summary in systems.values() for name in summary))
    width = 0.8 / len(systems)
    for i, (name, summary) in enumerate(systems.items()):
        values = [summary.get(part, {}).get("ndcg@10") or 0.0 for part in slices]
        errors = [summary.get(part, {}).get("ndcg@10_standard_error") or 0.0 for part in slices]
        places = np.arange(len(slices)) + (i - (len(systems) - 1) / 2) * width
        right.bar(places, values, width, yerr=errors, label=name)
    right.set_xticks(range(len(slices)), [part.replace("_", "\n") for part in slices])
    right.set(ylabel="NDCG@10 (bars: standard error)", title="By slice")
    right.legend()
    figure.suptitle(f"{report['dataset']}, {report['split']}, {report['num_items']} items, all ranked")
    figure.savefig(path, dpi=120)
