"""Embeds a catalogue with an Item LLM: length-sorted batches, shards on disk, nothing embedded twice.

Batches hold items of about equal length up to a budget of tokens, so that little is padding. They run in
shuffled order: the cost of a token depends on the length of its text, and only a mixed order makes the time
left an honest guess from the first minute on. Memory holds one shard; the embeddings are memory-mapped.
"""

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from model_store.catalogue.catalogue import Catalogue
from model_store.catalogue.item_text import TokenBatch
from model_store.encoding import ItemModel
from model_store.errors import InvalidInput
from offline.indexing.catalogue_tokens import CatalogueTokens, tokenize_catalogue
from offline.indexing.item_shards import EmbeddingLookup, KnownEmbeddings, only_one_in, read_shards, write_shard

LOGGER = logging.getLogger(__name__)
_PLAIN_PROGRESS_SECONDS = 10.0
# a core is fastest while the activations fit its cache (MiniLM: 512 tokens take 0.6 of the time of 8,192), an
# accelerator when it has enough to do
_CPU_BATCH_TOKENS = 512
_ACCELERATOR_BATCH_TOKENS = 32_768


@dataclass(frozen=True)
class EmbedOptions:
    """How to run the Item LLM.

    Attributes:
        token_budget: Tokens of one batch, padding included; 0 = what suits the device.
        shard_seconds: A shard is written after this many seconds: what a killed run loses at most.
        shard_items: A shard is also written at this many items, which bounds its memory.
        device: Where the Item LLM runs.
        seed: Of the batch order.
    """

    token_budget: int = 0
    shard_seconds: float = 15.0
    shard_items: int = 16_384
    device: str = "cpu"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.token_budget < 0:
            raise InvalidInput(f"token_budget is {self.token_budget}, expected at least 1, or 0 for the default")

    @property
    def batch_tokens(self) -> int:
        """The token budget in effect, at least 1."""
        return self.token_budget or (_CPU_BATCH_TOKENS if self.device == "cpu" else _ACCELERATOR_BATCH_TOKENS)


@dataclass(frozen=True)
class EmbeddedCatalogue:
    """What embedding a catalogue yields.

    Attributes:
        embeddings: (N, D) float32, raw, memory-mapped; row = item_index - 1.
        tokens: The token ids and content hashes of the same rows.
        num_embedded: Items that went through the Item LLM in this run.
        num_reused: Items whose embedding was known: from an earlier bundle or from a killed run's shards.
        seconds: Time spent in the Item LLM and on shards.
    """

    embeddings: np.memmap
    tokens: CatalogueTokens
    num_embedded: int
    num_reused: int
    seconds: float


def embed_catalogue(
    model: ItemModel,
    catalogue: Catalogue,
    *,
    directory: Path,
    options: EmbedOptions | None = None,
    known: Iterable[KnownEmbeddings] = (),
    with_item_vectors: bool = True,
    tokens: CatalogueTokens | None = None,
    encode_text: Callable[[np.ndarray], torch.Tensor] | None = None,
) -> EmbeddedCatalogue:
    """Embeds every item, or finds its embedding among the known ones and in the shards of a killed run.

    Args:
        model: In evaluation mode, on ``options.device``.
        catalogue: N items.
        directory: Work directory of this item tower and no other: its shards are trusted. The result is
            mapped from here.
        options: Batches, shards and device.
        known: Embeddings of the same item tower; what the first one has of tokens is taken from there, too.
        with_item_vectors: Add the learned per-item vectors; off gives the text part alone (for training).
        tokens: Of the catalogue, by this model's tokenizer; None: they are made.
        encode_text: Catalogue rows (n,) to the text's part (n, D) of their embeddings; None: by the model from tokens.

    Raises:
        InvalidInput: Another process is embedding into the same directory.
    """
    options = options or EmbedOptions()
    shards = directory / ("shards" if with_item_vectors else "text_shards")
    shards.mkdir(parents=True, exist_ok=True)
    with only_one_in(directory):
        known = list(known)
        if tokens is None:
            path = directory / "token_ids.int32"
            tokens = tokenize_catalogue(model, catalogue, path=path, known=next(map(_tokens, known), None))
        embeddings = np.lib.format.open_memmap(
            directory / "embeddings.npy",
            mode="w+",
            dtype=np.float32,
            shape=(len(catalogue), model.config.embedding_dim),
        )
        lookup = EmbeddingLookup(tokens.content_hashes, embeddings)
        for source in chain(known, read_shards(shards)):  # one shard in memory at a time
            lookup.fill(source)
        missing = np.flatnonzero(~lookup.is_known)
        LOGGER.info("%d items: %d known, %d to embed", len(catalogue), len(catalogue) - len(missing), len(missing))
        started = time.monotonic()
        encoder = _ItemEncoder(model, catalogue, tokens, options.device, with_item_vectors, encode_text)
        _embed_rows(encoder, missing, embeddings, shards=shards, options=options)
        seconds = time.monotonic() - started
    return EmbeddedCatalogue(
        embeddings=embeddings,
        tokens=tokens,
        num_embedded=len(missing),
        num_reused=len(catalogue) - len(missing),
        seconds=seconds,
    )


