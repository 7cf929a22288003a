"""RecBole atomic files: ``*.inter`` and ``*.item``, tab-separated, with headers such as ``user_id:token``.

Types: ``token`` (a text or category), ``float`` (a number), ``token_seq`` (words), ``float_seq`` (numbers; left out).
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from model_store.errors import InvalidInput
from offline.dataset.formats.lines import text_lines
from offline.dataset.formats.rows import RawInteraction, RawItem, RowLog, Source

_TITLES = ("title", "name", "item_title", "movie_title", "product_title", "item_name", "track_name")
_TYPES = ("token", "float", "token_seq", "float_seq")


def source(items: Path, interactions: Path, *, ticks_per_second: int = 1) -> Source:
    """Describes a pair of atomic files, plain or gzipped."""
    return Source(
        format="recbole",
        item_files=((items, _read_items),),
        interaction_files=((interactions, _read_interactions),),
        ticks_per_second=ticks_per_second,
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
        try:
            yield (
                number,
                {name: convert(field) for (name, convert), field in zip(columns, fields, strict=True) if convert},
            )
        except ValueError as error:
            log.add_bad(number, f"not a number where the header says float: {error}")


def _columns(header: str, path: Path, required: tuple[str, ...]) -> list[tuple[str, Callable[[str], Any] | None]]:
    columns: list[tuple[str, Callable[[str], Any] | None]] = []
    for field in header.split("\t"):
        name, _, kind = field.strip().rpartition(":")
        if not name or kind not in _TYPES:
            raise InvalidInput(
                f"{path}, line 1: column {field!r} is not typed, expected NAME:TYPE with TYPE in {list(_TYPES)}"
            )
        columns.append((name, _converter(name, kind)))
    missing = sorted(set(required) - {name for name, _ in columns})
    if missing:
        raise InvalidInput(f"{path}, line 1: no column {missing}, only {[name for name, _ in columns]}")
    return columns


def _converter(name: str, kind: str) -> Callable[[str], Any] | None:
    if kind == "float_seq":
        return None
    # the timestamp stays text until it is checked, with its exact digits
    return _number if kind == "float" and name != "timestamp" else str


def _number(field: str) -> float | None:
    return float(field) if field.strip() else None
