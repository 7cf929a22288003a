"""HLLM: an Item LLM that turns text into an item embedding, and a User LLM that reads those instead of words.

HLLM (arXiv 2409.12740, §3): the item embedding is the last hidden state at one learned [ITEM] position after
the text; the User LLM's state at position i predicts the embedding of item i + 1; scores are cosines.

Ours beyond the paper: a linear *joint* where the two widths differ (which may start as a whitening of the
text embeddings), and a learned vector per known item that is part of the embedding everywhere, input and
target (the paper sums ids onto the input only). An unknown item's vector is zero, so that a new item is known
by its text.

Embeddings are raw; only scores use unit-norm copies.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import torch
from torch import nn

from model_store.backbone.causal_averages import average_layers
from model_store.backbone.cosine_scale import initial_logit_scale, score_scale
from model_store.backbone.item_vectors import ItemVectors, add_vectors
from model_store.backbone.load import Backbone, drop_word_embeddings, enable_checkpointing, is_causal
from model_store.catalogue.item_text import ITEM_PROMPT, ItemTokenizer, TokenBatch, item_text
from model_store.errors import ArtifactIncompatible, InvalidInput
from model_store.hllm.recent_mean import RecentMean
from model_store.hllm.time_features import TimeFeatures

KIND = "hllm"
Pooling = Literal["item_token", "mean"]
UserModel = Literal["llm", "lags"]
INITIAL_STD = 0.02
# what a model of the first release does not say of itself
_LATER_SETTINGS = {"user_model": "llm", "averaging": 0.0}


@dataclass(frozen=True)
class HLLMConfig:
    """What a model directory's ``config.json`` says of an HLLM.

    Attributes:
        embedding_dim: D, the User LLM's width and the size of item and user embeddings.
        item_input: ``text``, or ``id`` for the ID twin: no Item LLM, learned item vectors alone.
        text_fields: Which fields make up an item's text, in this order.
        item_prompt: Put before the text.
        max_text_tokens: Longer texts are cut; the [ITEM] position comes on top.
        pooling: ``item_token``, or ``mean`` over the text's states (for encoders).
        max_history_length: L; older events are cut.
        has_time_features: Whether the User LLM reads timestamps.
        has_item_vectors: Whether known items have a learned vector summed on.
        has_joint: Whether a linear layer leads from the Item LLM's width to D.
        dropout: Of the User LLM's input while training, 0 <= dropout < 1.
        user_model: ``llm``, or ``lags``: no User LLM, a learned weighted mean of the latest items (a text head).
        averaging: Share of causal averages in each layer of the User LLM, beside attention, 0 <= averaging < 1.
        kind: Always ``hllm``.
    """

    embedding_dim: int
    item_input: Literal["text", "id"] = "text"
    text_fields: tuple[str, ...] = ("title",)
    item_prompt: str = ITEM_PROMPT
    max_text_tokens: int = 256
    pooling: Pooling = "item_token"
    max_history_length: int = 50
    has_time_features: bool = False
    has_item_vectors: bool = False
    has_joint: bool = False
    dropout: float = 0.0
    user_model: UserModel = "llm"
    averaging: float = 0.0
    kind: str = KIND

    def __post_init__(self) -> None:
        checks = {
            "kind": self.kind == KIND,
            "item_input": self.item_input in ("text", "id"),
            "pooling": self.pooling in ("item_token", "mean"),
            "embedding_dim": self.embedding_dim >= 1,
            "max_text_tokens": self.max_text_tokens >= 1,
            "max_history_length": self.max_history_length >= 1,
            "dropout": 0 <= self.dropout < 1,
            "user_model": self.user_model in ("llm", "lags"),
            "averaging": 0 <= self.averaging < 1 and (self.user_model == "llm" or not self.averaging),
            "has_time_features": self.user_model == "llm" or not self.has_time_features,
            "text_fields": self.item_input == "id" or bool(self.text_fields),
            "has_item_vectors": self.item_input == "text" or self.has_item_vectors,
            "has_joint": self.item_input == "text" or not self.has_joint,
        }
        for name, holds in checks.items():
            if not holds:
                raise InvalidInput(f"HLLM configuration: {name} {getattr(self, name)!r} is not allowed")

    def to_dict(self) -> dict[str, Any]:
        """As JSON-able values."""
        return {**asdict(self), "text_fields": list(self.text_fields)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "HLLMConfig":
        """The inverse of :meth:`to_dict`.

        Raises:
            ArtifactIncompatible: A key is missing or unknown: written by another release.
        """
        expected = {field.name for field in fields(cls)}
        values = {**_LATER_SETTINGS, **values}
        if strange := sorted(expected ^ set(values)):
            raise ArtifactIncompatible(f"HLLM configuration: keys missing or unknown: {', '.join(strange)}")
        return cls(**{**values, "text_fields": tuple(values["text_fields"])})


class ItemLLM(nn.Module):
    """Text to item embedding.

    Args:
        backbone: The language model; a decoder, or an encoder.
        config: Of the HLLM.
    """

    def __init__(self, backbone: Backbone, config: HLLMConfig) -> None:
        super().__init__()
        self.backbone = backbone.model
        self.pooling = config.pooling
        # In a right-padded batch a decoder's tokens never see the padding after them: no mask is needed, and
        # without one the attention takes its fast path. An encoder's would, and gets one.
        self.needs_mask = not is_causal(backbone.model)
        if config.pooling == "item_token":
            self.item_token = nn.Parameter(torch.empty(backbone.hidden_size))
            nn.init.normal_(self.item_token, std=INITIAL_STD)
        self.joint = nn.Linear(backbone.hidden_size, config.embedding_dim) if config.has_joint else None

    def forward(self, batch: TokenBatch) -> torch.Tensor:
        """Embeds B texts; a row does not depend on the others.

        Args:
            batch: (B, T), right-padded.

        Returns:
            (B, D) raw embeddings, in the model's dtype.
        """
        return self.join(self.pool(batch))

    def join(self, pooled: torch.Tensor) -> torch.Tensor:
        """Text vectors (B, H_item) to embeddings (B, D) raw."""
        return pooled if self.joint is None else self.joint(pooled)

    def pool(self, batch: TokenBatch) -> torch.Tensor:
        """The text's vector before the joint: (B, H_item) raw."""
        return self._mean(batch) if self.pooling == "mean" else self._at_item_token(batch)

    def _mean(self, batch: TokenBatch) -> torch.Tensor:
        mask = batch.attention_mask
        states = self._states(mask, input_ids=batch.input_ids)
        weights = mask.to(states.dtype).unsqueeze(-1)
        return (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)

    def _at_item_token(self, batch: TokenBatch) -> torch.Tensor:
        words = self.backbone.get_input_embeddings()(batch.input_ids)  # (B, T, H)
        num_texts, _, width = words.shape
        lengths = batch.attention_mask.sum(dim=1)
        rows = torch.arange(num_texts, device=words.device)
        # one more place per text: [ITEM] follows its last token, wherever the padding begins
        inputs = torch.cat((words, words.new_zeros(num_texts, 1, width)), dim=1)
        inputs = inputs.index_put((rows, lengths), self.item_token.to(words.dtype).expand(num_texts, width))
        places = torch.arange(inputs.shape[1], device=words.device)
        mask = (places[None, :] <= lengths[:, None]).to(batch.attention_mask.dtype)
        return self._states(mask, inputs_embeds=inputs)[rows, lengths]

    def _states(self, mask: torch.Tensor, **inputs: torch.Tensor) -> torch.Tensor:
        options: dict[str, Any] = {"attention_mask": mask} if self.needs_mask else {"use_cache": False}
        states: torch.Tensor = self.backbone(**inputs, **options).last_hidden_state
        return states


