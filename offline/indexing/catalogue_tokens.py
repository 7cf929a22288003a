"""Renders and tokenises a whole catalogue, with one block of text in memory at a time."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model_store.catalogue.catalogue import Catalogue
from model_store.catalogue.item_states import ItemTokens
from model_store.catalogue.item_text import content_hash
from model_store.encoding import ItemModel
from offline.indexing.item_shards import HASH_DTYPE, HashIndex

_BLOCK_ITEMS = 4096


@dataclass(frozen=True)
class CatalogueTokens:
    """The token ids of every item, flat.

    Attributes:
        token_ids: (M,) int32, memory-mapped.
        offsets: (N + 1,) int64; item row r has tokens ``offsets[r]:offsets[r + 1]``.
        content_hashes: (N,) S32 over item id and text.
    """

    token_ids: np.ndarray
    offsets: np.ndarray
    content_hashes: np.ndarray

    @classmethod
    def of_bundle(cls, tokens: ItemTokens, content_hashes: np.ndarray) -> "CatalogueTokens":
        """The tokens that a bundle keeps, with the hashes of what they were made from."""
        return cls(tokens.token_ids, tokens.offsets, content_hashes)

    @property
    def lengths(self) -> np.ndarray:
        """(N,) int64, tokens of each item."""
        return np.diff(self.offsets)

    def places(self, rows: np.ndarray) -> torch.Tensor:
        """(t,) int64: where the tokens of the given rows lie in ``token_ids``, one item after the other."""
        return torch.from_numpy(ItemTokens(self.token_ids, self.offsets).rows(rows + 1))

    def of_rows(self, rows: np.ndarray) -> list[list[int]]:
        """The token ids of the given rows (item_index - 1)."""
        return [self.token_ids[self.offsets[row] : self.offsets[row + 1]].tolist() for row in rows]


def tokenize_catalogue(
    model: ItemModel, catalogue: Catalogue, *, path: Path, known: CatalogueTokens | None = None
) -> CatalogueTokens:
    """Tokenises every item's text into a file of int32 and maps it.

    Args:
        model: Its text settings and tokenizer are used. One without a tokenizer yields items of no tokens.
        catalogue: N items.
        path: The file to write; it must outlive the result.
        known: By the same tokenizer: an item whose hash it has is copied. Tokenising takes most of the time of a run
            in which few items have changed.
    """
    earlier = None if known is None else _Earlier(known)
    counts = np.zeros(len(catalogue) + 1, dtype=np.int64)
    hashes = np.zeros(len(catalogue), dtype=HASH_DTYPE)
    row = 0
    with path.open("wb") as file:
        for item_ids, texts in _text_blocks(model, catalogue):
            rows = slice(row, row + len(texts))
            hashes[rows] = [content_hash(item_id, text) for item_id, text in zip(item_ids, texts, strict=True)]
            if model.item_tokenizer is not None:
                encode = model.item_tokenizer.encode
                block = encode(texts) if earlier is None else earlier.complete(texts, hashes[rows], encode)
                counts[1 + rows.start : 1 + rows.stop] = [len(ids) for ids in block]
                file.write(np.fromiter(chain.from_iterable(block), dtype=np.int32).tobytes())
            row = rows.stop
    offsets = np.cumsum(counts)
    # an empty file cannot be mapped
    tokens = np.memmap(path, dtype=np.int32, mode="r") if offsets[-1] else np.zeros(0, dtype=np.int32)
    return CatalogueTokens(token_ids=tokens, offsets=offsets, content_hashes=hashes)


class _Earlier:
    """Token ids that are known already."""

    def __init__(self, known: CatalogueTokens) -> None:
        self._known = known
        self._index = HashIndex(known.content_hashes)

    def complete(
        self, texts: Sequence[str], hashes: np.ndarray, encode: Callable[[list[str]], list[list[int]]]
    ) -> list[list[int]]:
        """The token ids of these texts; those that are not known are encoded."""
        is_known, rows = self._index.find(hashes)
        new = [text for text, was_known in zip(texts, is_known, strict=True) if not was_known]
        copied, encoded = iter(self._known.of_rows(rows)), iter(encode(new) if new else [])
        return [next(copied if was_known else encoded) for was_known in is_known]


def _text_blocks(model: ItemModel, catalogue: Catalogue) -> Iterator[tuple[Sequence[str], list[str]]]:
    known = ("title", *catalogue.attribute_names)
    columns = {name: catalogue.column(name) for name in model.config.text_fields if name in known}
    for start in range(0, len(catalogue), _BLOCK_ITEMS):
        item_ids = catalogue.item_ids[start : start + _BLOCK_ITEMS]
        block: list[list[Any]] = [column.slice(start, _BLOCK_ITEMS).to_pylist() for column in columns.values()]
        rows = zip(*block, strict=True) if block else ((),) * len(item_ids)
        yield item_ids, [model.render_item(dict(zip(columns, values, strict=True))) for values in rows]
