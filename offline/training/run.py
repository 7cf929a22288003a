"""What the training run of any kind of model does: it starts, goes through its stages, and ends in the store."""

import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from safetensors.torch import load_file, save_file
from transformers import set_seed

from model_store.artifacts.manifest import ModelManifest
from model_store.artifacts.store import ModelStore
from model_store.backbone.item_vectors import ItemVectors
from model_store.kinds import item_tower_hash
from offline.dataset.dataset import Dataset
from offline.training.corpus import Corpus, read_corpus, run_key
from offline.training.ranking_task import Candidates
from offline.training.run_settings import Recipe, RunSettings
from offline.training.tasks import Task
from offline.training.trainer import TrainingData, train_task


@dataclass(frozen=True)
class Run:
    """A training run under way.

    Attributes:
        settings: What was asked for.
        store: Where the model goes.
        corpus: What is trained on.
        key: Names the settings and the data.
        work: Directory of this run; the same settings on the same data find it again after a kill.
        device: Of this process.
        started: ``time.monotonic()`` at the start.
        stages: Figures of the stages that are done, by name, the last one last.
    """

    settings: RunSettings
    store: ModelStore
    corpus: Corpus
    key: str
    work: Path
    device: torch.device
    started: float
    stages: dict[str, dict[str, float]] = field(default_factory=dict)

    def directory(self, name: str) -> Path:
        """A part of the work directory, made if need be."""
        path = self.work / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def vector_rows(self, item_vectors: ItemVectors | None) -> torch.Tensor:
        """(N + 1,) int64: the row of each item's learned vector, -1 = none; row 0 is padding."""
        rows = torch.full((len(self.corpus.catalogue) + 1,), -1, dtype=torch.int64, device=self.device)
        if item_vectors is not None:
            known = torch.from_numpy(self.corpus.known).to(self.device)
            rows[known] = torch.arange(len(known), device=self.device)
        return rows

    def candidates(self, recipe: Recipe) -> Candidates:
        """The items that training knows, of which a stage with stored embeddings takes its negatives."""
        known = torch.from_numpy(self.corpus.known).to(self.device)
        return Candidates(known, num_items=len(self.corpus.catalogue), num_negatives=recipe.negatives)

    def train_stage(self, name: str, task: Task, *, collate: Any, recipe: Recipe) -> None:
        """Trains, unless this run, killed later on, has done so before.

        Args:
            name: Of the stage.
            task: Holds the best weights afterwards.
            collate: Examples to a training batch.
            recipe: Of the stage.
        """
        directory = self.directory(name)
        done, figures = directory / "done.safetensors", directory / "done.json"
        if figures.is_file():
            task.load_state_dict(load_file(done), strict=False)
            self.stages[name] = json.loads(figures.read_text())
            return
        data = TrainingData(windows=self.corpus.windows, validation=self.corpus.validation, collate=collate)
        result = train_task(task, data, recipe=recipe, settings=self.settings, directory=directory)
        processes = PartialState()
        if processes.is_main_process:
            state = {key: tensor.detach().cpu().contiguous() for key, tensor in task.state_dict().items()}
            save_file(state, done)
            temporary = figures.with_suffix(".partial")
            temporary.write_text(json.dumps(result))
            temporary.replace(figures)
        processes.wait_for_everyone()
        self.stages[name] = result


def start_run(settings: RunSettings, *, window: Callable[[int], int] | None = None) -> Run:
    """Reads the dataset, seeds what is random, and joins the group of processes.

    Args:
        settings: What was asked for.
        window: How many of its latest events the model reads of a history of so many; None: at most L.

    Raises:
        InvalidInput: Bad dataset or settings.
    """
    started = time.monotonic()
    store = ModelStore(settings.store)
    dataset = Dataset.open(settings.data)
    corpus = read_corpus(dataset, settings, window=window)
    set_seed(settings.seed)
    key = run_key(dataset, settings)
    work = store.work_directory(f"train-{key}")
    # the processes must form their group before the model is built: the first one prepares files for the
    # others
    processes = PartialState(cpu=settings.device == "cpu" or not torch.cuda.is_available())
    device = processes.device
    return Run(settings=settings, store=store, corpus=corpus, key=key, work=work, device=device, started=started)


def finish_run(
    run: Run,
    *,
    kind: str,
    embedding_dim: int,
    save: Callable[[Path], None],
    figures: Sequence[str],
    parents: Sequence[str] = (),
) -> ModelManifest:
    """Adds the trained model to the store and removes what the run kept for itself.

    Args:
        run: All its stages are done.
        kind: Of the model.
        embedding_dim: D.
        save: Writes the model into a directory; called in the first process only.
        figures: Which of the last stage's figures are the model's metrics, as ``validation_<name>``.
        parents: Ids of the models it was trained from.

    Returns:
        The model's manifest, in every process.
    """
    settings, final = run.settings, list(run.stages.values())[-1]
    processes = PartialState()
    manifest = None
    if processes.is_main_process:
        with run.store.staging() as staged:
            save(staged)
            metrics = {f"validation_{name}": final[name] for name in figures}
            manifest = run.store.add_model(
                staged,
                kind=kind,
                embedding_dim=embedding_dim,
                item_tower_hash=item_tower_hash(staged),
                parents=parents,
                metrics={**metrics, "training_seconds": time.monotonic() - run.started},
                training={
                    "split": settings.split,
                    "hold_out_items": settings.hold_out_items,
                    "seed": settings.seed,
                    "settings": settings.to_dict(),
                    "run": run.key,
                    "stages": run.stages,
                },
            )
        shutil.rmtree(run.work, ignore_errors=True)
    processes.wait_for_everyone()
    # the other processes find it where the first one put it
    return manifest or run.store.models()[0]


def set_attention_dropout(model: torch.nn.Module, probability: float) -> None:
    """Sets the dropout of attention weights of a language model, in place; it is not saved."""
    for module in model.modules():
        if isinstance(getattr(module, "attention_dropout", None), float):
            setattr(module, "attention_dropout", probability)  # noqa: B010 (a Module attribute is typed as Tensor)
