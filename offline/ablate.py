"""Measures what each choice of a HatLLM is worth: trains and evaluates variants, several seeds each, one table a study.

A killed or repeated command goes on where it was: every result is one line of ``results.jsonl`` in ``--out``, and a
configuration that several studies share is run once. Variants train in a store of their own below ``--out``, which is
removed again.
"""

import contextlib
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from model_store.artifacts.durable import hold, is_held
from model_store.artifacts.store import ModelStore
from model_store.errors import HatstandError, InvalidInput
from offline.dataset.dataset import Dataset
from offline.job import job
from offline.job.store_models import find_model
from offline.studies.ablation_report import write_study
from offline.studies.ablation_results import METRICS, PlannedRun, Results, collect_rows, dataset_digest, plan_runs
from offline.studies.ablation_run import Measure, Workshop
from offline.studies.ablation_studies import ALL_STUDIES, STUDIES, normalised, variants
from offline.training.command_options import parse_settings
from offline.training.hatllm.settings import SELF, HatTrainSettings

LOGGER = logging.getLogger(__name__)
RESULTS = "results.jsonl"
_RUNNING = ".running"
app = typer.Typer(add_completion=False, help=__doc__)


@dataclass(frozen=True)
class AblateSettings:
    """What to vary around what.

    Attributes:
        base: What every study starts from; its seed has no meaning, its store is where kept models go.
        out: Directory for results, tables and plots, made if need be.
        studies: Names of ``STUDIES``, or ``all``.
        seeds: Each row is the mean over these.
        values: Instead of the values of the one study.
        measure: How the variants are evaluated, and whether they are kept.
    """

    base: HatTrainSettings
    out: Path
    studies: tuple[str, ...]
    seeds: tuple[int, ...] = (0, 1, 2)
    values: tuple[str, ...] = ()
    measure: Measure = Measure()


def ablate(settings: AblateSettings) -> dict[str, Any]:
    """Runs what is missing and writes the tables of all studies, after every run anew.

    Returns:
        ``tables``: study to its table in markdown; ``num_run`` and ``num_reused`` configurations; ``left_out``.

    Raises:
        InvalidInput: Bad dataset, study, value or settings, or another ablation is at work in the same directory.
        HatstandError: Some runs failed; the tables are without them, and the others are done.
    """
    if not settings.base.retrieves:
        raise InvalidInput("--objective generate: variants are measured by retrieval, expected retrieve or both")
    base = _with_tower_id(settings.base)
    dataset = Dataset.open(base.data)
    depth = _depth(base)
    rows, left_out = variants(settings.studies, base, depth, values=settings.values)
    for name, reason in left_out.items():
        LOGGER.warning("study %s is left out: %s", name, reason)
    if base.max_minutes is not None:
        LOGGER.warning("--max-minutes gives slower variants fewer steps; --epochs gives all the same")
    runs = plan_runs(rows, settings.seeds, data=dataset_digest(dataset), measured=settings.measure.to_dict())
    setup = _setup(base, depth, settings.measure)
    settings.out.mkdir(parents=True, exist_ok=True)
    with _alone(settings.out):
        results = Results(settings.out / RESULTS)
        missing = _missing(runs, results)
        num_reused = len({run.key for run in runs}) - len(missing)
        LOGGER.info("%d configurations to run, %d are there already", len(missing), num_reused)
        failures, started = [], time.monotonic()
        for number, run in enumerate(job.progress(missing, description="runs", unit="run"), start=1):
            workshop = Workshop(run, settings.out)
            try:
                results.add(workshop.measure(settings.measure))
            except (HatstandError, torch.OutOfMemoryError) as error:
                failures.append(f"{_name(run)}: {error}")
                LOGGER.error("failed, and goes on with the next: %s", failures[-1])
            workshop.clear()
            _share(runs, results)
            left = (time.monotonic() - started) / number * (len(missing) - number)
            LOGGER.info(
                "%d of %d runs, about %.0f minutes left%s", number, len(missing), left / 60, _found(run, results)
            )
            _write_tables(runs, results, settings.out, setup=setup, with_plots=False)
        tables = _write_tables(runs, results, settings.out, setup=setup, with_plots=True)
    if failures:
        raise HatstandError(f"{len(failures)} of {len(missing)} runs failed, the first one is {failures[0]}")
    return {"tables": tables, "num_run": len(missing), "num_reused": num_reused, "left_out": left_out}


def _missing(runs: Sequence[PlannedRun], results: Results) -> list[PlannedRun]:
    """The first cell of each configuration that was not run; cells whose configuration was get their line."""
    _share(runs, results)
    first: dict[str, PlannedRun] = {}
    for run in runs:
        if results.of_key(run.key) is None:
            first.setdefault(run.key, run)
    return list(first.values())


def _share(runs: Sequence[PlannedRun], results: Results) -> None:
    """Gives cells a line of their own whose configuration was run for another one."""
    for run in runs:
        same = results.of_key(run.key)
        if same is not None and results.record_of(run) is None:
            results.add({**same, **run.cell})


