"""Makes the HatLLM that a run trains: backbone, adapters, bands, item tower."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from model_store.backbone.layered_attention import LAYERED
from model_store.backbone.load import PRESET_PREFIX, Backbone, load_backbone
from model_store.backbone.lora import LoraSettings, apply_lora
from model_store.catalogue.catalogue import TITLE, Catalogue
from model_store.catalogue.item_segments import segment_text
from model_store.hatllm.config import HatLLMConfig
from model_store.hatllm.masks import resolve_bands
from model_store.hatllm.network import HatLLM, build_hatllm
from model_store.hllm.network import HLLM
from offline.training.corpus import say_what_is_read
from offline.training.hatllm.settings import HatTrainSettings


def build_hat_model(
    settings: HatTrainSettings, catalogue: Catalogue, known_item_ids: Sequence[str], *, item_tower: HLLM | None
) -> HatLLM:
    """Builds the model from the settings; seed torch before, for what starts at random.

    Args:
        settings: Of the run.
        catalogue: Its titles train the tokenizer of a model from scratch.
        known_item_ids: Items with training events: those that get a vector.
        item_tower: What ``settings.item_tower`` names, with its item side.

    Raises:
        InvalidInput: The parts do not fit each other, or the bands are deeper than the model.
    """
    text_fields = settings.text_fields or (TITLE,)
    say_what_is_read(catalogue, text_fields)
    backbone = _backbone(settings, catalogue, text_fields)
    config = _config(settings, text_fields, backbone, item_tower)
    if settings.has_lora:
        backbone = apply_lora(
            backbone,
            LoraSettings(
                r=settings.lora_r,
                alpha=settings.lora_alpha,
                dropout=settings.lora_dropout,
                targets=settings.target_names,
            ),
        )
    model = build_hatllm(config=config, backbone=backbone, known_item_ids=known_item_ids, item_tower=item_tower)
    if model.item_head is not None:
        _start_heads(model.user_head, model.item_head)
    _freeze_unused(model, settings)
    return model


def _start_heads(*heads: nn.Linear) -> None:
    """Query and item embedding start as the state itself, so that what follows is at first what is alike.

    From random heads, whose input has much in common for all items, an optimiser like Adam moves all embeddings in
    one direction, and they need long to part again, or never do.
    """
    for head in heads:
        nn.init.eye_(head.weight)
        nn.init.zeros_(head.bias)


def _backbone(settings: HatTrainSettings, catalogue: Catalogue, text_fields: Sequence[str]) -> Backbone:
    if settings.backbone is not None:
        return load_backbone(
            settings.backbone,
            random_init=settings.random_init,
            num_layers=settings.num_layers,
            attention=LAYERED,
        )
    corpus = (
        segment_text(catalogue.fields(item_index, text_fields), text_fields)
        for item_index in range(1, len(catalogue) + 1)
    )
    return load_backbone(
        f"{PRESET_PREFIX}{settings.preset}",
        tokenizer_corpus=corpus,
        num_layers=settings.num_layers or settings.preset_values.num_layers,
        attention=LAYERED,
    )


def _config(
    settings: HatTrainSettings, text_fields: Sequence[str], backbone: Backbone, item_tower: HLLM | None
) -> HatLLMConfig:
    num_layers = int(backbone.model.config.num_hidden_layers)
    in_layers, cr_layers = resolve_bands(num_layers, settings.in_band, settings.cr_band)
    if settings.no_masks:
        in_layers = cr_layers = 0
    own_dim = backbone.hidden_size if item_tower is None else item_tower.config.embedding_dim
    order: Any = settings.order
    modes: Any = {"both": ("retrieve", "generate")}.get(settings.objective, (settings.objective,))
    return HatLLMConfig(
        embedding_dim=settings.embedding_dim or own_dim,
        in_layers=in_layers,
        cr_layers=cr_layers,
        band_order=order,
        cr_keys=settings.cr_keys,
        nonitem_visible_in=settings.nonitem_visible_in,
        nonitem_visible_cr=settings.nonitem_visible_cr,
        self_visible_cr=settings.self_visible_cr,
        target_as_item=settings.target_as_item,
        item_end=settings.item_end,
        prompt=settings.prompt,
        text_fields=tuple(text_fields),
        max_item_tokens=settings.item_tokens,
        max_history_length=settings.history_length,
        has_item_vectors=settings.has_item_vectors,
        item_tower="self" if item_tower is None else "hllm",
        modes=modes,
        dropout=settings.recipe.dropout,
    )


def _freeze_unused(model: HatLLM, settings: HatTrainSettings) -> None:
    """Processes would wait for gradients that never come."""
    if model.item_tower is not None:
        model.item_tower.requires_grad_(False)
    if not settings.retrieves:
        for head in (model.user_head, model.item_head):
            if head is not None:
                head.requires_grad_(False)
        model.logit_scale.requires_grad_(False)
    if model.lm_head is not None and settings.has_lora:
        # adapters adapt what the checkpoint knows; its table of words stays, as its word embeddings do
        model.lm_head.requires_grad_(False)
