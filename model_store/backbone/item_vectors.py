"""A learned vector per item, beside what its text says."""

from collections.abc import Sequence

import torch
from torch import nn

from model_store.errors import InvalidInput


class ItemVectors(nn.Module):
    """A learned vector for each item that training knew; zero for every other.

    Args:
        known_item_ids: M distinct ids, one per row.
        embedding_dim: D.
        std: Of the normal distribution that rows start from; 0 starts from zero.
    """

    def __init__(self, known_item_ids: Sequence[str], embedding_dim: int, *, std: float = 0.0) -> None:
        super().__init__()
        self.known_item_ids = list(known_item_ids)
        self._row_of = {item_id: row for row, item_id in enumerate(self.known_item_ids)}
        if len(self._row_of) != len(self.known_item_ids):
            raise InvalidInput(f"item vectors: {len(self.known_item_ids)} ids, only {len(self._row_of)} distinct")
        self.weight = nn.Parameter(torch.zeros(len(self.known_item_ids), embedding_dim))
        if std > 0:
            nn.init.normal_(self.weight, std=std)

    def rows_of(self, item_ids: Sequence[str]) -> torch.Tensor:
        """(n,) int64: the row of each id, -1 for an unknown one."""
        return torch.tensor([self._row_of.get(item_id, -1) for item_id in item_ids], dtype=torch.int64)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """(...) int64 rows to (..., D); zeros where the row is -1."""
        is_known = rows >= 0
        if self.weight.shape[0] == 0:
            return self.weight.new_zeros(*rows.shape, self.weight.shape[1])
        vectors = nn.functional.embedding(rows.clamp(min=0), self.weight)
        return vectors * is_known.unsqueeze(-1).to(vectors.dtype)


def add_vectors(
    text_part: torch.Tensor | None, item_vectors: ItemVectors | None, rows: torch.Tensor | None
) -> torch.Tensor:
    """The item embedding: the sum of what a text and an item vector say.

    Args:
        text_part: (..., D) raw; None where no text is read.
        item_vectors: None where items have none.
        rows: (...) int64 from :meth:`ItemVectors.rows_of`, -1 = unknown; None leaves the vectors out.

    Returns:
        (..., D) raw.

    Raises:
        InvalidInput: There is neither a text part nor a vector.
    """
    if item_vectors is None or rows is None:
        if text_part is None:
            raise InvalidInput("an item needs a text part or an item vector")
        return text_part
    vectors: torch.Tensor = item_vectors(rows)
    return vectors if text_part is None else text_part + vectors
