"""Reads a catalogue from whatever a job is pointed at: a dataset, a Parquet file or JSON lines.

JSON lines are read as ``offline.import_data`` reads them, but a bad line is refused: a catalogue that goes live must be
whole.
"""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from model_store.catalogue.catalogue import POPULARITY, Catalogue
from model_store.errors import InvalidInput
from offline.dataset.dataset import Dataset
from offline.dataset.formats import canonical
from offline.dataset.formats.checks import check_item
from offline.dataset.formats.rows import BadRow, Item, RowLog, shown
from offline.dataset.item_table import ItemTable

LOGGER = logging.getLogger(__name__)


def read_catalogue(path: Path) -> Catalogue:
    """Opens the items at a path.

    Args:
        path: A dataset directory, ``*.parquet``, ``*.jsonl`` or ``*.jsonl.gz`` with item_id, title, any attributes,
            and popularity if that is known.

    Raises:
        InvalidInput: There is nothing, or it cannot be read, has no item_id, is empty, or has an id twice.
    """
    if path.is_dir():
        return Dataset.open(path).catalogue()
    if not path.exists():
        raise InvalidInput(f"no items at {path}: expected a dataset directory, items.parquet or items.jsonl[.gz]")
    if path.suffix == ".parquet":
        catalogue = Catalogue.from_table(_read_parquet(path))
    elif path.suffix == ".jsonl" or path.suffixes[-2:] == [".jsonl", ".gz"]:
        catalogue = Catalogue.from_table(_read_json_lines(path))
    else:
        raise InvalidInput(f"items file {path}: expected *.parquet, *.jsonl or *.jsonl.gz")
    if POPULARITY not in catalogue.table.column_names:
        LOGGER.warning("%s has no %s: popular items are those at the top of the file", path, POPULARITY)
    return catalogue


def _read_parquet(path: Path) -> pa.Table:
    try:
        table = pyarrow.parquet.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise InvalidInput(f"items file {path} cannot be read: {_one_line(error)}") from error
    return _with_string_ids(table, path)


def _read_json_lines(path: Path) -> pa.Table:
    log = RowLog(path, max_bad=0)
    table = ItemTable()
    popularity: list[int | None] = []
    try:
        for item, count in _items(path, log):
            table.add(item)
            popularity.append(count)
    except InvalidInput as error:
        raise InvalidInput(f"items cannot be read: {error}") from error
    if not len(table):
        raise InvalidInput(f"items file {path} is empty: expected one JSON object a line")
    columns = table.to_arrow(np.ones(len(table), dtype=bool))
    if all(count is None for count in popularity):
        return columns
    return columns.append_column(POPULARITY, pa.array(popularity, pa.int64()))


def _items(path: Path, log: RowLog) -> Iterator[tuple[Item, int | None]]:
    for row in canonical.read_items(path, log):
        try:
            count = _popularity(row.attributes.pop(POPULARITY, None))
            yield check_item(row, log, cut_title=True), count
        except BadRow as error:
            log.add_bad(row.line, str(error))


def _popularity(value: Any) -> int | None:
    if value is None:
        return None
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    if not (is_whole or (isinstance(value, float) and value.is_integer())) or not 0 <= value < 2**63:
        raise BadRow(f"{POPULARITY} is {shown(value)}, expected a whole number of at least 0")
    return int(value)


def _with_string_ids(table: pa.Table, path: Path) -> pa.Table:
    if "item_id" not in table.column_names:
        raise InvalidInput(f"items file {path} has columns {table.column_names}: expected item_id and title")
    if "title" not in table.column_names:
        table = table.append_column("title", pa.nulls(len(table), pa.string()))
    for name in ("item_id", "title"):
        column = table.column(name)
        if pa.types.is_string(column.type):
            continue
        if not _is_text_or_number(column.type):
            raise InvalidInput(
                f"items file {path}: column {name!r} is {column.type}, expected strings or whole numbers"
            )
        # a number and its text are the same id
        table = table.set_column(table.column_names.index(name), name, column.cast(pa.string()))
    return table


def _is_text_or_number(kind: pa.DataType) -> bool:
    is_text = pa.types.is_large_string(kind) or pa.types.is_string_view(kind) or pa.types.is_dictionary(kind)
    return is_text or pa.types.is_integer(kind) or pa.types.is_null(kind)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
