"""Recognises events that were exported before: hashes of owner and event id, in sorted files.

An erased user starts anew: the service has forgotten their event ids, so the same id is another event then.

16 bytes an event. A run adds a file and merges it with those that are not much larger, so that there are few: as many
as the logarithm of the number of events. Files whose newest event is older than the horizon are forgotten.
"""

import hashlib
from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path

import numpy as np

from model_store.people.event_log import LoggedErasure, LoggedEvent
from offline.export.files import SeenIds
from offline.export.notes import Note
from offline.redis.event_stream import BEGINNING, Position, format_position

_ID = np.dtype("S16")
# A file is merged with the one before it if that is less than so many times as large.
_GROWTH = 4


class Identities:
    """Names events among all that were ever logged.

    Args:
        notes: Of earlier runs.
    """

    def __init__(self, notes: Iterable[Note]) -> None:
        self._erasures: dict[str, list[Position]] = {}
        for _, position, note in notes:
            if isinstance(note, LoggedErasure):
                self.add(position, note)

    def add(self, position: Position, erasure: LoggedErasure) -> None:
        """Takes note of an erasure."""
        insort(self._erasures.setdefault(erasure.owner_hash, []), position)

    def id_of(self, position: Position, event: LoggedEvent) -> bytes:
        """16 bytes, the same for the same event of the same owner between two erasures."""
        owner, since = event.owner.hash, BEGINNING
        if owner in self._erasures:
            erasures = self._erasures[owner]
            before = bisect_left(erasures, position)
            since = erasures[before - 1] if before else BEGINNING
        return hashlib.sha256(f"{owner}{format_position(since)} {event.event_id}".encode()).digest()[:16]


class KnownIds:
    """What earlier runs exported.

    Args:
        directory: Of the export.
        files: That count.
        oldest: Files whose newest event is older than this are forgotten.
    """

    def __init__(self, directory: Path, files: Sequence[SeenIds], *, oldest: datetime) -> None:
        self._files = [one for one in files if one.until >= oldest]
        self._arrays = [np.load(directory / one.file, mmap_mode="r") for one in self._files]

    def contains(self, ids: Sequence[bytes]) -> np.ndarray:
        """(n,) bool per id."""
        wanted = np.array(ids, dtype=_ID)
        is_known = np.zeros(len(wanted), dtype=bool)
        for known in self._arrays:
            places = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
            is_known |= known[places] == wanted
        return is_known

    def add(self, ids: Sequence[bytes], path: Path, *, until: datetime) -> tuple[SeenIds, ...]:
        """Writes a file of new ids, merged with those that are not much larger.

        Args:
            ids: Not known yet.
            path: Of the file to write, in the directory.
            until: When they were exported.

        Returns:
            The files that count now, the largest first.
        """
        files, arrays = list(self._files), list(self._arrays)
        if not len(ids):
            return tuple(files)
        merged: np.ndarray = np.array(ids, dtype=_ID)
        while files and files[-1].num_ids < _GROWTH * len(merged):
            merged = np.concatenate([merged, arrays.pop()])
            files.pop()
        merged.sort()
        np.save(path, merged)
        return (*files, SeenIds(file=path.name, num_ids=len(merged), until=until))
