"""Recommends by writing titles: a HatLLM that goes on after the history, held to the catalogue's titles.

The history is run once, by the fast forward, and its keys and values are shared by all beams. A beam keeps those of
the title it is writing: in IN it looks at these alone, in OR at the history's tokens too, in CR at the last tokens of
the history's items and at itself, as the masks have it for an item that is being written.
"""

import numpy as np
import torch

from model_store.catalogue.item_states import ItemTokens
from model_store.encoding import EncodedItems, UserEncoder
from model_store.errors import ArtifactIncompatible
from model_store.hatllm.network import HatLLM
from model_store.hatllm.titles.beam_search import beam_search
from model_store.hatllm.titles.trie import TitleTrie
from model_store.hatllm.user_encoder import HatLLMUserEncoder
from model_store.hatllm.user_state import UserState
from model_store.people.histories import History

DEFAULT_BEAMS = 20


class TitleGenerator:
    """Writes titles of one catalogue. One thread at a time, and not beside the encoder.

    Args:
        tokens: Of the catalogue's N items, as the model reads them.
        popularity: (N,) of items that share a title the most popular comes first.
        encoder: Over the same items; it keeps the users' states.
        num_beams: Followed at least; more if more items are asked for.

    Raises:
        ArtifactIncompatible: The model was not trained to write titles, or only its dense forward is exact.
    """

    def __init__(
        self,
        tokens: ItemTokens,
        popularity: np.ndarray,
        encoder: HatLLMUserEncoder,
        *,
        num_beams: int = DEFAULT_BEAMS,
    ) -> None:
        if not can_generate(encoder):
            modes = ", ".join(encoder.model.config.modes)
            raise ArtifactIncompatible(f"this model does not write titles: it was trained to {modes}")
        self.encoder = encoder
        self._num_beams = num_beams
        self._trie = TitleTrie.from_tokens(tokens.token_ids, tokens.offsets, popularity)

    @torch.no_grad()
    def recommend(self, history: History, k: int, allowed: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Writes the most probable titles after a history.

        Args:
            history: At least one item.
            k: The most items returned.
            allowed: (N,) bool, which items may be returned, row = item_index - 1; None: all.

        Returns:
            item_index (C,) int64 best first and log-probability (C,) float32; C at most k.
        """
        with self.encoder.state_of(history) as state:
            scorer = BeamScorer(self.encoder.model, state)
            return beam_search(scorer, self._trie, num_beams=max(self._num_beams, k), k=k, allowed=allowed)


def can_generate(encoder: UserEncoder) -> bool:
    """Whether the encoder's model writes titles."""
    return (
        isinstance(encoder, HatLLMUserEncoder)
        and "generate" in encoder.model.config.modes
        and encoder.model.config.target_as_item
        and encoder.model.runs_fast
    )


def make_generator(
    items: EncodedItems, encoder: UserEncoder, *, num_beams: int = DEFAULT_BEAMS
) -> TitleGenerator | None:
    """The generator of a bundle; None if its model does not write titles."""
    if not isinstance(encoder, HatLLMUserEncoder) or not can_generate(encoder):
        return None
    assert items.item_tokens is not None
    return TitleGenerator(items.item_tokens, items.catalogue.popularity, encoder, num_beams=num_beams)


class BeamScorer:
    """The network after a history, reading one more token per beam and step; see :class:`NextTokenScorer`.

    Args:
        model: With adapters merged; ``runs_fast``.
        state: Of the history; only read.
    """

    def __init__(self, model: HatLLM, state: UserState) -> None:
        assert state.final is not None
        self._model = model
        self._state = state
        self._final = state.final
        self._position = state.num_tokens
        self._own: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._parents: torch.Tensor | None = None

    def first(self) -> torch.Tensor:
        """(V,) logits of the title's first token."""
        return self._model.token_logits(self._final)

    def step(self, parents: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """(n, V) logits after each beam has read one more token."""
        layers = self._model.layers
        self._parents = parents
        positions = torch.full((1, len(tokens)), self._position, device=tokens.device)
        states = layers.embed(tokens)[None]  # beams lie where a text has its tokens
        states = layers.run(states, range(layers.num_layers), positions, attend=self._attend)
        self._position += 1
        return self._model.token_logits(layers.finish(states)[0])

    def _attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, scaling: float
    ) -> torch.Tensor:
        """(1, H, n, d) of n beams -> (1, n, H, d)."""
        groups = query.shape[1] // key.shape[1]
        own_keys, own_values = self._grown(layer, key[0].transpose(0, 1), value[0].transpose(0, 1))
        band = self._model.bands[layer]
        if band == "cr":  # of its own title a token sees itself alone
            own_keys, own_values = own_keys[:, :, -1:], own_values[:, :, -1:]
        queries = query[0].transpose(0, 1)[:, :, None]  # (n, H, 1, d)
        scores = queries @ own_keys.repeat_interleave(groups, dim=1).transpose(2, 3)  # (n, H, 1, t)
        values = own_values.repeat_interleave(groups, dim=1)
        if band == "in":
            weights = (scores.float() * scaling).softmax(dim=-1).to(values.dtype)
            return (weights @ values)[:, :, 0][None]
        past_keys, past_values = (part.repeat_interleave(groups, dim=0) for part in self._past(layer))  # (H, T, d)
        past_scores = (query[0] @ past_keys.transpose(1, 2)).transpose(0, 1)[:, :, None]  # (n, H, 1, T)
        weights = (torch.cat((past_scores, scores), dim=-1).float() * scaling).softmax(dim=-1).to(values.dtype)
        num_past = past_keys.shape[1]
        from_past = weights[:, :, 0, :num_past].transpose(0, 1) @ past_values  # (H, n, d)
        from_own = weights[..., num_past:] @ values  # (n, H, 1, d)
        return (from_past.transpose(0, 1) + from_own[:, :, 0])[None]

    def _past(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        if self._model.bands[layer] == "cr":
            return self._state.items.read(layer - self._model.cr_layers.start, len(self._state.item_indices))
        return self._state.tokens.read(layer - self._model.or_layers.start, self._state.num_tokens)

    def _grown(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The beams' own keys and values (n, H_kv, t, d) with this step's (n, H_kv, d)."""
        keys, values = keys[:, :, None], values[:, :, None]
        if layer in self._own:
            assert self._parents is not None
            before = self._own[layer]
            keys = torch.cat((before[0][self._parents], keys), dim=2)
            values = torch.cat((before[1][self._parents], values), dim=2)
        self._own[layer] = (keys, values)
        return keys, values
