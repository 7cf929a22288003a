"""Small sources and datasets that several tests make."""

import gzip
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from offline.dataset.dataset import UserSequences


def write_text(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".gz":
        with gzip.open(path, "wt", encoding="utf-8") as file:
            file.write(text)
    else:
        path.write_text(text, encoding="utf-8")
    return path


def write_json_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    return write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def sequences_of(*histories: Sequence[tuple[int, int]]) -> UserSequences:
    """Users u0, u1, ... from (item_index, timestamp) pairs."""
    flat = [event for history in histories for event in history]
    return UserSequences(
        user_ids=[f"u{number}" for number in range(len(histories))],
        offsets=np.cumsum([0, *(len(history) for history in histories)]),
        item_indices=np.array([item for item, _ in flat], dtype=np.int32),
        timestamps=np.array([time for _, time in flat], dtype=np.int64),
    )
