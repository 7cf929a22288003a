"""Puts the figures of the serving benchmark together, each with its target and whether it is met."""

from collections.abc import Mapping
from typing import Any

# Above this many times the rest of a request, the model dominates, and the service has to reach its floor's ratio.
_DOMINATES = 5.0
TARGETS: dict[str, tuple[str, float]] = {
    "ratio_to_floor": ("at_least", 0.8),
    "ratio_to_http_floor": ("at_least", 0.5),
    "p99_over_p50": ("at_most", 3.0),
    "swap_p99_ratio": ("at_most", 1.5),
}
Figures = dict[str, Any]


def judged(
    workloads: Mapping[str, dict[str, Figures]],
    *,
    http_floors: Mapping[str, float],
    swaps: Mapping[str, Figures],
    peers: Mapping[str, Figures],
) -> Figures:
    """The report. Its first figures are the worst of those below, by kind and workload.

    Args:
        workloads: By kind and name.
        http_floors: Requests per second of the empty routes.
        swaps: By kind.
        peers: LitServe by kind, asked what the workload ``uncached`` asks.
    """
    for of_kind in workloads.values():
        _complete(of_kind, http_floors)
    every = {f"{kind}/{name}": one for kind, of_kind in workloads.items() for name, one in of_kind.items()}
    dominated = [one["ratio_to_floor"] for one in every.values() if one.get("model_dominates")]
    first: Figures = {
        # nothing where the model does not dominate: then the ratio says what HTTP costs beside a small model
        "ratio_to_floor": min(dominated, default=None),
        "ratio_to_http_floor": min(
            one["ratio_to_http_floor"] for one in every.values() if "ratio_to_http_floor" in one
        ),
        "p50_ms": {name: one["p50_ms"] for name, one in every.items()},
        "p99_ms": {name: one["p99_ms"] for name, one in every.items()},
        "p99_over_p50": max(one["p99_over_p50"] for one in every.values()),
        "swap_p99_ratio": max(one["swap_p99_ratio"] for one in swaps.values()),
    }
    return {
        **_with_targets(first),
        "workloads": {kind: {name: _with_targets(one) for name, one in of.items()} for kind, of in workloads.items()},
        "swaps": {kind: _with_targets(one) for kind, one in swaps.items()},
        "http_floors": dict(http_floors),
        "litserve": {kind: _compared(workloads[kind]["uncached"], one) for kind, one in peers.items()},
    }


def rounded(value: Any) -> Any:
    """Floats to four significant digits, in whatever they are nested."""
    if isinstance(value, dict):
        return {name: rounded(one) for name, one in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _complete(of_kind: dict[str, Figures], http_floors: Mapping[str, float]) -> None:
    """Adds what needs more than one workload."""
    for one in of_kind.values():
        if "floor_per_s" not in one:
            one["ratio_to_http_floor"] = one["throughput_per_s"] / http_floors["empty_per_s"]
            one["ratio_to_typed_http_floor"] = one["throughput_per_s"] / http_floors["typed_per_s"]
        else:
            one["model_times_rest"] = of_kind["cached"]["throughput_per_s"] / one["floor_per_s"]
            one["model_dominates"] = one["model_times_rest"] >= _DOMINATES


def _with_targets(figures: Figures) -> Figures:
    wanted = {name: TARGETS[name] for name in TARGETS if figures.get(name) is not None}
    if not figures.get("model_dominates", True):
        wanted.pop("ratio_to_floor", None)
    met = {
        name: figures[name] >= limit if kind == "at_least" else figures[name] <= limit
        for name, (kind, limit) in wanted.items()
    }
    return {**figures, "targets": {name: {kind: limit} for name, (kind, limit) in wanted.items()}, "met": met}


def _compared(ours: Figures, theirs: Figures) -> Figures:
    """What is above 1 is better here than there."""
    return {
        **theirs,
        "throughput_ratio": ours["throughput_per_s"] / theirs["throughput_per_s"],
        "p50_ratio": theirs["p50_ms"] / ours["p50_ms"],
        "p99_ratio": theirs["p99_ms"] / ours["p99_ms"],
    }
