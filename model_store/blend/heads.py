"""Several embeddings of an item as one: a weighted sum of cosines is a single cosine of longer vectors.

With w_h the weight of head h, ``sum_h w_h * cos(user_h, item_h)`` is the inner product of two concatenations whose
parts have unit norm times the root of their weight. An item may lack a part (a new item means nothing to a model of
ids): its vector would be shorter, and a search by cosine would make up for that. So one more component, the *slack*,
fills each item's vector up to the same norm; it is zero in every query, and adds nothing to any score.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from model_store.errors import ArtifactCorrupt, InvalidInput
from model_store.index.vectors import normalize

HEADS_FILE = "heads.json"


@dataclass(frozen=True)
class Head:
    """One model of a blend.

    Attributes:
        name: Of the model within the blend.
        width: Of its embeddings.
        weight: Of its cosine in the score, above 0.
    """

    name: str
    width: int
    weight: float

    def __post_init__(self) -> None:
        if not self.width >= 1 or not 0 < self.weight < float("inf"):
            raise InvalidInput(
                f"head {self.name!r} has width {self.width} and weight {self.weight}, expected at least 1 and above 0"
            )


@dataclass(frozen=True)
class Heads:
    """The parts of a blend's embeddings, in the order in which they lie side by side; the slack comes last."""

    heads: tuple[Head, ...]

    def __post_init__(self) -> None:
        names = [head.name for head in self.heads]
        if not names or len(set(names)) != len(names):
            raise InvalidInput(f"the heads are {', '.join(names) or 'none'}, expected one or more distinct names")

    @property
    def embedding_dim(self) -> int:
        """D: the widths of all heads, and the slack."""
        return sum(head.width for head in self.heads) + 1

    def slices(self) -> list[slice]:
        """Where each head's part lies."""
        ends = np.cumsum([head.width for head in self.heads]).tolist()
        return [slice(end - head.width, end) for head, end in zip(self.heads, ends, strict=True)]

    def directions(self, raw: np.ndarray) -> np.ndarray:
        """What items are scored by.

        Args:
            raw: (..., D) float32, the heads' own embeddings side by side; the last component is not read.

        Returns:
            (..., D) float32, unit norm.
        """
        found = self.queries(raw)
        squares = np.square(found).sum(axis=-1)
        found[..., -1] = np.sqrt(np.maximum(1.0 - squares, 0.0))
        return found

    def queries(self, raw: np.ndarray) -> np.ndarray:
        """What items are compared with: as :meth:`directions`, without the slack, so that the norm is at most 1."""
        found = np.zeros((*raw.shape[:-1], self.embedding_dim), dtype=np.float32)
        for part, share in zip(self.slices(), self.shares(), strict=True):
            found[..., part] = normalize(raw[..., part]) * np.float32(share**0.5)
        return found

    def shares(self) -> list[float]:
        """Of each head in the score; they sum to 1."""
        total = sum(head.weight for head in self.heads)
        return [head.weight / total for head in self.heads]

    def contributions(self, raw: np.ndarray, query: np.ndarray) -> np.ndarray:
        """What each head adds to the score.

        Args:
            raw: (K, D) of items.
            query: (D,) unit norm, of a user.

        Returns:
            (K, H) float32, whose rows sum to the items' scores.
        """
        found = self.queries(raw)
        return np.stack([found[:, part] @ query[part] for part in self.slices()], axis=1)

    def save(self, directory: Path) -> None:
        """Writes ``heads.json``."""
        (directory / HEADS_FILE).write_text(json.dumps([asdict(head) for head in self.heads], indent=2) + "\n")


def read_heads(directory: Path) -> Heads:
    """The inverse of :meth:`Heads.save`.

    Raises:
        ArtifactCorrupt: The file does not say what a head is.
    """
    path = directory / HEADS_FILE
    try:
        return make_heads(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError, InvalidInput) as error:
        raise ArtifactCorrupt(f"{path}: {error}") from error


def make_heads(values: Sequence[dict[str, Any]]) -> Heads:
    """Heads from what JSON says of each; TypeError where a key is missing or unknown."""
    return Heads(tuple(Head(**value) for value in values))
