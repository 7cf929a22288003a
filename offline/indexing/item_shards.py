"""What makes embedding resumable: embeddings on disk, found again by the hash of what they are made from.

A shard is a safetensors file with ``content_hashes`` (n, 32) uint8 and ``embeddings`` (n, D) float32, written
to a temporary name and renamed, so that a shard is there whole or not at all. Its place among the items does
not matter: a catalogue that was reordered or extended between two runs still finds its embeddings.
"""

import fcntl
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from model_store.catalogue.item_states import ItemTokens
from model_store.errors import InvalidInput

HASH_DTYPE = np.dtype("S32")
_BLOCK_ROWS = 16_384


@dataclass(frozen=True)
class KnownEmbeddings:
    """Embeddings computed earlier by the same item tower.

    Attributes:
        content_hashes: (n,) S32, what each row was computed from.
        embeddings: (n, D) float32, raw, may be memory-mapped.
        tokens: What the item tower read of each row, where that was kept.
    """

    content_hashes: np.ndarray
    embeddings: np.ndarray
    tokens: ItemTokens | None = None


@contextmanager
def only_one_in(directory: Path) -> Iterator[None]:
    """Keeps a second process out of a work directory.

    Raises:
        InvalidInput: Another process is in it.
    """
    # the kernel frees the lock when the process dies, however it dies
    with (directory / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InvalidInput(
                f"another process is working in {directory}; wait for it to end, expected one at a time"
            ) from error
        yield


def write_shard(directory: Path, content_hashes: np.ndarray, embeddings: np.ndarray) -> Path:
    """Adds a shard to the directory; after a crash it is there whole or not at all.

    Args:
        directory: Where the shards of one item tower lie; must exist.
        content_hashes: (n,) S32.
        embeddings: (n, D) float32.

    Returns:
        The path of the shard.
    """
    name = uuid.uuid4().hex
    temporary, path = directory / f"{name}.partial", directory / f"{name}.safetensors"
    as_bytes = np.ascontiguousarray(content_hashes).view(np.uint8).reshape(-1, HASH_DTYPE.itemsize)
    save_file({"content_hashes": as_bytes, "embeddings": np.ascontiguousarray(embeddings)}, temporary)
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)
    return path


def read_shards(directory: Path) -> Iterator[KnownEmbeddings]:
    """Yields the whole shards of a directory, one in memory at a time; removes half-written ones."""
    for partial in directory.glob("*.partial"):
        partial.unlink()
    for path in sorted(directory.glob("*.safetensors")):
        tensors = load_file(path)
        hashes = tensors["content_hashes"].view(HASH_DTYPE)[:, 0]
        yield KnownEmbeddings(content_hashes=hashes, embeddings=tensors["embeddings"])


class HashIndex:
    """Finds rows by the hash of what they are made from.

    Args:
        content_hashes: (n,) S32, distinct.
    """

    def __init__(self, content_hashes: np.ndarray) -> None:
        self._order = np.argsort(content_hashes, kind="stable")
        self._sorted = content_hashes[self._order]

    def find(self, content_hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Looks hashes up.

        Args:
            content_hashes: (m,) S32.

        Returns:
            (m,) bool whether each is there, and (h,) int64 the rows of those that are.
        """
        if len(self._sorted) == 0:
            return np.zeros(len(content_hashes), dtype=bool), np.empty(0, dtype=np.int64)
        places = np.minimum(np.searchsorted(self._sorted, content_hashes), len(self._sorted) - 1)
        is_hit = self._sorted[places] == content_hashes
        return is_hit, self._order[places[is_hit]]


class EmbeddingLookup:
    """Fills the rows of an embedding table from whatever is known already.

    Args:
        content_hashes: (N,) S32, distinct, of the catalogue's items in order.
        embeddings: (N, D) float32, written in place.
    """

    def __init__(self, content_hashes: np.ndarray, embeddings: np.ndarray) -> None:
        self._index = HashIndex(content_hashes)
        self._embeddings = embeddings
        self.is_known = np.zeros(len(content_hashes), dtype=bool)

    def fill(self, known: KnownEmbeddings) -> int:
        """Copies the rows that the catalogue has.

        Returns:
            How many rows became known by this.
        """
        if known.embeddings.shape[1:] != self._embeddings.shape[1:]:
            return 0
        before = int(self.is_known.sum())
        for start in range(0, len(known.content_hashes), _BLOCK_ROWS):
            is_hit, rows = self._index.find(known.content_hashes[start : start + _BLOCK_ROWS])
            self._embeddings[rows] = known.embeddings[start : start + _BLOCK_ROWS][is_hit]
            self.is_known[rows] = True
        return int(self.is_known.sum()) - before
