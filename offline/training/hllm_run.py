"""One training run of an HLLM, from a dataset to a model in the store."""

import hashlib
import json
import logging
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from safetensors.torch import load_file, save_file
from transformers import set_seed

from model_store.catalogue import Catalogue
from model_store.errors import InvalidInput
from model_store.hllm import HLLM, KIND
from model_store.hllm_files import item_tower_hash, save_hllm
from model_store.manifest import ModelManifest
from model_store.store import ModelStore
from offline.catalogue_tokens import tokenize_catalogue
from offline.dataset import INTERACTIONS_FILE, ITEMS_FILE, Dataset
from offline.splits import Split, is_held_out, leave_one_out, temporal, without_items
from offline.training.hllm_build import build_model, set_dropout, wants_whitening
from offline.training.hllm_tasks import EndToEndTask, NegativeSampler, UserLLMTask
from offline.training.hllm_trainer import TrainingData, train_task
from offline.training.settings import Recipe, TrainSettings
from offline.training.text_states import catalogue_states, whiten
from offline.training.windows import RankingCases, TrainingWindows, collate_windows

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Corpus:
    """What a run trains on.

    Attributes:
        catalogue: All N items, those held out included.
        windows: Training histories.
        validation: Cases whose target is not held out.
        known: (M,) int64 item_index ascending, of items with training events.
    """

    catalogue: Catalogue
    windows: TrainingWindows
    validation: RankingCases
    known: np.ndarray


def train_hllm(settings: TrainSettings) -> ModelManifest:
    """Trains an HLLM and adds it to the store.

    A run that was killed goes on where its last checkpoint was if it is started again with the same dataset
    and settings (the time limit may differ). Under torchrun, all processes call this and the first one
    writes.

    Args:
        settings: What to train on what.

    Returns:
        The model's manifest; ``metrics`` has the validation figures, ``training`` the split and the recipe.

    Raises:
        InvalidInput: Bad dataset or settings.
        TrainingCollapsed: The item embeddings became one.
    """
    started = time.monotonic()
    store = ModelStore(settings.store)
    dataset = Dataset.open(settings.data)
    corpus = _read_corpus(dataset, settings)
    set_seed(settings.seed)
    work = store.work_directory(f"train-{_run_key(dataset, settings)}")
    ids = [corpus.catalogue.item_ids[index - 1] for index in corpus.known]
    # the processes must form their group before the model is built: the first one prepares files for the
    # others
    processes = PartialState(cpu=settings.device == "cpu" or not torch.cuda.is_available())
    model = build_model(settings, corpus.catalogue, ids).to(processes.device)
    stages: dict[str, dict[str, float]] = {}
    if wants_whitening(settings) is not None:
        _start_whitened(model, corpus, settings, work)
    if settings.has_end_to_end:
        stages["end_to_end"] = _train_end_to_end(model, corpus, settings, work)
    if settings.has_user_stage:
        stages["user_llm"] = _train_user_llm(model, corpus, settings, work)
    manifest = None
    if processes.is_main_process:
        manifest = _add_to_store(store, model, stages, settings, seconds=time.monotonic() - started)
        shutil.rmtree(work, ignore_errors=True)
    processes.wait_for_everyone()
    # the other processes find it where the first one put it
    return manifest or store.models()[0]


def _read_corpus(dataset: Dataset, settings: TrainSettings) -> _Corpus:
    catalogue = dataset.catalogue()
    split = _split(dataset, settings)
    train = split.train
    is_out = np.zeros(len(catalogue), dtype=bool)
    if settings.hold_out_items:
        is_out = is_held_out(catalogue.item_ids, settings.hold_out_items, settings.seed)
        train = without_items(train, is_out)
    windows = TrainingWindows(train, max_history_length=settings.history_length)
    validation = RankingCases(
        split.validation,
        max_history_length=settings.history_length,
        max_cases=settings.validation_cases,
        allowed_targets=np.concatenate(([False], ~is_out)),
    )
    if len(validation) == 0:
        raise InvalidInput(f"{settings.data}: no validation cases are left, all targets are held out")
    known = np.unique(np.asarray(train.item_indices)).astype(np.int64)
    LOGGER.info(
        "%d items, %d of them in training; %d windows, %d validation cases",
        len(catalogue),
        len(known),
        len(windows),
        len(validation),
    )
    return _Corpus(catalogue, windows, validation, known)


def _split(dataset: Dataset, settings: TrainSettings) -> Split:
    if settings.split == "leave-one-out":
        return leave_one_out(dataset.sequences())
    if dataset.time_unit != "seconds":
        raise InvalidInput(
            f"{settings.data} has time_unit {dataset.time_unit!r}, expected 'seconds' for a temporal split; "
            "use --split leave-one-out"
        )
    return temporal(dataset.sequences())


def _start_whitened(model: HLLM, corpus: _Corpus, settings: TrainSettings, work: Path) -> None:
    power = wants_whitening(settings)
    assert model.item_llm is not None
    assert model.item_llm.joint is not None
    assert power is not None
    states = catalogue_states(model, corpus.catalogue, directory=_made(work / "text"), before_joint=True)
    whiten(model.item_llm.joint, states, power=power, rms=settings.whiten_rms)


