"""Computes what a HatLLM's fast forward starts from: the state of every token of every item after the IN band.

The states go straight to a file in blocks of items, with a note of how far it is; a killed run goes on from there.
An item whose text an earlier bundle of the same model had is copied, not computed.
"""

import hashlib
import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import save_file
from tqdm import tqdm

from model_store.catalogue.catalogue import Catalogue
from model_store.catalogue.item_states import STATES_FILE, STATES_TENSOR, TOKENS_FILE, ItemTokens
from model_store.hatllm.network import HatLLM
from offline.indexing.catalogue_tokens import CatalogueTokens, tokenize_catalogue
from offline.indexing.embed_items import EmbedOptions, plan_batches
from offline.indexing.item_shards import HASH_DTYPE, HashIndex

LOGGER = logging.getLogger(__name__)
_BLOCK_ITEMS = 4096
HASHES_TENSOR = "content_hashes"
_PROGRESS_FILE = "states.json"
_STATES_FILE = "states.bin"


@dataclass(frozen=True)
class KnownStates:
    """States computed earlier by the same model.

    Attributes:
        tokens: Of n items, with the hashes of what they were made from.
        states: (M, H), may be memory-mapped.
    """

    tokens: CatalogueTokens
    states: torch.Tensor


@dataclass(frozen=True)
class StatedCatalogue:
    """Tokens and states of a catalogue.

    Attributes:
        tokens: Of N items, as the HatLLM reads them.
        states: (M, H) in the model's dtype, mapped from the work directory; None if the model's fast forward is
            not exact and nobody would read them.
        num_computed: Items that were run.
        num_reused: Items whose states were known.
    """

    tokens: CatalogueTokens
    states: torch.Tensor | None
    num_computed: int
    num_reused: int

    @property
    def item_tokens(self) -> ItemTokens:
        """The same tokens, as a bundle hands them out."""
        return ItemTokens(np.asarray(self.tokens.token_ids), self.tokens.offsets)

    def save(self, directory: Path) -> None:
        """Writes tokens and states as a bundle has them."""
        hashes = self.tokens.content_hashes.view(np.uint8).reshape(-1, HASH_DTYPE.itemsize)
        tensors = {"token_ids": self.tokens.token_ids, "offsets": self.tokens.offsets, HASHES_TENSOR: hashes}
        save_arrays(tensors, directory / TOKENS_FILE)
        if self.states is not None:
            save_file({STATES_TENSOR: self.states}, directory / STATES_FILE)

    def report(self) -> dict[str, Any]:
        """What the states take."""
        if self.states is None:
            return {"tokens": int(self.tokens.offsets[-1]), "bytes": 0}
        num_bytes = self.states.numel() * self.states.element_size()
        return {"tokens": len(self.states), "bytes": num_bytes, "dtype": str(self.states.dtype).removeprefix("torch.")}


