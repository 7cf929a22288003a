"""What a training run is told, and the recipes behind ``--preset``."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from model_store.errors import InvalidInput

Stage = Literal["auto", "1", "2", "both"]
ALL_ITEMS = "all"


@dataclass(frozen=True)
class Recipe:
    """How one stage is optimised.

    Attributes:
        epochs: At most; early stopping may end sooner.
        batch_size: Windows of a step and process.
        learning_rate: Peak, after the warm-up.
        weight_decay: Of matrices (AdamW), the item vectors among them.
        dropout: Of the User LLM's input, 0 <= dropout < 1.
        attention_dropout: Of a User LLM that starts from scratch.
        negatives: Shared negatives of a step and process; None: the whole catalogue (stage 2 only).
        schedule: Of the learning rate after the warm-up.
        warmup: Fraction of all steps.
        patience: Evaluations without a better validation NDCG@10 before training ends.
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


@dataclass(frozen=True)
class PresetRecipes:
    """The recipes of a preset; ``model_store.backbone`` has the shapes of its models from scratch."""

    end_to_end: Recipe
    user_llm: Recipe
    max_history_length: int = 50
    bf16_on_cpu: bool = True


PRESETS = {
    "tiny": PresetRecipes(
        end_to_end=Recipe(epochs=2, batch_size=32, learning_rate=1e-3, negatives=128, dropout=0.1),
        user_llm=Recipe(epochs=8, batch_size=64, learning_rate=1e-3, dropout=0.2, attention_dropout=0.1),
        max_history_length=30,
        bf16_on_cpu=False,
    ),
    # tuned on Amazon Beauty (2014) with a frozen MiniLM, on validation; docs/training.md has what it reaches on test
    "small": PresetRecipes(
        end_to_end=Recipe(epochs=3, batch_size=32, learning_rate=3e-4, negatives=512, dropout=0.1),
        user_llm=Recipe(epochs=8, batch_size=128, learning_rate=1e-3, dropout=0.4, attention_dropout=0.2),
    ),
    # the paper's settings (arXiv 2409.12740), as far as one process can follow them
    "base": PresetRecipes(
        end_to_end=Recipe(epochs=5, batch_size=16, learning_rate=1e-4, negatives=512, schedule="cosine", warmup=0.1),
        user_llm=Recipe(
            epochs=10,
            batch_size=128,
            learning_rate=3e-4,
            dropout=0.3,
            negatives=8192,
            schedule="cosine",
            warmup=0.1,
        ),
    ),
}


