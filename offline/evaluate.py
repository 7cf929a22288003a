"""Measures a model by ranking the whole catalogue, beside popularity and its ID twin.

Users are encoded by the service's own encoder on a bundle's own embeddings, so that what is measured is what
is served. Items of the history are not ranked, as the service does by default (``--include-seen`` ranks them
too); a target that is in the history itself then counts as missed.
"""

import json
import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from model_store.artifacts.manifest import ModelManifest
from model_store.artifacts.store import ModelStore
from model_store.catalogue.catalogue import Catalogue
from model_store.errors import InvalidInput
from model_store.kinds import make_generator, make_user_encoder
from offline.baselines.popularity import interaction_counts, popularity_scores
from offline.dataset.dataset import Dataset, UserSequences
from offline.dataset.splits import (
    EvaluationCases,
    SplitName,
    count_left_out,
    divide,
    is_held_out,
    without_items,
)
from offline.evaluation.cases import CaseName, cases_of, sample_cases
from offline.evaluation.catalogue_ranking import (
    ConstantScorer,
    ModelScorer,
    Ranking,
    TitleScorer,
    history_lengths,
    history_of,
    rank_cases,
)
from offline.evaluation.items import EvaluatedItems, find_items
from offline.evaluation.ranking_metrics import CUTOFFS
from offline.evaluation.report import ALL_CASES, draw_plot, format_table, summarise
from offline.job import job
from offline.job.devices import chosen_device
from offline.job.store_models import find_model

LOGGER = logging.getLogger(__name__)
SHORT_HISTORY = 5
LONG_HISTORY = 20
app = typer.Typer(add_completion=False, help=__doc__)


class Mode(StrEnum):
    """How the model recommends."""

    RETRIEVE = "retrieve"
    GENERATE = "generate"


@dataclass(frozen=True)
class EvaluateSettings:
    """What to measure, on what.

    Attributes:
        model: A model_id of the store, or a model directory.
        data: A dataset directory.
        store: Path or URL of the model store.
        split: Which split; one that the model was not trained on is warned of.
        cases: Which part of it.
        bundle: Take the embeddings of this bundle; otherwise the newest one of the model that has the
            dataset's items, and without any the items are embedded on the spot.
        id_twin: A second model, of item ids alone, to measure beside it.
        exclude_seen: Do not rank items of the history.
        mode: Rank by embeddings, or by the titles that a HatLLM writes.
        num_titles: With ``generate``: titles written of each case, and beams; metrics beyond it are lower bounds.
        max_cases: Measure a sample of this size; 0 = all.
        seed: Of the sample.
        device: Where models run.
        json_path: Write the report here.
        plot_path: Draw the plot here.
        top_k_path: Write each case's user, history and ten best items here, as JSON lines.
    """

    model: str
    data: Path
    store: str
    split: SplitName = SplitName.LEAVE_ONE_OUT
    cases: CaseName = CaseName.TEST
    bundle: str | None = None
    id_twin: str | None = None
    exclude_seen: bool = True
    mode: Mode = Mode.RETRIEVE
    num_titles: int = 20
    max_cases: int = 0
    seed: int = 0
    device: str = "cpu"
    json_path: Path | None = None
    plot_path: Path | None = None
    top_k_path: Path | None = None


def evaluate(settings: EvaluateSettings) -> dict[str, Any]:
    """Measures a model, popularity and (if given) an ID twin on the same cases.

    Returns:
        The report: what was measured and on what, and ``systems``: system -> slice -> metrics.

    Raises:
        InvalidInput: Bad dataset, split or bundle.
        ArtifactNotFound: No such model or bundle.
    """
    store = ModelStore(settings.store)
    model = find_model(store, settings.model)
    twin = find_model(store, settings.id_twin) if settings.id_twin else None
    dataset = Dataset.open(settings.data)
    catalogue = dataset.catalogue()
    train, all_cases = _split(dataset, settings)
    left_out = count_left_out(all_cases)
    cases = sample_cases(all_cases, settings.max_cases, seed=settings.seed)
    train = _without_held_out(train, catalogue, model)
    counts = interaction_counts(train, len(catalogue))
    items = find_items(store, model, catalogue, bundle_id=settings.bundle, device=settings.device)

    if settings.mode is Mode.GENERATE:
        ranking = _rank_by_titles(items, catalogue, cases, settings)
    else:
        ranking = _rank_model(items, cases, settings, "model")
    rankings = {"model": ranking}
    popularity = ConstantScorer(popularity_scores(counts))
    rankings["popularity"] = _rank(popularity, cases, len(catalogue), settings, "popularity")
    if twin:
        twin_items = find_items(store, twin, catalogue, device=settings.device)
        rankings["id_twin"] = _rank_model(twin_items, cases, settings, "ID twin")

    slices = case_slices(cases, counts)
    report = {
        **_describe(settings, model, twin, items.bundle_id),
        "num_items": len(catalogue),
        "num_cases": len(cases.targets),
        "targets_in_history": count_left_out(cases).num_repeats,
        "left_out": left_out.sentences(settings.split, exclude_seen=settings.exclude_seen),
        "warnings": _warnings(settings, model, twin),
        "systems": {name: summarise(one, slices, counts=counts) for name, one in rankings.items()},
    }
    _write(report, settings)
    if settings.top_k_path:
        write_top_k(settings.top_k_path, ranking, cases, catalogue, k=10)
    return report


