"""One training run of a HatLLM, from a dataset to a model in the store."""

from dataclasses import replace
from typing import Any

from accelerate import PartialState

from model_store.artifacts.manifest import ModelManifest
from model_store.artifacts.store import ModelStore
from model_store.errors import InvalidInput
from model_store.hatllm.config import KIND, window
from model_store.hatllm.files import save_hatllm
from model_store.hatllm.network import HatLLM
from model_store.hllm.network import HLLM
from model_store.hllm.network import KIND as HLLM_KIND
from offline.indexing.catalogue_tokens import tokenize_catalogue
from offline.job.store_models import find_model, load_item_model
from offline.training.hatllm.build import build_hat_model
from offline.training.hatllm.settings import SELF, HatTrainSettings
from offline.training.hatllm.tasks import HatGenerateTask, HatRetrieveTask, HatTowerTask, HatWindows
from offline.training.hllm.text_states import item_embeddings
from offline.training.run import Run, finish_run, set_attention_dropout, start_run
from offline.training.tasks import Task
from offline.training.windows import collate_windows


def train_hatllm(settings: HatTrainSettings) -> ModelManifest:
    """Trains a HatLLM and adds it to the store; killed runs and several processes as in ``train_hllm``.

    Args:
        settings: What to train on what.

    Returns:
        The model's manifest; ``metrics`` has the validation figures (of a model that only generates: the loss of
        the titles), ``training`` the split and the recipe.

    Raises:
        InvalidInput: Bad dataset or settings, or parts that do not fit each other.
        TrainingCollapsed: The item embeddings became one.
    """
    tower = _find_tower(settings)
    if tower is not None:  # by its id, which says what it is, not by a path
        settings = replace(settings, item_tower=tower.model_id)
    run = start_run(settings, window=lambda num_items: window(num_items, settings.history_length))
    tower_model = None if tower is None else _load_tower(run, tower)
    catalogue, known_ids = run.corpus.catalogue, run.corpus.known_ids
    model = build_hat_model(settings, catalogue, known_ids, item_tower=tower_model).to(run.device)
    # its embeddings are stored before training; what is frozen need not be in every checkpoint
    model.item_tower = None
    if settings.is_random:
        set_attention_dropout(model.backbone, settings.recipe.attention_dropout)
    task = _task(model, run, settings, tower_model)
    run.train_stage("hatllm", task, collate=collate_windows, recipe=settings.recipe)
    tower_directory = None if tower is None else run.store.model_directory(tower.model_id, verify=False)
    return finish_run(
        run,
        kind=KIND,
        embedding_dim=model.config.embedding_dim,
        save=lambda directory: save_hatllm(model.cpu(), directory, item_tower_directory=tower_directory),
        figures=task.metrics,
        parents=[] if tower is None else [tower.model_id],
    )


def _find_tower(settings: HatTrainSettings) -> ModelManifest | None:
    if settings.item_tower == SELF:
        return None
    manifest = find_model(ModelStore(settings.store), settings.item_tower)
    if manifest.kind != HLLM_KIND:
        raise InvalidInput(f"--item-tower {settings.item_tower} is of kind {manifest.kind!r}, expected {HLLM_KIND!r}")
    return manifest


def _load_tower(run: Run, manifest: ModelManifest) -> HLLM:
    tower = load_item_model(run.store, manifest, device=run.device.type)
    assert isinstance(tower, HLLM)  # by its kind
    return tower


def _task(model: HatLLM, run: Run, settings: HatTrainSettings, tower: HLLM | None) -> Task:
    path = run.directory(f"tokens-{PartialState().process_index}") / "token_ids.int32"
    windows = HatWindows(model, tokenize_catalogue(model, run.corpus.catalogue, path=path))
    if not settings.retrieves:
        return HatGenerateTask(model, windows)
    options: dict[str, Any] = {
        "candidates": run.candidates(settings.recipe),
        "vector_rows": run.vector_rows(model.item_vectors),
        "false_negative_cosine": settings.false_negative_cosine,
        "generate_weight": settings.generate_weight if settings.generates else 0.0,
    }
    if tower is None:
        return HatRetrieveTask(model, windows, **options)
    table = item_embeddings(tower, run.corpus.catalogue, directory=run.directory("items"), with_item_vectors=True)
    return HatTowerTask(model, windows, table=table.to(run.device), **options)