@dataclass(frozen=True)
class TrainSettings:
    """One training run of an HLLM.

    Attributes:
        data: A dataset directory.
        store: Path or URL of the model store.
        preset: Shapes and recipe; what is set below goes before it.
        item_llm: Directory or hub id of a pre-trained Item LLM; None makes one of the preset's shape from
            scratch.
        user_llm: Likewise for the User LLM.
        item_input: ``id`` trains the ID twin: item vectors alone, no text.
        stage: ``1`` end to end, ``2`` the User LLM on stored text embeddings, ``both``; ``auto``: ``2`` with
            a pre-trained Item LLM or item ids, else ``both``.
        freeze_item_llm: In stage 1, train only what comes after the Item LLM. Stage 2 never trains it.
        whiten_power: Starts the joint as a whitening of the text embeddings: 0 keeps their spread, 1 makes
            all directions equally wide. None: 1 with a pre-trained Item LLM, none from scratch. Negative:
            none.
        whiten_rms: Size of the whitened embeddings' components. It sets how fast the item vectors, which start at
            zero, gain on the text: at 1 they hardly move it within ten epochs, at 0.02 they soon drown it.
        train_joint: Let the joint learn in stage 2 too.
        item_vectors: A learned vector per known item, added to its text embedding.
        time_features: Let the User LLM read timestamps.
        text_fields: Of the items, in order; empty: title and every attribute.
        item_prompt: Before the text; None: the paper's for a decoder, nothing for an encoder.
        max_text_tokens: Longer texts are cut.
        pooling: None: the mean for an encoder and where [ITEM] is never trained, else the [ITEM] state.
        max_history_length: L; None: the preset's.
        split: Which part of the interactions is trained on.
        hold_out_items: Fraction of the items that training must not see, in [0, 1).
        epochs: And the next ones up to ``negatives``: instead of the preset's, in the stages that are run.
        batch_size: Windows of a step and process.
        learning_rate: Peak.
        weight_decay: Of matrices.
        dropout: Of the User LLM's input.
        negatives: A number, or ``all`` (stage 2).
        schedule: ``cosine`` or ``linear``.
        patience: Evaluations without progress before an early stop.
        seed: Of everything random.
        max_minutes: Wall-clock limit of each stage.
        false_negative_cosine: Negatives closer to the target are dropped; 1 keeps all.
        gradient_checkpointing: Compute activations twice instead of keeping them.
        max_gradient_norm: Longer gradients are clipped.
        precision: ``auto`` takes bf16 where the hardware has it.
        lora_r: Rank of adapters on the Item LLM in stage 1 (0: full training), with ``lora_alpha`` and
            dropout.
        lora_user: Adapters on the User LLM too.
        checkpoint_seconds: What a killed run loses at most.
        validation_cases: Evaluate on at most this many during training; None: all.
        device: ``auto``, ``cpu`` or ``cuda``.
    """

    data: Path
    store: str
    preset: str = "small"
    item_llm: str | None = None
    user_llm: str | None = None
    item_input: Literal["text", "id"] = "text"
    stage: Stage = "auto"
    freeze_item_llm: bool = False
    whiten_power: float | None = None
    whiten_rms: float = 0.1
    train_joint: bool = False
    item_vectors: bool = True
    time_features: bool = False
    text_fields: tuple[str, ...] = ()
    item_prompt: str | None = None
    max_text_tokens: int = 256
    pooling: Literal["item_token", "mean"] | None = None
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
    seed: int = 0
    max_minutes: float | None = None
    false_negative_cosine: float = 0.99
    gradient_checkpointing: bool = False
    max_gradient_norm: float = 1.0
    precision: Literal["auto", "bf16", "float32"] = "auto"
    lora_r: int = 0
    lora_alpha: int = 16
    lora_dropout: float = 0.0
    lora_user: bool = False
    checkpoint_seconds: float = 60.0
    validation_cases: int | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise InvalidInput(f"--preset is {self.preset!r}, expected one of {', '.join(PRESETS)}")
        if self.item_input == "id" and self.item_llm is not None:
            raise InvalidInput("--item-input id reads no text, so --item-llm has no use; leave it out")
        if self.item_input == "id" and self.stage in ("1", "both"):
            raise InvalidInput(f"--stage {self.stage} trains an Item LLM, and --item-input id has none; expected 2")
        if self.negatives is not None and self.negatives != ALL_ITEMS:
            _check(
                self.negatives.isdigit() and int(self.negatives) > 0,
                "--negatives",
                self.negatives,
                "all or a number",
            )
        positive = {
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "max_history_length": self.max_history_length,
        }
        for name, value in positive.items():
            _check(value is None or value >= 1, f"--{name.replace('_', '-')}", value, "at least 1")
        _check(
            self.learning_rate is None or self.learning_rate > 0,
            "--learning-rate",
            self.learning_rate,
            "above 0",
        )
        _check(0 <= self.hold_out_items < 1, "--hold-out-items", self.hold_out_items, "at least 0, below 1")
        _check(self.max_minutes is None or self.max_minutes > 0, "--max-minutes", self.max_minutes, "above 0")

    @property
    def has_end_to_end(self) -> bool:
        """Whether stage 1 is run."""
        is_from_scratch = self.item_llm is None and self.item_input == "text"
        return self.stage in ("1", "both") or (self.stage == "auto" and is_from_scratch)

    @property
    def has_user_stage(self) -> bool:
        """Whether stage 2 is run."""
        return self.stage != "1"

    @property
    def history_length(self) -> int:
        """L."""
        return self.max_history_length or PRESETS[self.preset].max_history_length

    @property
    def end_to_end(self) -> Recipe:
        """Of stage 1, with what was set instead of the preset's."""
        recipe = self._overridden(PRESETS[self.preset].end_to_end)
        if recipe.negatives is None:
            raise InvalidInput("--negatives all is for stage 2; stage 1 encodes its negatives, expected a number")
        return recipe

    @property
    def user_stage(self) -> Recipe:
        """Of stage 2, with what was set instead of the preset's."""
        return self._overridden(PRESETS[self.preset].user_llm)

    def to_dict(self) -> dict[str, Any]:
        """What makes a difference to the result, as JSON-able values."""
        values = asdict(self)
        for name in ("data", "store", "max_minutes", "checkpoint_seconds", "device"):
            del values[name]
        return {**values, "text_fields": list(self.text_fields)}

    def _overridden(self, recipe: Recipe) -> Recipe:
        names = ("epochs", "batch_size", "learning_rate", "weight_decay", "dropout", "schedule", "patience")
        changes = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        if self.negatives is not None:
            changes["negatives"] = None if self.negatives == ALL_ITEMS else int(self.negatives)
        return replace(recipe, **changes)


def _check(holds: bool, option: str, value: object, expected: str) -> None:
    if not holds:
        raise InvalidInput(f"{option} is {value}, expected {expected}")