def case_slices(cases: EvaluationCases, counts: np.ndarray) -> dict[str, np.ndarray]:
    """Divides cases by what the model could know.

    Args:
        cases: C cases.
        counts: (N,) int64 interactions of each item in the model's training.

    Returns:
        Name -> (C,) bool: all; targets that training never saw, and the others; short and long histories.
    """
    lengths = history_lengths(cases)
    is_cold = counts[cases.targets - 1] == 0
    return {
        ALL_CASES: np.ones(len(cases.targets), dtype=bool),
        "cold_items": is_cold,
        "warm_items": ~is_cold,
        f"history_up_to_{SHORT_HISTORY}": lengths <= SHORT_HISTORY,
        f"history_over_{LONG_HISTORY}": lengths > LONG_HISTORY,
    }


def write_top_k(path: Path, ranking: Ranking, cases: EvaluationCases, catalogue: Catalogue, *, k: int) -> None:
    """Writes one JSON line for each case: user_id, history, target, and the k best items with their scores.

    Args:
        path: Where to.
        ranking: What the model recommends.
        cases: The same cases.
        catalogue: Names the items.
        k: How many.
    """
    with path.open("w") as file:
        for case in range(len(cases.targets)):
            history = history_of(cases, case)
            shown = ranking.recommended[case, :k]
            events = zip(history.item_indices.tolist(), history.timestamps.tolist(), strict=True)
            line = {
                "user_id": str(cases.sequences.user_ids[cases.user_rows[case]]),
                "history": [{"item_id": catalogue.id_of(item), "timestamp": time} for item, time in events],
                "target": catalogue.id_of(int(cases.targets[case])),
                "item_ids": [catalogue.id_of(int(item)) for item in shown if item],
                "scores": [float(score) for score in ranking.scores[case, :k][shown > 0]],
            }
            file.write(json.dumps(line) + "\n")


def _split(dataset: Dataset, settings: EvaluateSettings) -> tuple[UserSequences, EvaluationCases]:
    split = divide(dataset, settings.split, name=str(settings.data))
    cases = cases_of(split, settings.cases)
    if not len(cases.targets):
        raise InvalidInput(f"{settings.data} has no {settings.cases} cases in split {settings.split}")
    return split.train, cases


def _without_held_out(train: UserSequences, catalogue: Catalogue, model: ModelManifest) -> UserSequences:
    fraction = float(model.training.get("hold_out_items") or 0.0)
    if not fraction:
        return train
    is_out = is_held_out(catalogue.item_ids, fraction, int(model.training.get("seed") or 0))
    return without_items(train, is_out)


def _rank_model(items: EvaluatedItems, cases: EvaluationCases, settings: EvaluateSettings, name: str) -> Ranking:
    encoder = make_user_encoder(items, device=settings.device)
    return _rank(ModelScorer(items.directions, encoder), cases, len(items.embeddings), settings, name)


def _rank_by_titles(
    items: EvaluatedItems, catalogue: Catalogue, cases: EvaluationCases, settings: EvaluateSettings
) -> Ranking:
    encoder = make_user_encoder(items, device=settings.device)
    generator = make_generator(items, encoder, num_beams=settings.num_titles)
    if generator is None:
        raise InvalidInput(f"{settings.model} writes no titles; expected --mode retrieve")
    scorer = TitleScorer(generator, num_items=len(catalogue), k=settings.num_titles, exclude_seen=settings.exclude_seen)
    return _rank(scorer, cases, len(catalogue), settings, "titles")