def _write_tables(
    runs: Sequence[PlannedRun], results: Results, out: Path, *, setup: Mapping[str, Any], with_plots: bool
) -> dict[str, str]:
    tables = {}
    for name in dict.fromkeys(run.variant.study for run in runs):
        rows = collect_rows([run for run in runs if run.variant.study == name], results)
        cases = sorted({str(record["num_cases"]) for row in rows for record in row.records})
        described = {**setup, "test cases": ", ".join(cases) or "none yet"}
        tables[name] = write_study(out, name, rows, setup=described, with_plot=with_plots)
    return tables


def _setup(base: HatTrainSettings, depth: int, measure: Measure) -> dict[str, Any]:
    """What every figure of quality must be read with."""
    weights = f"preset {base.preset}" if base.backbone is None else Path(base.backbone).name
    counts = normalised(base, depth)
    in_layers, cr_layers = int(counts.in_band), int(counts.cr_band)
    return {
        "dataset": base.data.resolve().name,
        "split": base.split,
        "candidates": "whole catalogue" + (", without the history's items" if measure.exclude_seen else ""),
        "model": f"{weights}, {'random' if base.is_random else 'pre-trained'} weights{', LoRA' * base.has_lora}",
        "items": "embedded by the model itself" if base.item_tower == SELF else f"embedded by {base.item_tower}",
        "base": f"{in_layers} IN, {depth - in_layers - cr_layers} OR, {cr_layers} CR layers",
        "epochs": f"at most {base.recipe.epochs}",
    }


def _with_tower_id(base: HatTrainSettings) -> HatTrainSettings:
    """An item tower by its id in the store, which says what it is."""
    if base.item_tower == SELF:
        return base
    return replace(base, item_tower=find_model(ModelStore(base.store), base.item_tower).model_id)


def _depth(base: HatTrainSettings) -> int:
    if base.is_random and base.num_layers is not None:
        return base.num_layers
    if base.backbone is None:
        return base.preset_values.num_layers
    from model_store.backbone.load import load_backbone

    with torch.device("meta"):  # its shape is enough
        return int(load_backbone(base.backbone, random_init=True).model.config.num_hidden_layers)


@contextlib.contextmanager
def _alone(out: Path) -> Iterator[None]:
    marker = out / _RUNNING
    if is_held(marker):
        raise InvalidInput(f"{out} is in use by another ablation; wait for it, or choose another --out")
    with hold(marker):
        yield


def _name(run: PlannedRun) -> str:
    return f"{run.variant.study}={run.variant.value} seed={run.settings.seed}"


def _found(run: PlannedRun, results: Results) -> str:
    record = results.record_of(run)
    if record is None:
        return ""
    return f"; {_name(run)}: " + " ".join(f"{name}={record['metrics'][name]:.4f}" for name in METRICS)


def base_settings(arguments: Sequence[str]) -> HatTrainSettings:
    """The settings that ``offline.train hatllm`` would have with these arguments.

    Raises:
        InvalidInput: ``--seed`` is among them, or a value is not allowed.
    """
    if any(argument.split("=")[0] == "--seed" for argument in arguments):
        raise InvalidInput("--seed: every row is run with several, expected --seeds")
    return parse_settings(HatTrainSettings, arguments)


def _parts(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _seeds(text: str) -> tuple[int, ...]:
    if not _parts(text) or not all(part.isdigit() for part in _parts(text)):
        raise InvalidInput(f"--seeds {text!r}: expected numbers by commas, such as 0,1,2")
    return tuple(dict.fromkeys(int(part) for part in _parts(text)))


@app.callback()
def _kinds() -> None:
    """Measure what each choice of a model is worth."""


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def hatllm(
    context: typer.Context,
    data: Annotated[Path, typer.Option(help="A dataset directory.")],
    store: Annotated[str, typer.Option(help="Path or URL of the model store; for item towers and kept models.")],
    out: Annotated[Path, typer.Option(help="Directory for results, tables and plots.")],
    study: Annotated[str, typer.Option(help=f"By commas: {', '.join(STUDIES)}; or {ALL_STUDIES}.")],
    seeds: Annotated[str, typer.Option(help="By commas.")] = "0,1,2",
    values: Annotated[str, typer.Option(help="Instead of the study's own, by commas; orders as in-or-cr.")] = "",
    include_seen: Annotated[bool, typer.Option("--include-seen", help="Rank the history's items too.")] = False,
    max_cases: Annotated[int, typer.Option(help="Measure on a sample of the test cases; 0 = all.", min=0)] = 0,
    keep_models: Annotated[bool, typer.Option("--keep-models", help="Add every model to the store.")] = False,
) -> None:
    """Vary a HatLLM; any option of `offline.train hatllm` may follow and holds for every run."""
    outcome = ablate(
        AblateSettings(
            base=base_settings(["--data", str(data), "--store", store, *context.args]),
            out=out,
            studies=_parts(study),
            seeds=_seeds(seeds),
            values=_parts(values),
            measure=Measure(exclude_seen=not include_seen, max_cases=max_cases, keeps_models=keep_models),
        )
    )
    typer.echo("\n\n".join(outcome["tables"].values()))
    job.report(
        {
            "out": out,
            "studies": list(outcome["tables"]),
            "num_run": outcome["num_run"],
            "num_reused": outcome["num_reused"],
            "left_out": outcome["left_out"],
        }
    )


if __name__ == "__main__":
    job.run(app)
