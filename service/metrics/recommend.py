"""Answers: by which step, in what time, and what was left out."""

from collections.abc import Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram

from service.metrics.family import SECONDS, Family

_NO_ARM = "none"
_NO_SCENARIO = "none"


class RecommendMetrics(Family):
    """Answers: by which step, in what time, and what was left out."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__()
        self._stage_seconds = Histogram(
            "hatstand_stage_duration_seconds",
            "Of one recommendation: history, queue, encode, search, rank",
            ("stage", "kind", "mode"),
            buckets=SECONDS,
            registry=registry,
        )
        self._recommendations = Counter(
            "hatstand_recommendations",
            "Answers, by where they came from, and by the arm of the experiment that the user is in",
            ("source", "kind", "mode", "arm"),
            registry=registry,
        )
        self._fallbacks = Counter("hatstand_fallbacks", "Why an answer is a fallback", ("reason",), registry=registry)
        self._ladder_steps = Counter(
            "hatstand_ladder_steps",
            "Steps of the fallback ladder that were due: the one that answered, and why those before it did not",
            ("step", "reason"),
            registry=registry,
        )
        self._plans = Counter(
            "hatstand_retrieval_plans", "How candidates were looked for in the index", ("plan",), registry=registry
        )
        self._filtered = Counter(
            "hatstand_candidates_filtered",
            "Items that an answer could not have, by each reason by itself",
            ("reason",),
            registry=registry,
        )
        self._pages = Counter("hatstand_pages", "Later pages of lists", registry=registry)
        self._warnings = Counter("hatstand_warnings", "Warnings in answers", ("code",), registry=registry)
        self._short_answers = Counter(
            "hatstand_short_answers",
            "Answers with fewer items than asked for, as no more are admissible",
            registry=registry,
        )
        self._recommend_seconds = Histogram(
            "hatstand_recommend_duration_seconds",
            "One recommendation, without HTTP",
            ("scenario", "source"),
            buckets=SECONDS,
            registry=registry,
        )

    def recommended(
        self,
        *,
        source: str,
        kind: str,
        mode: str,
        arm: str | None,
        fallback_reason: str | None,
        warnings: list[str],
        stages: Mapping[str, float],
        is_short: bool,
        scenario: str | None = None,
        seconds: float | None = None,
        steps: Sequence[tuple[str, str]] = (),
    ) -> None:
        """One recommendation was made; ``warnings`` begin with their code and a colon, ``arm`` is a kind of model.

        ``steps`` are those of the ladder that were due, each with its reason.
        """
        self._child(self._recommendations, source, kind, mode, arm or _NO_ARM).inc()
        if fallback_reason is not None:
            self._child(self._fallbacks, fallback_reason).inc()
        for warning in warnings:
            self._child(self._warnings, warning.partition(":")[0]).inc()
        for stage, stage_seconds in stages.items():
            self._child(self._stage_seconds, stage, kind, mode).observe(stage_seconds)
        for step, reason in steps:
            self._child(self._ladder_steps, step, reason).inc()
        if seconds is not None:
            self._child(self._recommend_seconds, scenario or _NO_SCENARIO, source).observe(seconds)
        if is_short:
            self._short_answers.inc()

    def retrieval_planned(self, plan: str) -> None:
        """Candidates were looked for in one of the planner's ways."""
        self._child(self._plans, plan).inc()

    def candidates_filtered(self, counts: Mapping[str, int]) -> None:
        """An answer could not have so many items, by reason."""
        for reason, count in counts.items():
            self._child(self._filtered, reason).inc(count)

    def page_answered(self) -> None:
        """A later page of a list was returned."""
        self._pages.inc()