def _rank(
    scorer: ModelScorer | ConstantScorer | TitleScorer,
    cases: EvaluationCases,
    num_items: int,
    settings: EvaluateSettings,
    name: str,
) -> Ranking:
    return rank_cases(
        scorer,
        cases,
        num_items=num_items,
        k=max(CUTOFFS),
        exclude_seen=settings.exclude_seen,
        description=f"ranking by {name}",
    )


def _describe(
    settings: EvaluateSettings, model: ModelManifest, twin: ModelManifest | None, bundle_id: str | None
) -> dict[str, Any]:
    return {
        "model_id": model.model_id,
        "bundle_id": bundle_id,
        "id_twin": twin.model_id if twin else None,
        "dataset": settings.data.resolve().name,
        "split": settings.split.value,
        "cases": settings.cases.value,
        "candidates": "whole catalogue" + (", without the history's items" if settings.exclude_seen else ""),
        "exclude_seen": settings.exclude_seen,
        "mode": settings.mode.value,
        "training": model.training,
        "evaluated_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _warnings(settings: EvaluateSettings, model: ModelManifest, twin: ModelManifest | None) -> list[str]:
    found = []
    trained_on = model.training.get("split")
    if trained_on not in (None, settings.split.value):
        found.append(f"the model was trained on split {trained_on!r}: it may have seen targets of {settings.split!r}")
    if twin:
        for key in ("split", "hold_out_items", "seed"):
            if twin.training.get(key) != model.training.get(key):
                found.append(
                    f"the ID twin was trained with {key} {twin.training.get(key)!r}, "
                    f"the model with {model.training.get(key)!r}"
                )
    for warning in found:
        LOGGER.warning(warning)
    return found


def _write(report: dict[str, Any], settings: EvaluateSettings) -> None:
    if settings.json_path:
        settings.json_path.parent.mkdir(parents=True, exist_ok=True)
        settings.json_path.write_text(json.dumps(report, indent=2, default=str) + "\n")
    if settings.plot_path:
        draw_plot(report, settings.plot_path)


@app.command()
def main(
    model: Annotated[str, typer.Option(help="model_id in the store, or a model directory.")],
    data: Annotated[Path, typer.Option(help="A dataset directory.")],
    store: Annotated[str, typer.Option(help="Path or URL of the model store.")],
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the report here.")] = None,
    split: Annotated[SplitName, typer.Option(help="How the interactions are divided.")] = SplitName.LEAVE_ONE_OUT,
    cases: Annotated[CaseName, typer.Option(help="Which part is measured.")] = CaseName.TEST,
    bundle: Annotated[str | None, typer.Option(help="Use this bundle's embeddings.")] = None,
    id_twin: Annotated[str | None, typer.Option(help="A model of item ids to measure beside it.")] = None,
    include_seen: Annotated[bool, typer.Option("--include-seen", help="Rank the history's items too.")] = False,
    mode: Annotated[Mode, typer.Option(help="By embeddings, or by the titles a HatLLM writes.")] = Mode.RETRIEVE,
    num_titles: Annotated[int, typer.Option(help="With --mode generate: of each case.", min=1)] = 20,
    max_cases: Annotated[int, typer.Option(help="Measure a sample; 0 = all.", min=0)] = 0,
    seed: Annotated[int, typer.Option(help="Of the sample.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto.")] = "auto",
    plot: Annotated[Path | None, typer.Option(help="The plot; next to --json unless given.")] = None,
    top_k_out: Annotated[Path | None, typer.Option(help="Each user's top 10, as JSON lines.")] = None,
) -> None:
    """Rank the whole catalogue for every test user and report how well."""
    if plot is None and json_path is not None:
        plot = json_path.with_suffix(".png")
    report = evaluate(
        EvaluateSettings(
            model=model,
            data=data,
            store=store,
            split=split,
            cases=cases,
            bundle=bundle,
            id_twin=id_twin,
            exclude_seen=not include_seen,
            mode=mode,
            num_titles=num_titles,
            max_cases=max_cases,
            seed=seed,
            device=chosen_device(device),
            json_path=json_path,
            plot_path=plot,
            top_k_path=top_k_out,
        )
    )
    typer.echo(format_table(report["systems"]))
    for sentence in report["left_out"]:
        typer.echo(sentence)
    overall = report["systems"]["model"][ALL_CASES]
    job.report(
        {
            "model_id": report["model_id"],
            "bundle_id": report["bundle_id"],
            "num_cases": report["num_cases"],
            **{key: overall[key] for key in ("recall@10", "ndcg@10", "recall@50", "coverage@10")},
            "json": json_path,
            "plot": plot,
        }
    )


if __name__ == "__main__":
    job.run(app)
