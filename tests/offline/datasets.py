"""Small sources and datasets that several tests make."""

import gzip
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from offline.dataset.dataset import INTERACTION_SCHEMA, DatasetDescription, UserSequences
from tests.offline.small_models import shop_table

NUM_ITEMS = 30


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


def write_small_dataset(
    directory: Path, *, time_unit: Literal["seconds", "rank"] = "seconds", num_users: int = 40
) -> Path:
    random = np.random.default_rng(0)
    rows = [
        {"user_id": f"u{user}", "item_id": f"i{item}", "timestamp": 1_000 * user + place}
        for user in range(num_users)
        for place, item in enumerate(random.choice(NUM_ITEMS - 1, 4 + user % 5, replace=False))
    ]
    directory.mkdir()
    pq.write_table(shop_table(NUM_ITEMS), directory / "items.parquet")
    table = pa.Table.from_pylist([row | {"type": None, "rating": None} for row in rows], schema=INTERACTION_SCHEMA)
    pq.write_table(table, directory / "interactions.parquet")
    description = DatasetDescription(
        source="test",
        time_unit=time_unit,
        num_users=num_users,
        num_items=NUM_ITEMS,
        num_interactions=len(rows),
        report={},
    )
    (directory / "dataset.json").write_text(description.model_dump_json())
    return directory
