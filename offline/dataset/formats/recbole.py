"""RecBole atomic files: ``*.inter`` and ``*.item``, tab-separated, with headers such as ``user_id:token``.

Types: ``token`` (a text or category), ``float`` (a number; missing where there is something else), ``token_seq``
(words), ``float_seq`` (numbers; left out).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from model_store.errors import InvalidInput
from offline.dataset.formats.lines import text_lines
from offline.dataset.formats.rows import FileTimeUnit, RawInteraction, RawItem, RowLog, Source, shown

_TITLES = ("title", "name", "item_title", "movie_title", "product_title", "item_name", "track_name")
_TYPES = ("token", "float", "token_seq", "float_seq")


def source(items: Path, interactions: Path, *, time_unit: FileTimeUnit = "auto") -> Source:
    """Describes a pair of atomic files, plain or gzipped."""
    return Source(
        format="recbole",
        item_files=((items, _read_items),),
        interaction_files=((interactions, _read_interactions),),
        time_unit=time_unit,
    )


def _read_interactions(path: Path, log: RowLog) -> Iterator[RawInteraction]:
    for line, row in _rows(path, log, required=("user_id", "item_id", "timestamp")):
        yield RawInteraction(line, row["user_id"], row["item_id"], row["timestamp"], None, row.get("rating"))


def _read_items(path: Path, log: RowLog) -> Iterator[RawItem]:
    for line, row in _rows(path, log, required=("item_id",)):
        item_id = row.pop("item_id")
        title_name = next((name for name in _TITLES if name in row), None)
        title = row.pop(title_name) if title_name else None
        yield RawItem(line, item_id, title, row)


def _rows(path: Path, log: RowLog, *, required: tuple[str, ...]) -> Iterator[tuple[int, dict[str, Any]]]:
    lines = text_lines(path, log)
    columns = _columns(next(lines, (0, ""))[1], path, required)
    for number, text in lines:
        fields = text.split("\t")
        if len(fields) != len(columns):
            log.add_bad(number, f"{len(fields)} fields, expected {len(columns)} separated by tabs")
            continue
        row: dict[str, Any] = {}
        for (name, kind), field in zip(columns, fields, strict=True):
            if kind in ("token", "token_seq"):
                row[name] = field
            elif kind == "float":
                row[name] = _number(name, field, number, log)
        yield number, row


def _columns(header: str, path: Path, required: tuple[str, ...]) -> list[tuple[str, str]]:
    """Name and type of each column."""
    columns: list[tuple[str, str]] = []
    for field in header.split("\t"):
        name, _, kind = field.strip().rpartition(":")
        if not name or kind not in _TYPES:
            raise InvalidInput(
                f"{path}, line 1: column {field!r} is not typed, expected NAME:TYPE with TYPE in {list(_TYPES)}"
            )
        # a timestamp stays text until it is checked, with its exact digits
        columns.append((name, "token" if name == "timestamp" else kind))
    missing = sorted(set(required) - {name for name, _ in columns})
    if missing:
        raise InvalidInput(f"{path}, line 1: no column {missing}, only {[name for name, _ in columns]}")
    return columns


def _number(name: str, field: str, line: int, log: RowLog) -> float | None:
    """The number of a field; None if there is none, such as in "—" or "$7.00"."""
    if not field.strip():
        return None
    try:
        return float(field)
    except ValueError:
        log.add_finding("missing_numbers", line, f"{name} is {shown(field)}")
        return None
