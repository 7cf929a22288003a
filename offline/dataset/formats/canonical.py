"""The canonical form: ``items.jsonl[.gz]`` and ``interactions.csv[.gz]``.

Items are JSON objects with ``item_id``, ``title`` and any attributes. Interactions have a header with
``user_id``, ``item_id``, ``timestamp`` and, if they like, ``type`` and ``rating``; others are not read.
"""

from collections.abc import Iterator
from pathlib import Path

from offline.dataset.formats.lines import csv_records, header_of, json_objects
from offline.dataset.formats.rows import FileTimeUnit, RawInteraction, RawItem, RowLog, Source

_REQUIRED = ("user_id", "item_id", "timestamp")


def source(items: Path, interactions: Path, *, time_unit: FileTimeUnit = "auto") -> Source:
    """Describes a pair of files in the canonical form."""
    return Source(
        format="canonical",
        item_files=((items, read_items),),
        interaction_files=((interactions, read_interactions),),
        time_unit=time_unit,
    )


def read_items(path: Path, log: RowLog) -> Iterator[RawItem]:
    """Reads items; an object without ``item_id`` is bad."""
    for line, fields in json_objects(path, log, unique_keys=True):
        if "item_id" not in fields:
            log.add_bad(line, f"no item_id, only {sorted(fields)[:10]}: expected item_id and title")
            continue
        yield RawItem(line, fields.pop("item_id"), fields.pop("title", None), fields)


def read_interactions(path: Path, log: RowLog) -> Iterator[RawInteraction]:
    """Reads interactions; a row with another number of fields than the header is bad."""
    records = csv_records(path, log)
    names = header_of(records, path, _REQUIRED)
    user, item, time = (names.index(name) for name in _REQUIRED)
    kind = names.index("type") if "type" in names else None
    rating = names.index("rating") if "rating" in names else None
    for line, row in records:
        if len(row) != len(names):
            log.add_bad(line, f"{len(row)} fields, expected {len(names)}: {', '.join(names)}")
            continue
        yield RawInteraction(
            line,
            row[user],
            row[item],
            row[time],
            None if kind is None else row[kind],
            None if rating is None else row[rating],
        )
