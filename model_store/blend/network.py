"""The item side of a blend: one Item LLM, and what each member makes of its states."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from model_store.backbone.item_vectors import ItemVectors, add_vectors
from model_store.blend.config import BlendConfig
from model_store.catalogue.item_text import ItemTokenizer, TokenBatch, item_text
from model_store.errors import InvalidInput
from model_store.hllm.network import HLLM


class Blend(nn.Module):
    """The members' item embeddings side by side, with a zero for the slack at the end.

    Args:
        config: Of the blend.
        members: Item sides, in the order of the heads; those that read text share one Item LLM.
    """

    def __init__(self, config: BlendConfig, members: Sequence[HLLM]) -> None:
        super().__init__()
        self.config = config
        self._members = list(members)
        self.members = nn.ModuleList(members)
        self.item_tokenizer: ItemTokenizer | None = next(
            (member.item_tokenizer for member in members if member.item_tokenizer is not None), None
        )
        self.item_vectors = _side_by_side(config, members)

    @property
    def item_encoder(self) -> "Blend":
        """What embeds items: this model."""
        return self

    @property
    def reads_text(self) -> bool:
        """Whether a member reads texts."""
        return self.config.item_input == "text"

    def render_item(self, item_fields: Mapping[str, Any]) -> str:
        """The text of an item, from its fields; empty where no member reads texts."""
        if not self.reads_text:
            return ""
        return item_text(item_fields, prompt=self.config.item_prompt, field_names=self.config.text_fields)

    def encode_item_tokens(self, batch: TokenBatch) -> torch.Tensor:
        """The text's part of item embeddings, (B, D) raw; the shared Item LLM runs once where texts are averaged.

        Raises:
            InvalidInput: No member reads texts.
        """
        if not self.reads_text:
            raise InvalidInput("no member of this blend reads texts")
        readers = {head.name: one.item_llm for head, one in zip(self.config.heads.heads, self._members, strict=True)}
        first = next(reader for reader in readers.values() if reader is not None)
        # an [ITEM] vector is each member's own, a mean is everybody's
        mean = first.pool(batch) if self.config.pooling == "mean" else None
        texts = {
            name: reader.join(reader.pool(batch) if mean is None else mean)
            for name, reader in readers.items()
            if reader is not None
        }
        some = next(iter(texts.values()))
        found = some.new_zeros(len(some), self.config.embedding_dim)
        for head, part in zip(self.config.heads.heads, self.config.heads.slices(), strict=True):
            if head.name in texts:
                found[:, part] = texts[head.name]
        return found

    def combine(self, text_part: torch.Tensor | None, rows: torch.Tensor | None) -> torch.Tensor:
        """The item embedding, (..., D) raw: the text's part and the members' vectors of ``rows``, -1 = unknown."""
        return add_vectors(text_part, self.item_vectors, rows)


def _side_by_side(config: BlendConfig, members: Sequence[HLLM]) -> ItemVectors | None:
    """The members' item vectors as one table; zeros where a member has none of an item."""
    tables = [member.item_vectors for member in members]
    if all(table is None for table in tables):
        return None
    ids = sorted({item_id for table in tables if table is not None for item_id in table.known_item_ids})
    joined = ItemVectors(ids, config.embedding_dim)
    with torch.no_grad():
        for table, part in zip(tables, config.heads.slices(), strict=True):
            if table is not None:
                joined.weight[:, part] = table(table.rows_of(ids)).to(joined.weight.dtype)
    return joined.to(next(table.weight for table in tables if table is not None).dtype)
