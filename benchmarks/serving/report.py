"""Puts the figures of the serving benchmark together, each with its target and whether it is met."""

from collections.abc import Mapping
from typing import Any

# Above this many times the rest of a request, the model dominates, and the service has to reach its floor's ratio.
_DOMINATES = 5.0
Target = tuple[str, float]
# Figure to target; for a workload those under its name count, too.
TARGETS: dict[str, Target] = {
    "ratio_to_forward": ("at_least", 0.85),
    "ratio_to_empty": ("at_least", 0.2),
    "cpu_over_plain": ("at_most", 2.0),
    "p99_over_p50": ("at_most", 4.0),
    "swap_p99_ratio": ("at_most", 1.5),
    "scaling": ("at_least", 1.4),
    "ratio_to_script": ("at_least", 0.5),
    "recommend_p99_ratio": ("at_most", 1.5),
}
_OF_WORKLOAD: dict[str, dict[str, Target]] = {
    "cached": {"ratio_to_plain": ("at_least", 0.5)},
    "repeated": {"ratio_to_plain": ("at_least", 0.7)},
}
Figures = dict[str, Any]


def judged(
    workloads: Mapping[str, dict[str, Figures]],
    *,
    swaps: Mapping[str, Figures],
    peers: Mapping[str, Figures],
    workers: Figures,
    events: Figures,
) -> Figures:
    """The report. Its first figures are the worst of those below, by kind and workload.

    Args:
        workloads: By kind and name.
        swaps: By kind.
        peers: LitServe by kind, asked what the workload ``uncached`` asks.
        workers: Two workers beside one.
        events: Reported events beside the bare script.
    """
    for of_kind in workloads.values():
        for one in of_kind.values():
            if "forward_per_s" in one:
                one["model_times_rest"] = of_kind["cached"]["throughput_per_s"] / one["forward_per_s"]
                one["model_dominates"] = one["model_times_rest"] >= _DOMINATES
    every = {f"{kind}/{name}": one for kind, of_kind in workloads.items() for name, one in of_kind.items()}
    dominated = [one["ratio_to_forward"] for one in every.values() if one.get("model_dominates")]
    first: Figures = {
        # nothing where the model does not dominate: then the ratio says what HTTP costs beside a small model
        "ratio_to_forward": min(dominated, default=None),
        **{name: _worst(every, name) for name in ("ratio_to_plain", "ratio_to_empty")},
        "p50_ms": {name: one["p50_ms"] for name, one in every.items()},
        "p99_ms": {name: one["p99_ms"] for name, one in every.items()},
        "p99_over_p50": max(one["p99_over_p50"] for one in every.values()),
        "swap_p99_ratio": max(one["swap_p99_ratio"] for one in swaps.values()),
    }
    return {
        **_with_targets(first),
        "workloads": {
            kind: {name: _with_targets(one, name) for name, one in of_kind.items()}
            for kind, of_kind in workloads.items()
        },
        "events": _with_targets(events),
        "workers": _with_targets(workers),
        "swaps": {kind: _with_targets(one) for kind, one in swaps.items()},
        "litserve": {kind: _compared(workloads[kind]["uncached"], one) for kind, one in peers.items()},
    }


def _worst(every: Mapping[str, Figures], name: str) -> float:
    return min(one[name] for one in every.values() if name in one)


def rounded(value: Any) -> Any:
    """Floats to four significant digits, in whatever they are nested."""
    if isinstance(value, dict):
        return {name: rounded(one) for name, one in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _with_targets(figures: Figures, workload: str = "") -> Figures:
    targets = {**TARGETS, **_OF_WORKLOAD.get(workload, {})}
    wanted = {name: targets[name] for name in targets if figures.get(name) is not None}
    if not figures.get("model_dominates", True):
        wanted.pop("ratio_to_forward", None)
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
