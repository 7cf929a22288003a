"""What an ablation has measured so far: one line per study, value and seed; and its sums over seeds."""

import hashlib
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from model_store.artifacts.durable import write_atomically
from model_store.errors import InvalidInput
from offline.dataset.dataset import INTERACTIONS_FILE, ITEMS_FILE, Dataset
from offline.studies.ablation_studies import Variant
from offline.training.hatllm.settings import HatTrainSettings

METRICS = ("recall@5", "recall@10", "ndcg@5", "ndcg@10")
_FIELDS = ("key", "study", "value", "seed", "metrics")


def dataset_digest(dataset: Dataset) -> str:
    """Names the content of a dataset."""
    digest = hashlib.sha256()
    for name in (ITEMS_FILE, INTERACTIONS_FILE):
        with (dataset.directory / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


@dataclass(frozen=True)
class PlannedRun:
    """One cell of a table before it is averaged: a row and a seed.

    Attributes:
        variant: The row.
        settings: Of the run, with its seed.
        key: Names the configuration; cells of several studies may share it.
    """

    variant: Variant
    settings: HatTrainSettings
    key: str

    @property
    def cell(self) -> dict[str, Any]:
        """What a line of the results says of it."""
        names = {"study": self.variant.study, "value": self.variant.value, "seed": self.settings.seed}
        return {"key": self.key, **names}


def plan_runs(
    variants: Sequence[Variant], seeds: Sequence[int], *, data: str, measured: dict[str, Any]
) -> list[PlannedRun]:
    """All cells: every row with the first seed, then with the next one, so that tables fill evenly.

    Args:
        variants: Rows of all studies.
        seeds: Each row is run with.
        data: Digest of the dataset.
        measured: How a model is evaluated.
    """
    return [
        PlannedRun(variant, settings, run_key(settings, data=data, measured=measured))
        for seed in seeds
        for variant in variants
        for settings in [replace(variant.settings, seed=seed)]
    ]


def run_key(settings: HatTrainSettings, *, data: str, measured: dict[str, Any]) -> str:
    """Names a configuration by all that its figures depend on.

    Args:
        settings: Normalised, with the seed.
        data: Digest of the dataset.
        measured: How the model is evaluated.
    """
    # how long a run may take is no part of a recipe, but it is of what came out
    content = [settings.to_dict(), settings.max_minutes, data, measured]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


class Results:
    """The lines of ``results.jsonl``. One process at a time writes; a kill loses nothing that was added.

    Args:
        path: The file; an absent one is empty.

    Raises:
        InvalidInput: It is not such a file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.records = [_parse(path, number, line) for number, line in _lines(path)]

    def record_of(self, run: PlannedRun) -> dict[str, Any] | None:
        """The line of a cell, if it was measured with the very same settings."""
        cell = run.cell
        return next((one for one in self.records if {name: one[name] for name in cell} == cell), None)

    def of_key(self, key: str) -> dict[str, Any] | None:
        """Any line of a configuration, for whatever study it was run."""
        return next((record for record in self.records if record["key"] == key), None)

    def add(self, record: dict[str, Any]) -> None:
        """Adds a line to the file."""
        before = self._path.read_bytes() if self._path.is_file() else b""
        write_atomically(self._path, before + json.dumps(record).encode() + b"\n")
        self.records.append(record)


def _lines(path: Path) -> list[tuple[int, str]]:
    text = path.read_text() if path.is_file() else ""
    return [(number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]


def _parse(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError:
        record = None
    if not isinstance(record, dict) or not set(_FIELDS) <= record.keys():
        raise InvalidInput(f"{path}: line {number} is no result of an ablation; expected {', '.join(_FIELDS)}")
    return record


@dataclass(frozen=True)
class Row:
    """A row of a study's table.

    Attributes:
        value: What was varied.
        is_base: Whether this is what the study started from.
        records: Its lines, one per seed that is done.
        gains: NDCG@10 over the base's of the same seed.
    """

    value: str
    is_base: bool
    records: list[dict[str, Any]]
    gains: list[float]

    @property
    def seeds(self) -> list[int]:
        """Those that are done."""
        return [record["seed"] for record in self.records]

    def values(self, metric: str) -> list[float]:
        """A metric of each seed."""
        return [record["metrics"][metric] for record in self.records]

    def to_dict(self) -> dict[str, Any]:
        """Means and, from two seeds on, standard deviations over seeds."""
        return {
            "value": self.value,
            "is_base": self.is_base,
            "seeds": self.seeds,
            "metrics": {metric: mean_and_deviation(self.values(metric)) for metric in METRICS},
            "ndcg@10_over_base": mean_and_deviation(self.gains),
            "training_seconds": mean_and_deviation([record["training_seconds"] for record in self.records]),
        }


def mean_and_deviation(values: Sequence[float]) -> dict[str, float | None]:
    """``mean`` and sample standard deviation ``sd``; None where there are too few values."""
    return {
        "mean": statistics.fmean(values) if values else None,
        "sd": statistics.stdev(values) if len(values) > 1 else None,
    }


def collect_rows(runs: Sequence[PlannedRun], results: Results) -> list[Row]:
    """The table of one study, as far as it is done.

    Args:
        runs: All cells of the study.
        results: What was measured.
    """
    found: dict[Variant, dict[int, dict[str, Any]]] = {run.variant: {} for run in runs}
    for run in runs:
        record = results.record_of(run)
        if record is not None:
            found[run.variant][run.settings.seed] = record
    base = next((records for variant, records in found.items() if variant.is_base), {})
    return [
        Row(
            value=variant.value,
            is_base=variant.is_base,
            records=[records[seed] for seed in sorted(records)],
            gains=[_ndcg(records[seed]) - _ndcg(base[seed]) for seed in sorted(records) if seed in base],
        )
        for variant, records in found.items()
    ]


def _ndcg(record: dict[str, Any]) -> float:
    value: float = record["metrics"]["ndcg@10"]
    return value