class UserLLM(nn.Module):
    """A history of item embeddings to predictions of the next one.

    Args:
        backbone: A decoder; its word embeddings are dropped.
        config: Of the HLLM.
    """

    def __init__(self, backbone: Backbone, config: HLLMConfig) -> None:
        super().__init__()
        self.backbone = backbone.model
        self.time_features = TimeFeatures(config.embedding_dim) if config.has_time_features else None
        self.dropout = nn.Dropout(config.dropout)
        self.averages = average_layers(self.backbone, share=config.averaging) if config.averaging else None

    def forward(
        self, item_embeddings: torch.Tensor, mask: torch.Tensor, timestamps: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Reads B histories, oldest first.

        Args:
            item_embeddings: (B, L, D) raw, right-padded (any finite values there).
            mask: (B, L) bool, True = an item. The attention is causal, so padding on the right is never seen,
                and the states at padded places mean nothing.
            timestamps: (B, L) int64 seconds, read only by a model with time features.

        Returns:
            (B, L, D): the state at position i predicts item i + 1.

        Raises:
            InvalidInput: The model needs timestamps and there are none, or the shapes disagree.
        """
        if mask.shape != item_embeddings.shape[:2]:
            raise InvalidInput(f"mask {tuple(mask.shape)}, expected {tuple(item_embeddings.shape[:2])}")
        inputs = item_embeddings
        if self.time_features is not None:
            if timestamps is None:
                raise InvalidInput("this model reads timestamps, and none were given")
            inputs = inputs + self.time_features(timestamps)
        states: torch.Tensor = self.backbone(inputs_embeds=self.dropout(inputs), use_cache=False).last_hidden_state
        return states


class HLLM(nn.Module):
    """The two models and what joins them. Parts may be absent: a service loads the user's side alone.

    Attributes:
        item_llm: None for the ID twin, or where only the user's side was loaded; so is ``item_tokenizer``.
        user_llm: None where only the item's side was loaded.
        item_vectors: None where the configuration has none, or only the user's side was loaded.
        logit_scale: () float32, the logarithm of the factor on cosines in the training loss.
    """

    def __init__(
        self,
        config: HLLMConfig,
        *,
        item_llm: ItemLLM | None,
        item_tokenizer: ItemTokenizer | None,
        user_llm: UserLLM | RecentMean | None,
        item_vectors: ItemVectors | None,
    ) -> None:
        super().__init__()
        self.config = config
        self.item_llm = item_llm
        self.item_tokenizer = item_tokenizer
        self.user_llm = user_llm
        self.item_vectors = item_vectors
        self.logit_scale = initial_logit_scale()

    def score_scale(self) -> torch.Tensor:
        """() float32: what cosines are multiplied by in the loss, between 1 and 100."""
        return score_scale(self.logit_scale)

    @property
    def item_encoder(self) -> "HLLM":
        """What embeds items: this model."""
        return self

    @property
    def reads_text(self) -> bool:
        """Whether items have a text part: all but those of the ID twin."""
        return self.config.item_input == "text"

    def render_item(self, item_fields: Mapping[str, Any]) -> str:
        """The text of an item, from its fields; empty for the ID twin."""
        if not self.reads_text:
            return ""
        return item_text(item_fields, prompt=self.config.item_prompt, field_names=self.config.text_fields)

    def encode_item_tokens(self, batch: TokenBatch) -> torch.Tensor:
        """The text's part of item embeddings, (B, D) raw.

        Raises:
            InvalidInput: This model has no Item LLM, or it was not loaded.
        """
        if self.item_llm is None:
            raise InvalidInput("this model reads no text: it is an ID twin, or its Item LLM was not loaded")
        embeddings: torch.Tensor = self.item_llm(batch)
        return embeddings

    def combine(self, text_part: torch.Tensor | None, rows: torch.Tensor | None) -> torch.Tensor:
        """THE item embedding: what is stored, fed to the User LLM and (unit-norm) scored.

        Args:
            text_part: (..., D) from :meth:`encode_item_tokens`; None for the ID twin.
            rows: (...) int64 from :meth:`ItemVectors.rows_of`, -1 = unknown; None without item vectors.

        Returns:
            (..., D) raw: the sum of the parts.
        """
        return add_vectors(text_part, self.item_vectors, rows)

    def encode_users(
        self, item_embeddings: torch.Tensor, mask: torch.Tensor, timestamps: torch.Tensor | None = None
    ) -> torch.Tensor:
        """User embeddings: the state at each history's last item.

        Args:
            item_embeddings: (B, L, D) raw, right-padded, oldest first.
            mask: (B, L) bool, at least one True per row.
            timestamps: (B, L) int64 seconds or None.

        Returns:
            (B, D) raw.
        """
        if self.user_llm is None:
            raise InvalidInput("the User LLM of this model was not loaded")
        states = self.user_llm(item_embeddings, mask, timestamps)
        last = mask.sum(dim=1).clamp(min=1) - 1
        return states[torch.arange(states.shape[0], device=states.device), last]

    def enable_gradient_checkpointing(self) -> None:
        """Trades time for memory in training: activations inside the language models are computed twice."""
        for part in (self.item_llm, self.user_llm):
            if isinstance(part, ItemLLM | UserLLM):
                enable_checkpointing(part.backbone)


def build_hllm(
    *,
    config: HLLMConfig,
    item_backbone: Backbone | None,
    user_backbone: Backbone | None,
    known_item_ids: Sequence[str] = (),
) -> HLLM:
    """Puts an HLLM together from its backbones; what is new in it starts from torch's random state.

    Args:
        config: Checked against the backbones.
        item_backbone: With a tokenizer; None for the ID twin.
        user_backbone: A decoder whose width is ``config.embedding_dim``; None where ``config.user_model`` is ``lags``.
        known_item_ids: One learned vector each, if the configuration has item vectors.

    Raises:
        InvalidInput: The parts do not fit each other.
    """
    item_llm, item_tokenizer = None, None
    if config.item_input == "text":
        item_llm, item_tokenizer = _build_item_side(item_backbone, config)
    elif item_backbone is not None:
        raise InvalidInput("item_input 'id' has no Item LLM, but an item backbone was given")
    item_vectors = None
    if config.has_item_vectors:
        std = INITIAL_STD if config.item_input == "id" else 0.0
        item_vectors = ItemVectors(known_item_ids, config.embedding_dim, std=std)
    return HLLM(
        config,
        item_llm=item_llm,
        item_tokenizer=item_tokenizer,
        user_llm=build_user_llm(user_backbone, config),
        item_vectors=item_vectors,
    )


def build_user_llm(backbone: Backbone | None, config: HLLMConfig) -> UserLLM | RecentMean:
    """A User LLM; the backbone's word embeddings go. Or the weighted mean that stands in its place."""
    if config.user_model == "lags":
        return RecentMean(config.embedding_dim)
    if backbone is None:
        raise InvalidInput("user_model 'llm' needs a User LLM, and none was given")
    _check_user_backbone(backbone, config)
    drop_word_embeddings(backbone.model)
    return UserLLM(backbone, config)


def _build_item_side(backbone: Backbone | None, config: HLLMConfig) -> tuple[ItemLLM, ItemTokenizer]:
    if backbone is None or backbone.tokenizer is None:
        raise InvalidInput("item_input 'text' needs an Item LLM with a tokenizer (a preset needs texts to train one)")
    if backbone.hidden_size != config.embedding_dim and not config.has_joint:
        raise InvalidInput(
            f"Item LLM is {backbone.hidden_size} wide, embedding_dim is {config.embedding_dim}: set has_joint"
        )
    places = config.max_text_tokens + (config.pooling == "item_token")
    _check_positions(backbone, places, "max_text_tokens")
    return ItemLLM(backbone, config), ItemTokenizer(backbone.tokenizer, config)


def _check_user_backbone(backbone: Backbone, config: HLLMConfig) -> None:
    if not backbone.is_causal:
        raise InvalidInput(f"the User LLM must be a decoder, got {backbone.model.config.model_type} (sees the future)")
    if backbone.hidden_size != config.embedding_dim:
        raise InvalidInput(f"the User LLM is {backbone.hidden_size} wide, embedding_dim is {config.embedding_dim}")
    _check_positions(backbone, config.max_history_length, "max_history_length")


def _check_positions(backbone: Backbone, places: int, name: str) -> None:
    limit = getattr(backbone.model.config, "max_position_embeddings", None)
    if limit is not None and places > limit:
        raise InvalidInput(f"{name} needs {places} positions, the language model has {limit}")