def compute_states(
    model: HatLLM,
    catalogue: Catalogue,
    *,
    directory: Path,
    options: EmbedOptions | None = None,
    known: KnownStates | None = None,
) -> StatedCatalogue:
    """Tokenises the catalogue and computes the states of its items, or finds them.

    Args:
        model: In evaluation mode, on the device of the options.
        catalogue: N items.
        directory: Work directory of this model and no other; the result is mapped from here.
        options: Batches and device.
        known: From an earlier bundle of the same model.
    """
    directory.mkdir(parents=True, exist_ok=True)
    options = options or EmbedOptions()
    before = None if known is None else known.tokens
    tokens = tokenize_catalogue(model, catalogue, path=directory / "hat_token_ids.int32", known=before)
    if not model.runs_fast:
        return StatedCatalogue(tokens, None, num_computed=0, num_reused=0)
    width, dtype = model.layers.model.config.hidden_size, model.user_head.weight.dtype
    num_tokens = int(tokens.offsets[-1])
    size = num_tokens * width * dtype.itemsize
    LOGGER.info("item states: %d tokens x %d values, %.1f MB to be written", num_tokens, width, size / 1e6)
    file = _StatesFile(directory, tokens, size=size)
    states = torch.from_file(str(file.path), shared=True, size=num_tokens * width, dtype=dtype).view(-1, width)
    index = None if known is None else HashIndex(known.tokens.content_hashes)
    num_computed = 0
    with _progress(num_tokens) as bar:
        bar.update(int(tokens.offsets[file.num_done]))
        for start in range(file.num_done, len(catalogue), _BLOCK_ITEMS):
            rows = np.arange(start, min(start + _BLOCK_ITEMS, len(catalogue)))
            missing = rows
            if known is not None and index is not None:
                missing = _copy_known(known, index, tokens, rows, states)
            run_block(model, tokens, missing, states, options=options)
            num_computed += len(missing)
            file.mark(int(rows[-1]) + 1)
            bar.update(int(tokens.offsets[rows[-1] + 1] - tokens.offsets[start]))
    return StatedCatalogue(tokens, states, num_computed=num_computed, num_reused=len(catalogue) - num_computed)


class _StatesFile:
    """The file that states are written to, and how many items of it are done."""

    def __init__(self, directory: Path, tokens: CatalogueTokens, *, size: int) -> None:
        self.path = directory / _STATES_FILE
        self._note = directory / _PROGRESS_FILE
        self._key = hashlib.sha256(tokens.content_hashes.tobytes() + size.to_bytes(8, "little")).hexdigest()
        self.num_done = self._read() if self.path.is_file() and self.path.stat().st_size == size else 0
        if self.num_done == 0:
            self._note.unlink(missing_ok=True)
            with self.path.open("wb") as file:
                file.truncate(size)

    def mark(self, num_done: int) -> None:
        """Notes that the first items are done, once they are on disk."""
        with self.path.open("rb+") as file:
            os.fsync(file.fileno())
        temporary = self._note.with_suffix(".partial")
        temporary.write_text(json.dumps({"key": self._key, "done": num_done}))
        temporary.replace(self._note)
        self.num_done = num_done

    def _read(self) -> int:
        try:
            note = json.loads(self._note.read_text())
            return int(note["done"]) if note["key"] == self._key else 0
        except (OSError, ValueError, KeyError, TypeError):
            return 0


def _copy_known(
    known: KnownStates, index: HashIndex, tokens: CatalogueTokens, rows: np.ndarray, states: torch.Tensor
) -> np.ndarray:
    """Copies the states of those rows that an earlier bundle had; returns the others."""
    is_hit, known_rows = index.find(tokens.content_hashes[rows])
    # the hash is over the text before it is cut and split, so tokens of one model are equal too
    states[tokens.places(rows[is_hit])] = known.states[known.tokens.places(known_rows)]
    return rows[~is_hit]


@torch.no_grad()
def run_block(
    model: HatLLM, tokens: CatalogueTokens, rows: np.ndarray, states: torch.Tensor, *, options: EmbedOptions
) -> None:
    """Fills in the states of the tokens of items (n,), given by their rows."""
    if len(rows) == 0:
        return
    lengths = tokens.lengths[rows]
    for batch in plan_batches(lengths, token_budget=options.batch_tokens):
        chosen = rows[batch]
        padded = model.item_tokenizer.collate(tokens.of_rows(chosen)).to(options.device)
        computed = model.item_states(padded)
        for row, of_item, length in zip(chosen, computed, tokens.lengths[chosen], strict=True):
            start = tokens.offsets[row]
            states[start : start + length] = of_item[:length].cpu()


@contextmanager
def _progress(num_tokens: int) -> Iterator["tqdm[Any]"]:
    is_hidden = not sys.stderr.isatty()
    with tqdm(total=num_tokens, desc="item states", unit="tok", unit_scale=True, disable=is_hidden) as bar:
        yield bar
