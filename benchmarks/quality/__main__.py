"""Compares baselines, single models and their blend on one dataset: accuracy with intervals, and what lies beyond it.

Every system is trained on the training part, chosen on the validation part and measured on each user's last item. What
was trained and measured is kept in the output folder: the same command goes on where a killed one was.
"""

import platform
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import transformers
import typer

from benchmarks.quality.report import Comparison, SystemResult
from benchmarks.quality.results import Results
from benchmarks.quality.statistics import differences, intervals, user_gains
from benchmarks.quality.systems import BLEND, SEEDLESS, Study, reads_clicks_alone
from model_store.artifacts.store import ModelStore
from model_store.errors import InvalidInput
from offline.baselines.popularity import interaction_counts
from offline.baselines.table import BASELINES
from offline.dataset.dataset import Dataset
from offline.dataset.splits import SplitName, divide
from offline.evaluate import case_slices
from offline.evaluation.catalogue_ranking import Ranking, Scorer, rank_cases
from offline.evaluation.ranking_metrics import coverage_at_k, ndcg_at_k, novelty_at_k, recall_at_k, self_information
from offline.job import job

_MASKINGS = ("without", "with")
_KEPT = 50
app = typer.Typer(add_completion=False, help=__doc__)


class Measurement:
    """Ranks the test cases for each system and seed, once.

    Args:
        study: What is compared.
        results: Where rankings are kept.
    """

    def __init__(self, study: Study, results: Results) -> None:
        self._study = study
        self._results = results
        self.cases = study.split.test
        self.counts = interaction_counts(study.split.train, study.num_items)
        self.rankings: dict[str, dict[int, dict[str, Ranking]]] = {}
        self._of_clicks: list[str] = []

    def measure(self, seeds: list[int], baselines: list[str]) -> None:
        """Fills ``rankings``: system, seed, masking."""
        self._of_clicks = list(baselines)
        for seed in seeds:
            for name in baselines:
                if name not in SEEDLESS or seed == seeds[0]:
                    self._rank(name, seed, partial(self._study.baseline, name, seed))
            members = self._study.members(seed)
            for name, model in members.items():
                self._rank(name, seed, partial(self._study.scorer, model))
            self._of_clicks += [name for name, model in members.items() if reads_clicks_alone(model)]
            self._rank(BLEND, seed, partial(self._study.blend_scorer, members))

    def _rank(self, name: str, seed: int, make: Callable[[], Scorer]) -> None:
        scorer = cache(make)
        self.rankings.setdefault(name, {})[seed] = {
            masking: self._results.ranking(name, seed, masking, partial(self._ranking, scorer, masking, name))
            for masking in _MASKINGS
        }

    def _ranking(self, scorer: Callable[[], Scorer], masking: str, name: str) -> Ranking:
        return rank_cases(
            scorer(),
            self.cases,
            num_items=self._study.num_items,
            k=_KEPT,
            exclude_seen=masking == "without",
            description=f"{name}, {masking} seen items",
        )

    def compare(self, about: Mapping[str, object]) -> Comparison:
        """Sums up; what differences are taken to is the best system that knows clicks alone, else the blend."""
        gains = {
            name: user_gains(np.stack([one["without"].ranks for one in by_seed.values()]))
            for name, by_seed in self.rankings.items()
        }
        measured = {name: intervals(one) for name, one in gains.items()}
        best_ids = max(self._of_clicks or [BLEND], key=lambda name: measured[name]["ndcg@10"].mean)
        slices = case_slices(self.cases, self.counts)
        systems = {}
        for name, by_seed in self.rankings.items():
            masked = [one["without"] for one in by_seed.values()]
            systems[name] = SystemResult(
                seeds=tuple(by_seed),
                metrics=measured[name],
                unmasked=_accuracy([one["with"].ranks for one in by_seed.values()]),
                beyond=self._beyond(masked),
                slices={
                    part: _accuracy([one.ranks[members] for one in masked])
                    for part, members in slices.items()
                    if members.any()
                },
                over_best_ids=differences(gains[name], gains[best_ids]),
            )
        return Comparison(about, best_ids, systems)

    def _beyond(self, rankings: list[Ranking]) -> dict[str, float]:
        information = self_information(self.counts)
        head = np.argsort(-self.counts, kind="stable")[: max(1, len(self.counts) // 100)] + 1
        return {
            "coverage@10": _mean([coverage_at_k(one.recommended, 10, num_items=len(self.counts)) for one in rankings]),
            "novelty@10": _mean([novelty_at_k(one.recommended, 10, information=information) for one in rankings]),
            "head@10": _mean([float(np.isin(one.recommended[:, :10], head).mean()) for one in rankings]),
        }


def _accuracy(ranks: list[np.ndarray]) -> dict[str, float]:
    return {
        "recall@10": _mean([recall_at_k(one, 10) for one in ranks]),
        "ndcg@10": _mean([ndcg_at_k(one, 10) for one in ranks]),
    }


def _mean(values: list[float]) -> float:
    return float(np.mean(values))


@app.command()
def main(
    data: Annotated[Path, typer.Option(help="A dataset directory.")],
    out: Annotated[Path, typer.Option(help="Where models, rankings and the report go.")],
    item_llm: Annotated[str | None, typer.Option(help="A pre-trained Item LLM for the recipe.")] = None,
    recipe: Annotated[str, typer.Option(help="A recipe of offline.blend.")] = "clicks-and-text",
    seeds: Annotated[int, typer.Option(help="How many, from 0.", min=1)] = 1,
    baseline: Annotated[
        list[str] | None, typer.Option(help=f"Of {', '.join(BASELINES)}; may be given several times. Default: all.")
    ] = None,
    split: Annotated[SplitName, typer.Option(help="How the interactions are divided.")] = SplitName.LEAVE_ONE_OUT,
    max_minutes: Annotated[float, typer.Option(help="Of each baseline, and of each training stage.")] = 30.0,
) -> None:
    """Train, measure and compare; writes quality.md, quality.json and quality.png."""
    chosen = list(BASELINES) if baseline is None else baseline
    for name in chosen:
        if name not in BASELINES:
            raise InvalidInput(f"no baseline {name!r}, expected one of {', '.join(BASELINES)}")
    dataset = Dataset.open(data)
    divided = divide(dataset, split, name=str(data))
    if not len(divided.test):
        raise InvalidInput(f"{data} has no test cases in split {split}")
    num_items = len(dataset.catalogue())
    study = Study(data, ModelStore(str(out / "store")), divided, num_items, recipe, item_llm, max_minutes)
    measurement = Measurement(study, Results(out / "rankings", study.key(split.value)))
    measurement.measure(list(range(seeds)), chosen)
    about = {
        "dataset": data.resolve().name,
        "split": split.value,
        "users": len(divided.test),
        "items": num_items,
        "recipe": recipe,
        "item LLM": "none" if item_llm is None else Path(item_llm).name,
        "date": datetime.now(UTC).date().isoformat(),
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    comparison = measurement.compare(about)
    comparison.write(out)
    typer.echo(comparison.markdown())
    best = comparison.systems[BLEND].metrics
    job.report({name: round(best[name].mean, 5) for name in ("recall@10", "ndcg@10")} | {"report": out / "quality.md"})


if __name__ == "__main__":
    job.run(app)
