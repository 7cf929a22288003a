"""Trains a baseline on a dataset and measures it as ``offline.evaluate`` measures a model.

The same splits, the same ranking of the whole catalogue, the same masking of the history, the same report.
The epoch is chosen by NDCG@10 on validation, never on test.
"""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from model_store.errors import InvalidInput
from offline.baselines.next_item import NextItemSettings
from offline.baselines.popularity import interaction_counts
from offline.baselines.table import BASELINES, Work
from offline.dataset.dataset import Dataset
from offline.dataset.splits import SplitName, count_left_out, divide
from offline.evaluate import case_slices
from offline.evaluation.cases import CaseName, cases_of, sample_cases
from offline.evaluation.catalogue_ranking import rank_cases
from offline.evaluation.ranking_metrics import CUTOFFS
from offline.evaluation.report import ALL_CASES, format_table, summarise
from offline.job import job
from offline.job.devices import chosen_device

_DEFAULTS = NextItemSettings()
app = typer.Typer(add_completion=False, help=__doc__)


@dataclass(frozen=True)
class BaselineSettings:
    """Which baseline, on what.

    Attributes:
        name: One of ``BASELINES``.
        data: A dataset directory.
        split: How the interactions are divided.
        cases: Which part is measured.
        exclude_seen: Do not rank items of the history.
        max_cases: Measure a sample of this size; 0 = all.
        training: Of the baselines that are trained by steps; its seed is that of the sample, too.
        device: Where they are trained.
    """

    name: str
    data: Path
    split: SplitName = SplitName.LEAVE_ONE_OUT
    cases: CaseName = CaseName.TEST
    exclude_seen: bool = True
    max_cases: int = 0
    training: NextItemSettings = _DEFAULTS
    device: str = "cpu"


def measure(settings: BaselineSettings) -> dict[str, Any]:
    """Trains a baseline and ranks the catalogue for every case.

    Returns:
        A report of the form of ``offline.evaluate``, whose one system has the baseline's name.

    Raises:
        InvalidInput: No such baseline, bad dataset or split.
    """
    if settings.name not in BASELINES:
        raise InvalidInput(f"no baseline {settings.name!r}, expected one of {', '.join(BASELINES)}")
    dataset = Dataset.open(settings.data)
    split = divide(dataset, settings.split, name=str(settings.data))
    all_cases = cases_of(split, settings.cases)
    if not len(all_cases):
        raise InvalidInput(f"{settings.data} has no {settings.cases} cases in split {settings.split}")
    cases = sample_cases(all_cases, settings.max_cases, seed=settings.training.seed)
    num_items = len(dataset.catalogue())
    trained = BASELINES[settings.name](Work(split, num_items, settings.training, settings.device))
    ranking = rank_cases(trained.scorer, cases, num_items=num_items, k=max(CUTOFFS), exclude_seen=settings.exclude_seen)
    counts = interaction_counts(split.train, num_items)
    left_out = count_left_out(all_cases)
    return {
        "baseline": settings.name,
        "dataset": settings.data.resolve().name,
        "split": settings.split.value,
        "cases": settings.cases.value,
        "candidates": "whole catalogue" + (", without the history's items" if settings.exclude_seen else ""),
        "exclude_seen": settings.exclude_seen,
        "training": trained.training,
        "evaluated_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "num_items": num_items,
        "num_cases": len(cases),
        "targets_in_history": count_left_out(cases).num_repeats,
        "left_out": left_out.sentences(settings.split, exclude_seen=settings.exclude_seen),
        "systems": {settings.name: summarise(ranking, case_slices(cases, counts), counts=counts)},
    }


@app.command()
def main(
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(BASELINES)}.")],
    data: Annotated[Path, typer.Option(help="A dataset directory.")],
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the report here.")] = None,
    split: Annotated[SplitName, typer.Option(help="How the interactions are divided.")] = SplitName.LEAVE_ONE_OUT,
    cases: Annotated[CaseName, typer.Option(help="Which part is measured.")] = CaseName.TEST,
    include_seen: Annotated[bool, typer.Option("--include-seen", help="Rank the history's items too.")] = False,
    max_cases: Annotated[int, typer.Option(help="Measure a sample; 0 = all.", min=0)] = 0,
    seed: Annotated[int, typer.Option(help="Of training and of the sample.")] = 0,
    epochs: Annotated[int, typer.Option(help="At most.", min=1)] = _DEFAULTS.epochs,
    max_minutes: Annotated[float, typer.Option(help="Of training.", min=0)] = _DEFAULTS.max_minutes,
    width: Annotated[int, typer.Option(help="Of item vectors; even.", min=2)] = _DEFAULTS.width,
    dropout: Annotated[float, typer.Option(min=0, max=0.99)] = _DEFAULTS.dropout,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto.")] = "auto",
) -> None:
    """Train a baseline, rank the whole catalogue for every user and report how well."""
    if width % 2:
        raise InvalidInput(f"--width {width}: expected an even number, for two heads share it")
    training = NextItemSettings(width=width, dropout=dropout, epochs=epochs, max_minutes=max_minutes, seed=seed)
    report = measure(
        BaselineSettings(
            name=name,
            data=data,
            split=split,
            cases=cases,
            exclude_seen=not include_seen,
            max_cases=max_cases,
            training=training,
            device=chosen_device(device),
        )
    )
    if json_path:
        json_path.parent.mkdir(parents=True, exist_ok=True)
        json_path.write_text(json.dumps(report, indent=2) + "\n")
    typer.echo(format_table(report["systems"]))
    for sentence in report["left_out"]:
        typer.echo(sentence)
    overall = report["systems"][name][ALL_CASES]
    figures = {key: overall[key] for key in ("recall@10", "ndcg@10", "recall@50", "coverage@10")}
    job.report({"baseline": name, "num_cases": report["num_cases"], **figures, "json": json_path})


if __name__ == "__main__":
    job.run(app)
