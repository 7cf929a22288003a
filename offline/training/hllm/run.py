"""One training run of an HLLM, from a dataset to a model in the store."""

from dataclasses import replace
from pathlib import Path

import torch
from accelerate import PartialState

from model_store.artifacts.manifest import ModelManifest
from model_store.artifacts.store import ModelStore
from model_store.errors import InvalidInput
from model_store.hllm.files import read_config, save_hllm
from model_store.hllm.network import HLLM, KIND
from offline.indexing.catalogue_tokens import tokenize_catalogue
from offline.job.store_models import find_model
from offline.training.hllm.build import build_model, continue_model, set_dropout, wants_whitening
from offline.training.hllm.settings import TrainSettings
from offline.training.hllm.tasks import EndToEndTask, UserLLMTask
from offline.training.hllm.text_states import catalogue_states, text_states_name, whiten
from offline.training.ranking_task import RankingTask
from offline.training.run import Run, finish_run, start_run
from offline.training.windows import collate_windows


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
    start = None if settings.start_from is None else find_model(ModelStore(settings.store), settings.start_from)
    if start is not None:
        settings = _like(settings, start)
    run = start_run(settings)
    if start is None:
        model = build_model(settings, run.corpus.catalogue, run.corpus.known_ids)
    else:
        directory = run.store.model_directory(start.model_id)
        model = continue_model(directory, run.corpus.catalogue, run.corpus.known_ids)
    model.to(run.device)
    if wants_whitening(settings) is not None:
        _start_whitened(model, run, settings)
    if settings.has_end_to_end:
        _train_end_to_end(model, run, settings)
    if settings.has_user_stage:
        _train_user_llm(model, run, settings)
    return finish_run(
        run,
        kind=KIND,
        embedding_dim=model.config.embedding_dim,
        save=lambda directory: save_hllm(model.cpu(), directory),
        figures=RankingTask.metrics,
        parents=[] if start is None else [start.model_id],
    )


def _like(settings: TrainSettings, start: ModelManifest) -> TrainSettings:
    """The settings of a run that goes on from a model: its shape is not asked for again."""
    if start.kind != KIND:
        raise InvalidInput(f"--from {start.model_id} is a {start.kind}, expected a model of kind {KIND}")
    config = read_config(ModelStore(settings.store).model_directory(start.model_id, verify=False))
    return replace(
        settings,
        item_input=config.item_input,
        user_model=config.user_model,
        max_history_length=config.max_history_length,
        time_features=config.has_time_features,
    )


def _start_whitened(model: HLLM, run: Run, settings: TrainSettings) -> None:
    power = wants_whitening(settings)
    assert model.item_llm is not None
    assert model.item_llm.joint is not None
    assert power is not None
    directory = _text_directory(model, run)
    states = catalogue_states(model, run.corpus.catalogue, directory=directory, before_joint=True)
    whiten(model.item_llm.joint, states, power=power, rms=settings.whiten_rms)


def _text_directory(model: HLLM, run: Run) -> Path:
    """Where the states of the Item LLM that training began with lie: other runs begin with the same."""
    return run.store.work_directory(text_states_name(model))


def _train_end_to_end(model: HLLM, run: Run, settings: TrainSettings) -> None:
    recipe = settings.end_to_end
    assert recipe.negatives is not None
    assert model.user_llm is not None
    path = run.directory(f"tokens-{PartialState().process_index}") / "token_ids.int32"
    task = EndToEndTask(
        model,
        vector_rows=run.vector_rows(model.item_vectors),
        false_negative_cosine=settings.false_negative_cosine,
        tokens=tokenize_catalogue(model, run.corpus.catalogue, path=path),
        candidates=run.candidates(recipe),
    )
    set_dropout(model.user_llm, recipe, is_from_scratch=settings.user_llm is None or settings.random_init)
    run.train_stage("end_to_end", task, collate=collate_windows, recipe=recipe)


def _train_user_llm(model: HLLM, run: Run, settings: TrainSettings) -> None:
    recipe = settings.user_stage
    text_states, joint = None, None
    if model.item_llm is not None:
        text_states, joint = _text_of_user_stage(model, run, settings)
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
        vector_rows=run.vector_rows(model.item_vectors),
        false_negative_cosine=settings.false_negative_cosine,
        text_states=text_states,
        joint=joint,
        candidates=run.candidates(recipe),
        item_vector_dropout=settings.item_vector_dropout,
    )
    set_dropout(model.user_llm, recipe, is_from_scratch=settings.user_llm is None or settings.random_init)
    run.train_stage("user_llm", task, collate=collate_windows, recipe=recipe)


def _text_of_user_stage(model: HLLM, run: Run, settings: TrainSettings) -> tuple[torch.Tensor, torch.nn.Linear | None]:
    """The stored text embeddings, and the joint if it is to learn: then they are those before it."""
    assert model.item_llm is not None
    joint = model.item_llm.joint
    directory = run.directory("trained_text") if settings.has_end_to_end else _text_directory(model, run)
    states = catalogue_states(model, run.corpus.catalogue, directory=directory, before_joint=joint is not None)
    states = states.to(run.device)
    # a joint that neither a whitening nor stage 1 has set means nothing yet
    is_unset = wants_whitening(settings) is None and not settings.has_end_to_end and settings.start_from is None
    if joint is None or settings.train_joint or settings.is_text_head or is_unset:
        return states, joint
    with torch.no_grad():
        text = joint(states)
        text[0] = 0.0
    return text, None
