"""Low-rank adapters (LoRA, arXiv 2106.09685) on a backbone, through peft: applied, merged, kept on disk."""

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from transformers import PreTrainedModel

from model_store.backbone.load import ADAPTER_FILE, Backbone, quiet_progress
from model_store.errors import InvalidInput


@dataclass(frozen=True)
class LoraSettings:
    """How to adapt a model.

    Attributes:
        r: Rank, at least 1.
        alpha: Scale of the update, divided by ``r``.
        dropout: Of the adapter's input while training.
        targets: Names of the layers; empty means every linear layer.
    """

    r: int = 8
    alpha: int = 16
    dropout: float = 0.0
    targets: tuple[str, ...] = ()


def apply_lora(backbone: Backbone, settings: LoraSettings) -> Backbone:
    """Freezes a backbone and puts trainable adapters into its linear layers.

    Raises:
        InvalidInput: A rank below 1, or targets that the model does not have.
    """
    if settings.r < 1:
        raise InvalidInput(f"LoRA rank {settings.r}, expected at least 1")
    config = LoraConfig(
        task_type=TaskType.FEATURE_EXTRACTION,
        r=settings.r,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=list(settings.targets) or "all-linear",
    )
    try:
        with _without_deprecations():
            adapted: Any = get_peft_model(backbone.model, config)
    except ValueError as error:
        raise InvalidInput(f"LoRA targets {settings.targets}: {' '.join(str(error).split())[:300]}") from error
    return replace(backbone, model=adapted)


def is_adapted(model: torch.nn.Module) -> bool:
    """Whether :func:`apply_lora` was applied to this model."""
    return isinstance(model, PeftModel)


def merge_lora(model: Any) -> PreTrainedModel:
    """Folds the adapters into the weights: the same function with no extra work per forward pass."""
    merged: PreTrainedModel = model.merge_and_unload() if is_adapted(model) else model
    return merged


def save_weights(model: Any, directory: Path, *, adapter_directory: Path) -> None:
    """Writes a base model as a Hugging Face directory, and its adapters, if any, beside it."""
    base: Any = model.get_base_model() if is_adapted(model) else model
    state = base.state_dict()
    state = {name.replace(".base_layer.", "."): state[name] for name in state if ".lora_" not in name}
    with quiet_progress():
        base.save_pretrained(directory, state_dict=state)
    if is_adapted(model):
        # where the base lies on this machine is nobody's business, and would change the artifact's hash
        model.peft_config["default"].base_model_name_or_path = directory.name
        model.save_pretrained(adapter_directory, save_embedding_layers=False)
        (adapter_directory / "README.md").unlink(missing_ok=True)  # a template to fill in
        settings_path = adapter_directory / ADAPTER_FILE
        settings = json.loads(settings_path.read_text(encoding="utf-8"))
        if isinstance(settings["target_modules"], list):  # a set, in an order that changes from run to run
            settings["target_modules"].sort()
        settings_path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def load_adapter(backbone: Backbone, adapter_directory: Path) -> Backbone:
    """Puts saved adapters back onto their base; without such a directory nothing changes."""
    if not (adapter_directory / ADAPTER_FILE).is_file():
        return backbone
    with _without_deprecations():
        adapted: Any = PeftModel.from_pretrained(backbone.model, str(adapter_directory), is_trainable=True)
    adapted.eval()
    return replace(backbone, model=adapted)


@contextmanager
def _without_deprecations() -> Iterator[None]:
    """Peft still reads names that transformers renamed; nothing a user could do about it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield
