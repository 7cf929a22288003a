"""What the training of a HatLLM is told, and the recipes behind ``--preset``."""

from dataclasses import dataclass, replace
from typing import Literal

from model_store.errors import InvalidInput
from offline.training.run_settings import Recipe, RunSettings, check, check_at_least, check_preset

Objective = Literal["retrieve", "generate", "both"]
SELF = "self"


@dataclass(frozen=True)
class HatPreset:
    """The recipe of a preset, and what of its shape ``model_store.backbone.load`` does not say.

    Attributes:
        recipe: How it is optimised.
        stored_negatives: Instead of the recipe's, where an HLLM's stored embeddings are the targets: they cost little.
            None: the whole catalogue.
        num_layers: Depth of a model from scratch: bands need more layers than the presets of an HLLM have.
        max_history_length: M.
        max_item_tokens: Longer titles are cut.
        bf16_on_cpu: Whether ``precision`` ``auto`` means bf16 on a CPU that has it.
    """

    recipe: Recipe
    num_layers: int
    stored_negatives: int | None = None
    max_history_length: int = 50
    max_item_tokens: int = 32
    bf16_on_cpu: bool = True


HAT_PRESETS = {
    # chosen on the demo shop, on validation; docs/training.md has what was measured
    "tiny": HatPreset(
        Recipe(epochs=2, batch_size=32, learning_rate=7e-4, negatives=128, dropout=0.1),
        num_layers=4,
        max_history_length=30,
        bf16_on_cpu=False,
    ),
    "small": HatPreset(
        Recipe(epochs=5, batch_size=32, learning_rate=5e-4, negatives=256, dropout=0.1),
        num_layers=8,
    ),
    # 4 IN, 4 OR, 8 CR: the shape of the benchmark
    "base": HatPreset(
        Recipe(epochs=10, batch_size=32, learning_rate=3e-4, negatives=512, dropout=0.1, schedule="cosine", warmup=0.1),
        num_layers=16,
        stored_negatives=8192,
    ),
}


@dataclass(frozen=True)
class HatTrainSettings(RunSettings):
    """One training run of a HatLLM; see :class:`RunSettings` for what it shares with other kinds.

    Without ``text_fields``, the title alone is read. Settings marked (open) are not told by the paper's text.

    Attributes:
        backbone: Directory or hub id of a pre-trained decoder; None makes one of the preset's shape from scratch.
        random_init: The architecture and tokenizer of ``backbone`` with random weights: its twin.
        num_layers: Another depth, of a model that starts at random.
        full: Train all weights of a pre-trained backbone instead of adapters. At random all are trained anyway.
        lora_r: Rank of the adapters; the group's public code has 8.
        lora_alpha: Their scale, 16 there.
        lora_dropout: Of their input, 0.05 there.
        lora_targets: Which layers get them, by commas, q and v there; ``all`` for all.
        objective: ``retrieve`` the next item by cosine, ``generate`` its title, or ``both``.
        generate_weight: Of the generation loss, where both are trained.
        in_band: Size of the IN band: a number of layers from 1 on, a fraction of the depth below 1 (open).
        cr_band: Likewise of the CR band (open).
        no_masks: The same network without masks, whatever the bands: what HatLLM is compared with.
        band_order: ``in,or,cr``, or another order for the ablation.
        cr_keys: ``last``, or ``all`` for the ablation.
        nonitem_visible_in: Whether tokens of no item are visible in IN (open), like the next three.
        nonitem_visible_cr: In CR.
        self_visible_cr: Whether a token sees itself in CR.
        target_as_item: Whether a title that is being generated counts as an item.
        item_end: What ends an item, and so which token is its last (open).
        prompt: Text before the history (open). With one, the exact fast path is lost.
        item_tower: ``self``, or an HLLM (model_id or directory) whose stored item embeddings are the targets.
        item_vectors: A learned vector per known item, added to its embedding. None: where this network makes the
            embeddings; an HLLM's have its own vectors in them already.
        embedding_dim: D; None: the width of the backbone, or what the item tower has.
        max_item_tokens: Longer titles are cut; None: the preset's.
        false_negative_cosine: Off, unlike with an HLLM: titles that share most of their words are at first closer to
            each other than any threshold, and without negatives they would stay so.
    """

    kind = "hatllm"

    backbone: str | None = None
    random_init: bool = False
    num_layers: int | None = None
    full: bool = False
    lora_r: int = 8
    lora_alpha: int = 16
    lora_dropout: float = 0.05
    lora_targets: str = "q_proj,v_proj"
    objective: Objective = "retrieve"
    generate_weight: float = 1.0
    in_band: float = 0.25
    cr_band: float = 0.5
    no_masks: bool = False
    band_order: str = "in,or,cr"
    cr_keys: Literal["last", "all"] = "last"
    nonitem_visible_in: bool = False
    nonitem_visible_cr: bool = True
    self_visible_cr: bool = True
    target_as_item: bool = True
    item_end: Literal["title", "quote", "end_token"] = "end_token"
    prompt: str = ""
    item_tower: str = SELF
    item_vectors: bool | None = None
    embedding_dim: int | None = None
    max_item_tokens: int | None = None
    false_negative_cosine: float = 1.0

    def __post_init__(self) -> None:
        check_preset(self.preset, HAT_PRESETS)
        super().__post_init__()
        for name in ("embedding_dim", "max_item_tokens", "num_layers", "lora_r"):
            check_at_least(1, name, getattr(self, name))
        check(self.generate_weight > 0, "--generate-weight", self.generate_weight, "above 0")
        check(sorted(self.order) == ["cr", "in", "or"], "--band-order", self.band_order, "an order of in,or,cr")
        if self.random_init and self.backbone is None:
            raise InvalidInput("--random-init keeps the shape of a --backbone, and there is none; a preset is random")
        if self.num_layers is not None and not self.is_random:
            raise InvalidInput("--num-layers is for a model that starts at random; a pre-trained one has its depth")
        if self.generates and self.item_end == "title":
            raise InvalidInput(
                f"--item-end title marks no end of a title, so --objective {self.objective} cannot tell it from a "
                "longer one; expected quote or end_token"
            )
        self._check_items()

    def _check_items(self) -> None:
        if self.item_tower == SELF:
            if self.retrieves and self.recipe.negatives is None:
                raise InvalidInput("--negatives all needs stored embeddings (--item-tower MODEL), expected a number")
            return
        if not self.retrieves:
            raise InvalidInput("--item-tower has no use with --objective generate; leave it out")
        if self.item_vectors:
            raise InvalidInput("--item-vectors: with --item-tower MODEL the embeddings are fixed; leave it out")

    @property
    def preset_values(self) -> HatPreset:
        """The preset by its name."""
        return HAT_PRESETS[self.preset]

    @property
    def recipe(self) -> Recipe:
        """The preset's, with what was set instead."""
        recipe = self.preset_values.recipe
        if self.item_tower != SELF:
            recipe = replace(recipe, negatives=self.preset_values.stored_negatives)
        return self.overridden(recipe)

    @property
    def history_length(self) -> int:
        """M, most items of a history that are read."""
        return self.max_history_length or self.preset_values.max_history_length

    @property
    def item_tokens(self) -> int:
        """Longer titles are cut."""
        return self.max_item_tokens or self.preset_values.max_item_tokens

    @property
    def bf16_on_cpu(self) -> bool:
        """Whether ``precision`` ``auto`` means bf16 on a CPU that has it."""
        return self.preset_values.bf16_on_cpu

    @property
    def is_random(self) -> bool:
        """Whether the backbone starts from random weights."""
        return self.backbone is None or self.random_init

    @property
    def has_lora(self) -> bool:
        """Whether adapters are trained instead of the backbone."""
        return not (self.is_random or self.full)

    @property
    def retrieves(self) -> bool:
        """Whether retrieval is trained."""
        return self.objective != "generate"

    @property
    def generates(self) -> bool:
        """Whether generation is trained."""
        return self.objective != "retrieve"

    @property
    def target_names(self) -> tuple[str, ...]:
        """The layers that get adapters; empty: all."""
        return tuple(name for name in self.lora_targets.split(",") if name != "all")

    @property
    def order(self) -> tuple[str, ...]:
        """The bands as they follow each other."""
        return tuple(self.band_order.split(","))

    @property
    def has_item_vectors(self) -> bool:
        """Whether known items get a learned vector."""
        if self.item_tower != SELF or not self.retrieves:
            return False
        return True if self.item_vectors is None else self.item_vectors