def _tokens(known: KnownEmbeddings) -> CatalogueTokens | None:
    return None if known.tokens is None else CatalogueTokens.of_bundle(known.tokens, known.content_hashes)


def plan_batches(lengths: np.ndarray, *, token_budget: int, seed: int = 0) -> list[np.ndarray]:
    """Splits items into batches of about equal length, in shuffled order but for the longest one.

    The longest comes first: if memory does not suffice, the run fails in its first second, not in its last.

    Args:
        lengths: (n,) int64, tokens of each item without [ITEM].
        token_budget: Items times longest length of a batch is at most this, unless one item alone exceeds it.
        seed: Of the order.

    Returns:
        Arrays of positions in ``lengths``, each position exactly once.
    """
    by_length = np.argsort(-lengths, kind="stable")
    batches = []
    start = 0
    while start < len(by_length):
        count = max(1, token_budget // int(lengths[by_length[start]] + 1))
        batches.append(by_length[start : start + count])
        start += count
    order = np.random.default_rng(seed).permutation(np.arange(1, len(batches)))
    return batches[:1] + [batches[i] for i in order]


@dataclass(frozen=True)
class _ItemEncoder:
    """Turns rows of the catalogue into embeddings."""

    model: ItemModel
    catalogue: Catalogue
    tokens: CatalogueTokens
    device: str
    with_item_vectors: bool
    encode_text: Callable[[np.ndarray], torch.Tensor] | None

    def encode(self, rows: np.ndarray) -> np.ndarray:
        """Item embeddings (n, D) float32 of the rows (n,)."""
        with torch.inference_mode():
            text_part = None
            if self.model.reads_text:
                text_part = (self.encode_text or self._encode_tokens)(rows)
            if self.with_item_vectors and self.model.item_vectors is not None:
                item_ids = [self.catalogue.item_ids[row] for row in rows]
                vector_rows = torch.as_tensor(self.model.item_vectors.rows_of(item_ids)).to(self.device)
                text_part = self.model.combine(text_part, vector_rows)
            if text_part is None:
                raise InvalidInput("this model has neither an Item LLM nor item vectors: nothing to embed with")
            return text_part.float().cpu().numpy()

    def _encode_tokens(self, rows: np.ndarray) -> torch.Tensor:
        batch: TokenBatch = self.model.item_tokenizer.collate(self.tokens.of_rows(rows))
        return self.model.encode_item_tokens(batch.to(self.device))


def _embed_rows(
    encoder: _ItemEncoder,
    rows: np.ndarray,
    embeddings: np.ndarray,
    *,
    shards: Path,
    options: EmbedOptions,
) -> None:
    lengths = encoder.tokens.lengths[rows]
    batches = plan_batches(lengths, token_budget=options.batch_tokens, seed=options.seed)
    unsaved: list[np.ndarray] = []
    saved_at = time.monotonic()
    for batch in _with_progress(batches, lengths + 1):
        embedded = rows[batch]
        embeddings[embedded] = encoder.encode(embedded)
        unsaved.append(embedded)
        is_due = time.monotonic() - saved_at >= options.shard_seconds
        if is_due or sum(map(len, unsaved)) >= options.shard_items:
            _save(unsaved, encoder.tokens, embeddings, shards)
            unsaved, saved_at = [], time.monotonic()
    _save(unsaved, encoder.tokens, embeddings, shards)


def _save(unsaved: list[np.ndarray], tokens: CatalogueTokens, embeddings: np.ndarray, shards: Path) -> None:
    if unsaved:
        rows = np.concatenate(unsaved)
        write_shard(shards, tokens.content_hashes[rows], embeddings[rows])


def _with_progress(batches: list[np.ndarray], tokens: np.ndarray) -> Iterator[np.ndarray]:
    """Yields the batches; shows progress in tokens as a bar on a terminal, else a line every ten seconds."""
    total = int(tokens.sum())
    is_terminal = sys.stderr.isatty()
    started = shown = time.monotonic()
    done = 0
    with tqdm(
        total=total, desc="embedding", unit="tok", unit_scale=True, smoothing=0.05, disable=not is_terminal
    ) as bar:
        for batch in batches:
            yield batch
            batch_tokens = int(tokens[batch].sum())
            done += batch_tokens
            bar.update(batch_tokens)
            now = time.monotonic()
            if not is_terminal and now - shown >= _PLAIN_PROGRESS_SECONDS:
                rate = done / (now - started)
                left = (total - done) / rate
                LOGGER.info("embedding: %.1f %%, %.0f tokens/s, %.0f s left", 100 * done / total, rate, left)
                shown = now
