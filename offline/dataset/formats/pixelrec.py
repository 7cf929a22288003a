"""PixelRec: a CSV of interactions (item_id, user_id, timestamp) and one of items (item_id, title, tag, description).

Counters of views, comments and the like in the item file are left out: they were taken after the interactions, and
would tell a model what it is to predict.
"""

from collections.abc import Iterator
from pathlib import Path

from offline.dataset.formats.lines import records_as_dicts
from offline.dataset.formats.rows import FileTimeUnit, RawInteraction, RawItem, RowLog, Source


def source(items: Path, interactions: Path, *, time_unit: FileTimeUnit = "auto") -> Source:
    """Describes a pair of PixelRec files, plain or gzipped."""
    return Source(
        format="pixelrec",
        item_files=((items, _read_items),),
        interaction_files=((interactions, _read_interactions),),
        time_unit=time_unit,
    )


def _read_items(path: Path, log: RowLog) -> Iterator[RawItem]:
    for line, row in records_as_dicts(path, log, required=("item_id", "title")):
        attributes = {"category": row.get("tag"), "description": row.get("description")}
        yield RawItem(line, row["item_id"], row["title"], attributes)


def _read_interactions(path: Path, log: RowLog) -> Iterator[RawInteraction]:
    for line, row in records_as_dicts(path, log, required=("user_id", "item_id", "timestamp")):
        yield RawInteraction(line, row["user_id"], row["item_id"], row["timestamp"])
