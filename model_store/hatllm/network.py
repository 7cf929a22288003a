"""HatLLM: one language model over the titles of a history, with attention masked by item in bands of layers.

HatLLM (arXiv 2510.10955): the first layers look inside items (IN), the middle ones everywhere (OR), the last ones
across items only, at each item's last token (CR). The *dense* forward is that and nothing else: all tokens through
all layers, each layer with its mask. It is the reference.

The *fast* forward computes the same: in IN an item's states depend on that item alone, as rotary positions are
relative, so they are computed once per distinct item; in CR nobody ever looks at an item's other tokens, so only
its last one goes on. What remains is OR over tokens and CR over items, both plainly causal.

Ours beyond the paper: besides generating a title, the state at an item's last token may *retrieve*: through a
linear head it is a query that is compared, by cosine, with embeddings of items, which are the same network's on one
item alone (or an HLLM's).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from model_store.backbone.cosine_scale import initial_logit_scale, score_scale
from model_store.backbone.decoder_layers import DecoderLayers
from model_store.backbone.item_vectors import ItemVectors, add_vectors
from model_store.backbone.layered_attention import Attend, check_layered
from model_store.backbone.load import Backbone, enable_checkpointing
from model_store.catalogue.item_segments import ItemSegments, segment_text
from model_store.catalogue.item_text import TokenBatch
from model_store.errors import InvalidInput
from model_store.hatllm.config import HatLLMConfig
from model_store.hatllm.history_layout import Windows, lay_out
from model_store.hatllm.masks import layer_bands, layer_masks
from model_store.hllm.network import HLLM


class HatLLM(nn.Module):
    """The network and its heads.

    Args:
        config: Checked against the backbone.
        backbone: A decoder with ``layered_sdpa`` attention, and its tokenizer.
        item_vectors: None where the configuration has none.
        item_tower: The HLLM whose Item LLM makes the item embeddings; None: this network does.
        lm_head: (V, H) weights for tokens; None: the word embeddings themselves.

    Attributes:
        bands: The band of each layer.
        logit_scale: () float32, the logarithm of the factor on cosines in the training loss.
    """

    def __init__(
        self,
        config: HatLLMConfig,
        *,
        backbone: Backbone,
        item_vectors: ItemVectors | None = None,
        item_tower: HLLM | None = None,
        lm_head: torch.Tensor | None = None,
    ) -> None:
        super().__init__()
        if backbone.tokenizer is None:
            raise InvalidInput(
                "HatLLM reads titles: its language model needs a tokenizer (a preset: texts to train one)"
            )
        self.config = config
        self.backbone = backbone.model
        self.layers = DecoderLayers(backbone.model)
        check_layered(self.layers.model)
        self.bands = layer_bands(
            self.layers.num_layers,
            in_layers=config.in_layers,
            cr_layers=config.cr_layers,
            order=config.band_order,
        )
        self.item_tokenizer = ItemSegments(backbone.tokenizer, config)
        self.item_vectors = item_vectors
        self.item_tower = item_tower
        width = backbone.hidden_size
        self.user_head = nn.Linear(width, config.embedding_dim)
        self.item_head = nn.Linear(width, config.embedding_dim) if config.item_tower == "self" else None
        self.lm_head: nn.Parameter | None = None if lm_head is None else nn.Parameter(lm_head)
        self.dropout = nn.Dropout(config.dropout)
        self.logit_scale = initial_logit_scale()
        self._prompt_ids = self.item_tokenizer.encode_prompt(config.prompt)

    # ---- what it is ----

    @property
    def runs_fast(self) -> bool:
        """Whether the fast forward is exact: IN then OR then CR, CR at last tokens, no prompt, rotary positions."""
        config = self.config
        is_in_order = list(self.bands) == sorted(self.bands, key=("in", "or", "cr").index)
        shows_last_tokens = config.cr_layers == 0 or (config.cr_keys == "last" and config.self_visible_cr)
        return is_in_order and shows_last_tokens and not self._prompt_ids and self.layers.can_run_apart

    @property
    def in_layers(self) -> range:
        """Indices of the IN band's layers; for the fast forward, like the next two."""
        return range(self.config.in_layers)

    @property
    def or_layers(self) -> range:
        """Of the OR band's."""
        return range(self.config.in_layers, self.layers.num_layers - self.config.cr_layers)

    @property
    def cr_layers(self) -> range:
        """Of the CR band's."""
        return range(self.layers.num_layers - self.config.cr_layers, self.layers.num_layers)

    @property
    def item_encoder(self) -> "HLLM | HatLLM":
        """What embeds items: this model, or its HLLM."""
        return self if self.item_tower is None else self.item_tower

    @property
    def reads_text(self) -> bool:
        """Whether items have a text part; always."""
        return True

    def score_scale(self) -> torch.Tensor:
        """() float32: what cosines are multiplied by in the loss, between 1 and 100."""
        return score_scale(self.logit_scale)

    def render_item(self, fields: Mapping[str, Any]) -> str:
        """The text of an item, from its fields."""
        return segment_text(fields, self.config.text_fields)

    # ---- items ----

    def item_states(self, tokens: TokenBatch) -> torch.Tensor:
        """States after the IN band of items alone, (U, T, H): all that the fast forward needs of them.

        Args:
            tokens: (U, T), right-padded; states in padding mean nothing.
        """
        states = self.dropout(self.layers.embed(tokens.input_ids))
        # right padding is never seen by a causal layer, and the item is alone: no mask is needed
        return self.layers.run(states, self.in_layers, _positions(tokens.input_ids.shape[1], states.device))

    def encode_item_tokens(self, batch: TokenBatch, in_states: torch.Tensor | None = None) -> torch.Tensor:
        """The text's part of item embeddings, (U, D) raw: the network on each item alone.

        Args:
            batch: (U, T), right-padded.
            in_states: (U, T, H) what :meth:`item_states` gives of the batch, where it is known.

        Raises:
            InvalidInput: This model's items are embedded by an HLLM; use :attr:`item_encoder`.
        """
        if in_states is None and self.runs_fast:
            in_states = self.item_states(batch)
        return self._head_items(self._alone(batch, in_states))

    def combine(self, text_part: torch.Tensor | None, rows: torch.Tensor | None) -> torch.Tensor:
        """THE item embedding: what is stored and, unit-norm, scored.

        Args:
            text_part: (..., D) from :meth:`encode_item_tokens`.
            rows: (...) int64 from :meth:`ItemVectors.rows_of`, -1 = unknown; None without item vectors.
        """
        if text_part is None:
            raise InvalidInput("an item of a HatLLM needs a text part")
        return add_vectors(text_part, self.item_vectors, rows)

    def _head_items(self, states: torch.Tensor) -> torch.Tensor:
        if self.item_head is None:
            raise InvalidInput("this HatLLM's items are embedded by its HLLM item tower, not by itself")
        embeddings: torch.Tensor = self.item_head(states)
        return embeddings

    def _alone(self, tokens: TokenBatch, in_states: torch.Tensor | None) -> torch.Tensor:
        """(U, H) final state at each item's last token, the item being the whole history."""
        places = torch.arange(len(tokens.input_ids), device=tokens.input_ids.device)[:, None]
        return self._last_states(tokens, places, in_states, with_prompt=False)[:, 0]

    # ---- histories ----

    def window_queries(self, tokens: TokenBatch, places: torch.Tensor) -> torch.Tensor:
        """Next-item queries at every item of B histories, with gradient; fast where that is exact.

        Args:
            tokens: (U, T) of U distinct items, right-padded.
            places: (B, L) int64, row of ``tokens`` per history position, oldest first, -1 = right padding.

        Returns:
            (B, L, D) raw; padded places mean nothing.
        """
        in_states = self.item_states(tokens) if self.runs_fast else None
        queries: torch.Tensor = self.user_head(self._last_states(tokens, places, in_states))
        return queries

    def window_queries_and_items(self, tokens: TokenBatch, places: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """:meth:`window_queries`, and the text part (U, D) of the same items' embeddings, over one IN pass."""
        in_states = self.item_states(tokens) if self.runs_fast else None
        queries = self.user_head(self._last_states(tokens, places, in_states))
        return queries, self._head_items(self._alone(tokens, in_states))

    def dense_queries(self, tokens: TokenBatch, places: torch.Tensor) -> torch.Tensor:
        """:meth:`window_queries` by the dense forward: the reference."""
        queries: torch.Tensor = self.user_head(self._last_states(tokens, places, None))
        return queries

    def dense_states(
        self,
        input_ids: torch.Tensor,
        item_map: torch.Tensor,
        is_token: torch.Tensor | None = None,
        *,
        attend: Attend | None = None,
    ) -> torch.Tensor:
        """The masked dense forward, by the library's own model code.

        Args:
            input_ids: (B, T) int64.
            item_map: (B, T) int64, the item of each token from 1 on, 0 = of none.
            is_token: (B, T) bool, False = padding, on either side; None: no padding.
            attend: Attention instead of the library's; then the masks are its business.

        Returns:
            (B, T, H) after the final norm.
        """
        masks = layer_masks(self.bands, item_map, options=self.config.mask_options, is_token=is_token)
        positions = None if is_token is None else (is_token.cumsum(dim=1) - 1).clamp(min=0)
        states = self.dropout(self.layers.embed(input_ids))
        options: dict[str, Any] = {"layer_masks": masks} if attend is None else {"attend": attend}
        final: torch.Tensor = self.layers.model(
            inputs_embeds=states, position_ids=positions, use_cache=False, **options
        ).last_hidden_state
        return final

    def _last_states(
        self, tokens: TokenBatch, places: torch.Tensor, in_states: torch.Tensor | None, *, with_prompt: bool = True
    ) -> torch.Tensor:
        """(B, L, H) final states at each item's last token; fast if the IN states are given."""
        windows = self.lay_out(tokens, places)
        if in_states is None:
            return self._last_states_dense(tokens, windows, with_prompt=with_prompt)
        states = in_states.flatten(0, 1)[windows.sources]
        states = self.layers.run(states, self.or_layers, _positions(states.shape[1], states.device))
        states = _rows(states, windows.last)
        # an item's last token keeps the position that it has among all tokens
        states = self.layers.run(states, self.cr_layers, windows.last)
        return self.layers.finish(states)

    def _last_states_dense(self, tokens: TokenBatch, windows: Windows, *, with_prompt: bool) -> torch.Tensor:
        input_ids, item_map, is_token = self.dense_inputs(tokens, windows, with_prompt=with_prompt)
        states = self.dense_states(input_ids, item_map, is_token)
        return _rows(states, windows.last + (input_ids.shape[1] - windows.item_map.shape[1]))

    def lay_out(self, tokens: TokenBatch, places: torch.Tensor) -> Windows:
        """Lays out (B, L) histories over (U, T) items, token by token."""
        return lay_out(tokens.attention_mask.sum(dim=1), places, width=tokens.input_ids.shape[1])

    def dense_inputs(
        self, tokens: TokenBatch, windows: Windows, *, with_prompt: bool = True
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What the dense forward reads of histories: input_ids, item_map and is_token, (B, T) each."""
        input_ids = tokens.input_ids.flatten()[windows.sources]
        item_map, is_token = windows.item_map, windows.is_token
        if with_prompt and self._prompt_ids:
            prompt = torch.tensor(self._prompt_ids, device=input_ids.device).expand(len(input_ids), -1)
            input_ids = torch.cat((prompt, input_ids), dim=1)
            item_map = torch.cat((torch.zeros_like(prompt), item_map), dim=1)
            is_token = torch.cat((torch.ones_like(prompt, dtype=torch.bool), is_token), dim=1)
        return input_ids, item_map, is_token

    # ---- titles ----

    def token_logits(self, states: torch.Tensor) -> torch.Tensor:
        """(..., H) final states to (..., V) logits of the next token."""
        table: Any = self.layers.model.get_input_embeddings()
        weights: torch.Tensor = table.weight if self.lm_head is None else self.lm_head
        return nn.functional.linear(states, weights)

    def next_token_loss(self, tokens: TokenBatch, places: torch.Tensor) -> torch.Tensor:
        """() mean cross-entropy over the tokens of titles that have a history before them.

        In CR a token of the title that is being generated sees the last tokens of the items before it and itself,
        which is what it sees as a part of the history too; so that every item of a window but the first is a target
        in one pass. If a target counts as no item (``target_as_item=False``), only the last one is.

        Args:
            tokens: (U, T) of U distinct items, right-padded.
            places: (B, L) int64, -1 = right padding; at least two items in some row.
        """
        windows = self.lay_out(tokens, places)
        if self.config.target_as_item and self.runs_fast:
            states, input_ids = self._all_states_fast(tokens, windows), tokens.input_ids.flatten()[windows.sources]
            is_target = windows.item_map > 1
        else:
            input_ids, item_map, is_token = self.dense_inputs(tokens, windows, with_prompt=True)
            is_target = is_token & (item_map > 1)
            if not self.config.target_as_item:
                is_target &= item_map == item_map.amax(dim=1, keepdim=True)
                item_map = item_map.masked_fill(is_target, 0)
            states = self.dense_states(input_ids, item_map, is_token)
        # the state before a token predicts it
        logits = self.token_logits(states[:, :-1][is_target[:, 1:]])
        return nn.functional.cross_entropy(logits.float(), input_ids[:, 1:][is_target[:, 1:]])

    def _all_states_fast(self, tokens: TokenBatch, windows: Windows) -> torch.Tensor:
        """(B, S, H): IN per distinct item; OR and, as every token is a target, CR over all tokens."""
        states = self.item_states(tokens).flatten(0, 1)[windows.sources]
        positions = _positions(states.shape[1], states.device)
        states = self.layers.run(states, self.or_layers, positions)
        if self.cr_layers:
            masks = layer_masks(
                self.bands, windows.item_map, options=self.config.mask_options, is_token=windows.is_token
            )
            states = self.layers.run(states, self.cr_layers, positions, layer_masks=masks)
        return self.layers.finish(states)

    def enable_gradient_checkpointing(self) -> None:
        """Trades time for memory in training: activations inside the language model are computed twice."""
        enable_checkpointing(self.layers.model)


def build_hatllm(
    *,
    config: HatLLMConfig,
    backbone: Backbone,
    known_item_ids: Sequence[str] = (),
    item_tower: HLLM | None = None,
) -> HatLLM:
    """Puts a HatLLM together; its heads and item vectors start from torch's random state.

    Args:
        config: Checked against the parts.
        backbone: A decoder with its tokenizer, loaded with ``attention="layered_sdpa"``.
        known_item_ids: One learned vector each, if the configuration has item vectors.
        item_tower: With its item side, if the configuration says so.

    Raises:
        InvalidInput: The parts do not fit each other.
        ArtifactIncompatible: The backbone's attention would ignore the masks.
    """
    if (config.item_tower == "hllm") != (item_tower is not None):
        raise InvalidInput(f"item_tower is {config.item_tower!r}, but an HLLM was {'not ' * (not item_tower)}given")
    if item_tower is not None and item_tower.config.embedding_dim != config.embedding_dim:
        raise InvalidInput(
            f"the item tower's embeddings have size {item_tower.config.embedding_dim}, "
            f"embedding_dim is {config.embedding_dim}"
        )
    check_fits(config, backbone)
    vectors = ItemVectors(known_item_ids, config.embedding_dim) if config.has_item_vectors else None
    lm_head = backbone.lm_head if "generate" in config.modes else None
    return HatLLM(config, backbone=backbone, item_vectors=vectors, item_tower=item_tower, lm_head=lm_head)


def check_fits(config: HatLLMConfig, backbone: Backbone) -> None:
    """Refuses a backbone that cannot be this model's.

    Raises:
        InvalidInput: It sees the future, or has fewer positions than the longest history may need.
    """
    if not backbone.is_causal:
        raise InvalidInput(f"HatLLM needs a decoder, got {backbone.model.config.model_type} (sees the future)")
    limits = [getattr(backbone.model.config, name, None) for name in ("max_position_embeddings", "sliding_window")]
    limit = min((int(limit) for limit in limits if limit is not None), default=None)
    needed = config.max_history_length * config.max_item_tokens
    if limit is not None and needed > limit:
        raise InvalidInput(
            f"max_history_length {config.max_history_length} x max_item_tokens {config.max_item_tokens} needs {needed} "
            f"positions, the language model has {limit}: at most {limit // config.max_item_tokens} items of this length"
        )


def _positions(num_tokens: int, device: torch.device) -> torch.Tensor:
    return torch.arange(num_tokens, device=device)[None]


def _rows(states: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """(B, S, H) at (B, L) places: (B, L, H)."""
    return states.gather(1, places[..., None].expand(-1, -1, states.shape[-1]))
