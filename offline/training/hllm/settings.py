"""What the training of an HLLM is told, and the recipes behind ``--preset``."""

from dataclasses import dataclass
from typing import Literal

from model_store.errors import InvalidInput
from offline.training.run_settings import Recipe, RunSettings, check, check_preset

Stage = Literal["auto", "1", "2", "both"]


@dataclass(frozen=True)
class PresetRecipes:
    """The recipes of a preset; ``model_store.backbone.load`` has the shapes of its models from scratch.

    Attributes:
        end_to_end: Of stage 1.
        user_llm: Of stage 2.
        averaging: Of a User LLM from scratch; see :class:`TrainSettings`.
        max_history_length: L.
        bf16_on_cpu: Whether ``precision`` ``auto`` means bf16 on a CPU that has it.
    """

    end_to_end: Recipe
    user_llm: Recipe
    averaging: float = 0.0
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
        user_llm=Recipe(
            epochs=8,
            batch_size=128,
            learning_rate=1e-3,
            dropout=0.4,
            attention_dropout=0.2,
            schedule="cosine",
            weight_average=0.999,
        ),
        averaging=0.6,
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

# of a text head: there is no User LLM that could learn the training set by heart
LAGS = Recipe(epochs=6, batch_size=128, learning_rate=1e-3, schedule="cosine", weight_average=0.99)