def _train_end_to_end(model: HLLM, corpus: _Corpus, settings: TrainSettings, work: Path) -> dict[str, float]:
    recipe = settings.end_to_end
    assert recipe.negatives is not None
    processes = PartialState()
    path = _made(work / f"tokens-{processes.process_index}") / "token_ids.int32"
    task = EndToEndTask(
        model,
        vector_rows=_vector_rows(model, corpus),
        false_negative_cosine=settings.false_negative_cosine,
        tokens=tokenize_catalogue(model, corpus.catalogue, path=path),
    )
    collate = NegativeSampler(corpus.known, recipe.negatives)
    return _train_stage(task, corpus, collate, recipe, settings, work / "end_to_end")


def _train_user_llm(model: HLLM, corpus: _Corpus, settings: TrainSettings, work: Path) -> dict[str, float]:
    recipe = settings.user_stage
    text_states, joint = None, None
    if model.item_llm is not None:
        text_states, joint = _text_of_user_stage(model, corpus, settings, work)
    assert model.user_llm is not None
    # without the Item LLM: what is frozen need not be in every checkpoint
    trained = HLLM(
        model.config,
        item_llm=None,
        item_tokenizer=None,
        user_llm=model.user_llm,
        item_vectors=model.item_vectors,
    )
    trained.logit_scale = model.logit_scale
    task = UserLLMTask(
        trained,
        vector_rows=_vector_rows(model, corpus),
        false_negative_cosine=settings.false_negative_cosine,
        text_states=text_states,
        joint=joint,
        candidates=torch.from_numpy(corpus.known),
        num_negatives=recipe.negatives,
    )
    return _train_stage(task, corpus, collate_windows, recipe, settings, work / "user_llm")


def _text_of_user_stage(
    model: HLLM, corpus: _Corpus, settings: TrainSettings, work: Path
) -> tuple[torch.Tensor, torch.nn.Linear | None]:
    """The stored text embeddings, and the joint if it is to learn: then they are those before it."""
    assert model.item_llm is not None
    joint = model.item_llm.joint
    directory = _made(work / ("trained_text" if settings.has_end_to_end else "text"))
    states = catalogue_states(model, corpus.catalogue, directory=directory, before_joint=joint is not None)
    states = states.to(next(model.parameters()).device)
    # a joint that neither a whitening nor stage 1 has set means nothing yet
    is_unset = wants_whitening(settings) is None and not settings.has_end_to_end
    if joint is None or settings.train_joint or is_unset:
        return states, joint
    with torch.no_grad():
        text = joint(states)
        text[0] = 0.0
    return text, None


def _train_stage(
    task: Any, corpus: _Corpus, collate: Any, recipe: Recipe, settings: TrainSettings, directory: Path
) -> dict[str, float]:
    """Trains, unless an earlier run that was killed later on has done so."""
    done = directory / "done.safetensors"
    figures = directory / "done.json"
    if figures.is_file():
        task.load_state_dict(load_file(done), strict=False)
        finished: dict[str, float] = json.loads(figures.read_text())
        return finished
    set_dropout(task.hllm.user_llm, recipe, is_from_scratch=settings.user_llm is None)
    data = TrainingData(windows=corpus.windows, validation=corpus.validation, collate=collate)
    result = train_task(task, data, recipe=recipe, settings=settings, directory=_made(directory))
    processes = PartialState()
    if processes.is_main_process:
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in task.state_dict().items()}
        save_file(state, done)
        temporary = figures.with_suffix(".partial")
        temporary.write_text(json.dumps(result))
        temporary.replace(figures)
    processes.wait_for_everyone()
    return result


def _vector_rows(model: HLLM, corpus: _Corpus) -> torch.Tensor:
    device = next(model.parameters()).device
    rows = torch.full((len(corpus.catalogue) + 1,), -1, dtype=torch.int64, device=device)
    if model.item_vectors is not None:
        rows[torch.from_numpy(corpus.known).to(device)] = torch.arange(len(corpus.known), device=device)
    return rows


def _add_to_store(
    store: ModelStore,
    model: HLLM,
    stages: dict[str, dict[str, float]],
    settings: TrainSettings,
    *,
    seconds: float,
) -> ModelManifest:
    final = list(stages.values())[-1]
    metrics = {f"validation_{name}": value for name, value in final.items() if "@" in name}
    with store.staging() as staged:
        save_hllm(model.cpu(), staged)
        return store.add_model(
            staged,
            kind=KIND,
            embedding_dim=model.config.embedding_dim,
            item_tower_hash=item_tower_hash(staged),
            metrics={**metrics, "training_seconds": seconds},
            training={
                "split": settings.split,
                "hold_out_items": settings.hold_out_items,
                "seed": settings.seed,
                "settings": settings.to_dict(),
                "stages": stages,
            },
        )


def _run_key(dataset: Dataset, settings: TrainSettings) -> str:
    """Names a run by what it depends on, so that only the same run is gone on with."""
    digest = hashlib.sha256(json.dumps(settings.to_dict(), sort_keys=True).encode())
    for name in (ITEMS_FILE, INTERACTIONS_FILE):
        with (dataset.directory / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def _made(directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    return directory
