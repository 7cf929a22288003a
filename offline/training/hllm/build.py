"""Makes the HLLM that a run trains: backbones, settings of the text, which items have vectors."""

from collections.abc import Sequence
from pathlib import Path

import torch

from model_store.backbone.item_vectors import ItemVectors
from model_store.backbone.load import PRESET_PREFIX, PRESETS, Backbone, load_backbone
from model_store.backbone.lora import LoraSettings, apply_lora
from model_store.catalogue.catalogue import Catalogue
from model_store.catalogue.item_text import ITEM_PROMPT, item_text
from model_store.hllm.files import load_hllm
from model_store.hllm.network import HLLM, INITIAL_STD, HLLMConfig, UserLLM, build_hllm
from model_store.hllm.recent_mean import RecentMean
from offline.dataset.text_fields import default_text_fields
from offline.training.corpus import say_what_is_read
from offline.training.hllm.settings import TrainSettings
from offline.training.run import set_attention_dropout
from offline.training.run_settings import Recipe


def build_model(settings: TrainSettings, catalogue: Catalogue, known_item_ids: Sequence[str]) -> HLLM:
    """Builds the model from the settings; seed torch before, for what starts at random.

    Args:
        settings: Of the run.
        catalogue: Its texts train the tokenizer of an Item LLM from scratch.
        known_item_ids: Items with training events: those that get a vector.
    """
    text_fields = settings.text_fields or default_text_fields(catalogue)
    say_what_is_read(catalogue, text_fields)
    item_backbone = None if settings.item_input == "id" else _item_backbone(settings, catalogue, text_fields)
    user_backbone = None if settings.is_text_head else _user_backbone(settings)
    config = _config(settings, text_fields, item_backbone, user_backbone)
    if settings.lora_r:
        lora = LoraSettings(r=settings.lora_r, alpha=settings.lora_alpha, dropout=settings.lora_dropout)
        if item_backbone is not None and settings.has_end_to_end:
            item_backbone = apply_lora(item_backbone, lora)
        if settings.lora_user and user_backbone is not None:
            user_backbone = apply_lora(user_backbone, lora)
    model = build_hllm(
        config=config, item_backbone=item_backbone, user_backbone=user_backbone, known_item_ids=known_item_ids
    )
    _freeze_words(model)
    if settings.item_input == "text" and settings.freeze_item_llm:
        assert model.item_llm is not None
        model.item_llm.backbone.requires_grad_(False)
    return model


def continue_model(directory: Path, catalogue: Catalogue, known_item_ids: Sequence[str]) -> HLLM:
    """A trained model with a vector for each item that is known now; those that it has, it keeps.

    Args:
        directory: Of the model.
        catalogue: What it will read of the items is logged.
        known_item_ids: Items with training events.
    """
    model = load_hllm(directory)
    if model.reads_text:
        say_what_is_read(catalogue, model.config.text_fields)
    if model.item_vectors is not None:
        std = INITIAL_STD if model.config.item_input == "id" else 0.0
        vectors = ItemVectors(known_item_ids, model.config.embedding_dim, std=std)
        rows = model.item_vectors.rows_of(known_item_ids)
        with torch.no_grad():
            vectors.weight[rows >= 0] = model.item_vectors.weight[rows[rows >= 0]]
        model.item_vectors = vectors
    _freeze_words(model)
    return model.train()


def set_dropout(user_llm: UserLLM | RecentMean, recipe: Recipe, *, is_from_scratch: bool) -> None:
    """Sets a stage's dropout of the User LLM's input and attention weights, in place; the latter is not saved.

    Args:
        user_llm: The model in training.
        recipe: Of the stage.
        is_from_scratch: A pre-trained model keeps the attention dropout that it came with.
    """
    user_llm.dropout.p = recipe.dropout
    if is_from_scratch and isinstance(user_llm, UserLLM):
        set_attention_dropout(user_llm.backbone, recipe.attention_dropout)


def _freeze_words(model: HLLM) -> None:
    if isinstance(model.user_llm, UserLLM):
        # fed embeddings only: its table of words is never read, and processes would wait for its gradient
        model.user_llm.backbone.get_input_embeddings().weight.requires_grad_(False)


def wants_whitening(settings: TrainSettings) -> float | None:
    """The power of the whitening that the joint starts from, or None."""
    if settings.item_input == "id" or settings.start_from is not None:
        return None
    if settings.whiten_power is None:
        power = 0.0 if settings.is_text_head else 1.0
        return power if settings.has_pretrained_items else None
    return settings.whiten_power if settings.whiten_power >= 0 else None


def _item_backbone(settings: TrainSettings, catalogue: Catalogue, text_fields: Sequence[str]) -> Backbone:
    if settings.item_llm is not None:
        return load_backbone(settings.item_llm, random_init=settings.random_init)
    prompt = ITEM_PROMPT if settings.item_prompt is None else settings.item_prompt
    corpus = (
        item_text(catalogue.fields(item_index, text_fields), prompt=prompt, field_names=text_fields)
        for item_index in range(1, len(catalogue) + 1)
    )
    return load_backbone(f"{PRESET_PREFIX}{settings.preset}", tokenizer_corpus=corpus)


def _user_backbone(settings: TrainSettings) -> Backbone:
    if settings.user_llm is not None:
        return load_backbone(settings.user_llm, random_init=settings.random_init)
    return load_backbone(f"{PRESET_PREFIX}{settings.preset}", hidden_size=PRESETS[settings.preset].hidden_size)


def _config(
    settings: TrainSettings,
    text_fields: Sequence[str],
    item_backbone: Backbone | None,
    user_backbone: Backbone | None,
) -> HLLMConfig:
    # a text head's matrix is square
    backbone = user_backbone or item_backbone
    assert backbone is not None
    width = backbone.hidden_size
    pooling = settings.pooling
    item_prompt = settings.item_prompt
    has_joint = False
    if item_backbone is not None:
        is_trained_token = item_backbone.is_causal and settings.has_end_to_end
        pooling = pooling or ("item_token" if is_trained_token else "mean")
        if item_prompt is None:
            item_prompt = ITEM_PROMPT if item_backbone.is_causal else ""
        is_joined = settings.is_text_head or item_backbone.hidden_size != width
        has_joint = wants_whitening(settings) is not None or is_joined
    recipe = settings.user_stage if settings.has_user_stage else settings.end_to_end
    return HLLMConfig(
        embedding_dim=width,
        item_input=settings.item_input,
        text_fields=tuple(text_fields),
        item_prompt=ITEM_PROMPT if item_prompt is None else item_prompt,
        max_text_tokens=settings.max_text_tokens,
        pooling=pooling or "item_token",
        max_history_length=settings.history_length,
        has_time_features=settings.time_features,
        has_item_vectors=settings.has_item_vectors,
        has_joint=has_joint,
        dropout=recipe.dropout,
        user_model=settings.user_model,
        averaging=settings.averaging_share,
    )