@dataclass(frozen=True)
class TrainSettings(RunSettings):
    """One training run of an HLLM; see :class:`RunSettings` for what it shares with other kinds.

    Without ``text_fields``, the title and the attributes that are words are read (``offline.dataset.text_fields``).

    Attributes:
        start_from: A model of the store that training goes on from, as a nightly run does; its shape, texts and Item
            LLM stay. New items get vectors.
        item_llm: Directory or hub id of a pre-trained Item LLM; None makes one of the preset's shape from
            scratch.
        user_llm: Likewise for the User LLM.
        user_model: ``llm``, or ``lags``: a text head, which reads a history as a learned weighted mean of its latest
            items, and learns one square matrix on their texts.
        averaging: Share of causal averages in each layer of the User LLM, beside attention, in [0, 1). None: the
            preset's for a User LLM from scratch, else 0.
        item_input: ``id`` trains the ID twin: item vectors alone, no text.
        stage: ``1`` end to end, ``2`` the User LLM on stored text embeddings, ``both``; ``auto``: ``2`` with
            a pre-trained Item LLM or item ids, else ``both``.
        freeze_item_llm: In stage 1, train only what comes after the Item LLM. Stage 2 never trains it.
        whiten_power: Starts the joint as a whitening of the text embeddings: 0 keeps their spread, 1 makes
            all directions equally wide. None: 1 with a pre-trained Item LLM (0 for a text head), none from scratch.
            Negative: none.
        whiten_rms: Size of the whitened embeddings' components. It sets how fast the item vectors, which start at
            zero, gain on the text: at 1 they hardly move it within ten epochs, at 0.02 they soon drown it.
        train_joint: Let the joint learn in stage 2 too; that of a text head always does.
        item_vectors: A learned vector per known item, added to its text embedding. None: yes, but not in a text head.
        item_vector_dropout: Share of the items that have no vector in a step of stage 2, so that their texts have to
            carry; in [0, 1).
        time_features: Let the User LLM read timestamps.
        item_prompt: Before the text; None: the paper's for a decoder, nothing for an encoder.
        max_text_tokens: Longer texts are cut.
        pooling: None: the mean for an encoder and where [ITEM] is never trained, else the [ITEM] state.
        lora_r: Rank of adapters on the Item LLM in stage 1; 0: full training.
        lora_alpha: Their scale.
        lora_dropout: Of their input.
        lora_user: Adapters on the User LLM too.
        random_init: The architectures and tokenizers of ``item_llm`` and ``user_llm`` with random weights: the twin
            that says what pre-training is worth.
    """

    kind = "hllm"

    start_from: str | None = None
    item_llm: str | None = None
    user_llm: str | None = None
    user_model: Literal["llm", "lags"] = "llm"
    averaging: float | None = None
    item_input: Literal["text", "id"] = "text"
    stage: Stage = "auto"
    freeze_item_llm: bool = False
    whiten_power: float | None = None
    whiten_rms: float = 0.1
    train_joint: bool = False
    item_vectors: bool | None = None
    item_vector_dropout: float = 0.0
    time_features: bool = False
    item_prompt: str | None = None
    max_text_tokens: int = 256
    pooling: Literal["item_token", "mean"] | None = None
    lora_r: int = 0
    lora_alpha: int = 16
    lora_dropout: float = 0.0
    lora_user: bool = False
    random_init: bool = False

    def __post_init__(self) -> None:
        check_preset(self.preset, PRESETS)
        if self.item_input == "id" and self.item_llm is not None:
            raise InvalidInput("--item-input id reads no text, so --item-llm has no use; leave it out")
        if self.item_input == "id" and self.stage in ("1", "both"):
            raise InvalidInput(f"--stage {self.stage} trains an Item LLM, and --item-input id has none; expected 2")
        is_share = self.averaging is None or 0 <= self.averaging < 1
        check(is_share, "--averaging", self.averaging, "at least 0, below 1")
        is_share = 0 <= self.item_vector_dropout < 1
        check(is_share, "--item-vector-dropout", self.item_vector_dropout, "at least 0, below 1")
        has_weights = self.item_llm is not None or self.user_llm is not None
        check(has_weights or not self.random_init, "--random-init", True, "an --item-llm or --user-llm beside it")
        if self.start_from is not None:
            self._check_start()
        if self.user_model == "lags":
            self._check_lags()
        super().__post_init__()

    def _check_start(self) -> None:
        fixed = ("item_llm", "user_llm", "averaging", "pooling", "item_prompt", "item_vectors", "whiten_power")
        for name in fixed:
            check(getattr(self, name) is None, f"--{name.replace('_', '-')}", getattr(self, name), "none with --from")
        check(not self.text_fields, "--text-field", ", ".join(self.text_fields), "none with --from")
        check(not (self.lora_r or self.random_init), "--lora-r and --random-init", True, "none with --from")

    def _check_lags(self) -> None:
        for option, value in (("--user-llm", self.user_llm), ("--averaging", self.averaging)):
            check(not value, option, value, "none with --user-model lags, which has no User LLM")
        check(not self.time_features, "--time-features", True, "none with --user-model lags, which reads no times")
        check(self.item_input == "text", "--item-input", self.item_input, "text with --user-model lags")

    @property
    def is_text_head(self) -> bool:
        """Whether there is no User LLM."""
        return self.user_model == "lags"

    @property
    def has_pretrained_items(self) -> bool:
        """Whether the Item LLM knows language before the training."""
        return self.item_llm is not None and not self.random_init

    @property
    def has_item_vectors(self) -> bool:
        """Whether known items have a learned vector."""
        if self.item_input == "id":
            return True
        return not self.is_text_head if self.item_vectors is None else self.item_vectors

    @property
    def averaging_share(self) -> float:
        """Of causal averages in the User LLM's layers."""
        if self.averaging is not None:
            return self.averaging
        return 0.0 if self.user_llm or self.is_text_head else PRESETS[self.preset].averaging

    @property
    def has_end_to_end(self) -> bool:
        """Whether stage 1 is run."""
        is_from_scratch = not self.has_pretrained_items and self.item_input == "text" and self.start_from is None
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
    def bf16_on_cpu(self) -> bool:
        """Whether ``precision`` ``auto`` means bf16 on a CPU that has it."""
        return PRESETS[self.preset].bf16_on_cpu

    @property
    def end_to_end(self) -> Recipe:
        """Of stage 1, with what was set instead of the preset's."""
        recipe = self.overridden(PRESETS[self.preset].end_to_end)
        if recipe.negatives is None:
            raise InvalidInput("--negatives all is for stage 2; stage 1 encodes its negatives, expected a number")
        return recipe

    @property
    def user_stage(self) -> Recipe:
        """Of stage 2, with what was set instead of the preset's."""
        return self.overridden(LAGS if self.is_text_head else PRESETS[self.preset].user_llm)
