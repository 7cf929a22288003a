"""What every training run is told, whatever kind of model it trains."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from model_store.errors import InvalidInput

ALL_ITEMS = "all"
# these make no difference to the result
_NOT_OF_THE_RESULT = ("data", "store", "max_minutes", "checkpoint_seconds", "device")


@dataclass(frozen=True)
class Recipe:
    """How one stage is optimised.

    Attributes:
        epochs: At most; early stopping may end sooner.
        batch_size: Windows of a step and process.
        learning_rate: Peak, after the warm-up.
        weight_decay: Of matrices (AdamW), the item vectors among them.
        dropout: Of the model's input, 0 <= dropout < 1.
        attention_dropout: Of a model that starts from scratch.
        negatives: Shared negatives of a step and process; None: the whole catalogue, where its embeddings are stored.
        schedule: Of the learning rate after the warm-up.
        warmup: Fraction of all steps.
        patience: Evaluations without progress on validation before training ends.
        weight_average: Decay per step of the average of the weights, which is what is validated and saved; 0: none.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float = 0.01
    dropout: float = 0.0
    attention_dropout: float = 0.0
    negatives: int | None = None
    schedule: Literal["cosine", "linear"] = "linear"
    warmup: float = 0.05
    patience: int = 3
    weight_average: float = 0.0


@dataclass(frozen=True)
class RunSettings(ABC):
    """One training run; each kind of model adds its own settings.

    Attributes:
        data: A dataset directory.
        store: Path or URL of the model store.
        preset: Shapes and recipe, ``tiny``, ``small`` or ``base``; what is set below goes before it.
        text_fields: Of the items, in order; empty: the kind's default.
        max_history_length: L; None: the preset's.
        split: Which part of the interactions is trained on.
        hold_out_items: Fraction of the items that training must not see, in [0, 1).
        epochs: At most, instead of the preset's; like the next ones up to ``patience``.
        batch_size: Windows of a step and process.
        learning_rate: Peak.
        weight_decay: Of matrices.
        dropout: Of the model's input.
        negatives: A number, or ``all`` where the items' embeddings are stored.
        schedule: ``cosine`` or ``linear``.
        patience: Evaluations without progress before an early stop.
        weight_average: Decay per step of the average of the weights, which is what is validated and saved; 0: none.
        seed: Of everything random.
        max_minutes: Wall-clock limit of each stage.
        false_negative_cosine: Negatives closer to the target are dropped; 1 keeps all.
        gradient_checkpointing: Compute activations twice instead of keeping them.
        max_gradient_norm: Longer gradients are clipped.
        precision: ``auto`` takes bf16 where the hardware has it.
        checkpoint_seconds: What a killed run loses at most.
        validation_cases: Evaluate on at most this many during training; None: all.
        device: ``auto``, ``cpu`` or ``cuda``.
    """

    kind: ClassVar[str]

    data: Path
    store: str
    preset: str = "small"
    text_fields: tuple[str, ...] = ()
    max_history_length: int | None = None
    split: Literal["leave-one-out", "temporal"] = "leave-one-out"
    hold_out_items: float = 0.0
    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    weight_decay: float | None = None
    dropout: float | None = None
    negatives: str | None = None
    schedule: Literal["cosine", "linear"] | None = None
    patience: int | None = None
    weight_average: float | None = None
    seed: int = 0
    max_minutes: float | None = None
    false_negative_cosine: float = 0.99
    gradient_checkpointing: bool = False
    max_gradient_norm: float = 1.0
    precision: Literal["auto", "bf16", "float32"] = "auto"
    checkpoint_seconds: float = 60.0
    validation_cases: int | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"

    def __post_init__(self) -> None:
        if self.negatives is not None and self.negatives != ALL_ITEMS:
            is_count = self.negatives.isdigit() and int(self.negatives) > 0
            check(is_count, "--negatives", self.negatives, "all or a number")
        for name in ("epochs", "batch_size", "max_history_length"):
            check_at_least(1, name, getattr(self, name))
        is_rate = self.learning_rate is None or self.learning_rate > 0
        check(is_rate, "--learning-rate", self.learning_rate, "above 0")
        is_decay = self.weight_average is None or 0 <= self.weight_average < 1
        check(is_decay, "--weight-average", self.weight_average, "at least 0, below 1")
        check(0 <= self.hold_out_items < 1, "--hold-out-items", self.hold_out_items, "at least 0, below 1")
        check(self.max_minutes is None or self.max_minutes > 0, "--max-minutes", self.max_minutes, "above 0")

    @property
    @abstractmethod
    def history_length(self) -> int:
        """L."""

    @property
    @abstractmethod
    def bf16_on_cpu(self) -> bool:
        """Whether ``precision`` ``auto`` means bf16 on a CPU that has it."""

    def to_dict(self) -> dict[str, Any]:
        """What makes a difference to the result, as JSON-able values."""
        values = {name: value for name, value in asdict(self).items() if name not in _NOT_OF_THE_RESULT}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    def overridden(self, recipe: Recipe) -> Recipe:
        """The recipe, with what was set instead."""
        optimiser = ("epochs", "batch_size", "learning_rate", "weight_decay", "weight_average", "schedule", "patience")
        names = (*optimiser, "dropout")
        changes = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        if self.negatives is not None:
            changes["negatives"] = None if self.negatives == ALL_ITEMS else int(self.negatives)
        return replace(recipe, **changes)


def check(holds: bool, option: str, value: object, expected: str) -> None:
    """Refuses a setting by the name of its option.

    Raises:
        InvalidInput: It does not hold.
    """
    if not holds:
        raise InvalidInput(f"{option} is {value}, expected {expected}")


def check_at_least(minimum: int, name: str, value: int | None) -> None:
    """Refuses a number that is set and too small."""
    check(value is None or value >= minimum, f"--{name.replace('_', '-')}", value, f"at least {minimum}")


def check_preset(preset: str, presets: Mapping[str, object]) -> None:
    """Refuses a preset that there is not."""
    if preset not in presets:
        raise InvalidInput(f"--preset is {preset!r}, expected one of {', '.join(presets)}")
