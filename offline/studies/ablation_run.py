"""One run of an ablation: trains a variant in a store of its own, measures it, and leaves nothing behind."""

import contextlib
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from model_store.artifacts.manifest import ModelManifest
from model_store.artifacts.store import ModelStore
from model_store.hatllm.config import KIND
from offline.dataset.splits import SplitName
from offline.evaluate import EvaluateSettings, evaluate
from offline.evaluation.report import ALL_CASES
from offline.job.devices import chosen_device
from offline.job.store_models import find_model
from offline.studies.ablation_results import METRICS, PlannedRun
from offline.training.hatllm.settings import SELF


@dataclass(frozen=True)
class Measure:
    """How models are evaluated, and whether they are kept.

    Attributes:
        exclude_seen: As in ``offline.evaluate``, like the next one.
        max_cases: A sample of the test cases; 0 = all.
        keeps_models: Add every trained model to the store.
    """

    exclude_seen: bool = True
    max_cases: int = 0
    keeps_models: bool = False

    def to_dict(self) -> dict[str, Any]:
        """What makes a difference to the figures."""
        return {"exclude_seen": self.exclude_seen, "max_cases": self.max_cases}


class Workshop:
    """The store that one run trains in; a killed command finds its checkpoints, or its model, there again.

    Args:
        run: Which run.
        directory: Of the ablation.
    """

    def __init__(self, run: PlannedRun, directory: Path) -> None:
        self._run = run
        self._scratch = ModelStore(directory / "work" / run.key)
        self._store = ModelStore(run.settings.store)

    def measure(self, measure: Measure) -> dict[str, Any]:
        """Trains and evaluates.

        Returns:
            The line of the results.

        Raises:
            HatstandError: The run failed.
        """
        settings = self._run.settings
        model = self._trained()
        report = evaluate(
            EvaluateSettings(
                model=model.model_id,
                data=settings.data,
                store=self._scratch.root,
                split=SplitName(settings.split),
                exclude_seen=measure.exclude_seen,
                max_cases=measure.max_cases,
                device=chosen_device(settings.device),
            )
        )
        if measure.keeps_models:
            find_model(self._store, str(self._scratch.model_directory(model.model_id)))
        overall = report["systems"]["model"][ALL_CASES]
        return {
            **self._run.cell,
            "metrics": {metric: overall[metric] for metric in METRICS},
            "num_cases": report["num_cases"],
            "validation": {name: value for name, value in model.metrics.items() if name.startswith("validation_")},
            "training_seconds": model.metrics["training_seconds"],
            "stages": model.training["stages"],
            "model_id": model.model_id,
            "settings": settings.to_dict(),
            "max_minutes": settings.max_minutes,
        }

    def clear(self) -> None:
        """Removes the store of this run."""
        directory = Path(self._scratch.root)
        shutil.rmtree(directory, ignore_errors=True)
        with contextlib.suppress(OSError):  # other runs, killed ones, may be in there
            directory.parent.rmdir()

    def _trained(self) -> ModelManifest:
        # the training libraries take seconds to import, which --help need not wait for
        from offline.training.hatllm.run import train_hatllm

        # killed after its training: it is there already
        if done := [model for model in self._scratch.models() if model.kind == KIND]:
            return done[0]
        tower = self._run.settings.item_tower
        if tower != SELF:
            tower = str(self._store.model_directory(tower))
        return train_hatllm(replace(self._run.settings, store=self._scratch.root, item_tower=tower))
