"""Reads a catalogue from whatever a job is pointed at: a dataset, a Parquet file or JSON lines."""

from pathlib import Path

import pyarrow as pa
import pyarrow.json
import pyarrow.parquet

from model_store.catalogue.catalogue import Catalogue
from model_store.errors import InvalidInput
from offline.dataset.dataset import Dataset

# one JSON line must fit into one block of the reader
_JSON_BLOCK_BYTES = 64 * 2**20


def read_catalogue(path: Path) -> Catalogue:
    """Opens the items at a path.

    Args:
        path: A dataset directory, ``*.parquet``, ``*.jsonl`` or ``*.jsonl.gz`` with item_id, title and any
            attributes.

    Raises:
        InvalidInput: There is nothing, or it cannot be read, has no item_id, is empty, or has an id twice.
    """
    if path.is_dir():
        return Dataset.open(path).catalogue()
    if not path.exists():
        raise InvalidInput(f"no items at {path}: expected a dataset directory, items.parquet or items.jsonl[.gz]")
    try:
        if path.suffix == ".parquet":
            table = pyarrow.parquet.read_table(path)
        elif path.suffix == ".jsonl" or path.suffixes[-2:] == [".jsonl", ".gz"]:
            table = _read_json_lines(path)
        else:
            raise InvalidInput(f"items file {path}: expected *.parquet, *.jsonl or *.jsonl.gz")
    except (pa.ArrowException, OSError) as error:
        raise InvalidInput(f"items file {path} cannot be read: {_one_line(error)}") from error
    return Catalogue.from_table(_with_string_ids(table, path))


def _read_json_lines(path: Path) -> pa.Table:
    options = pyarrow.json.ReadOptions(block_size=_JSON_BLOCK_BYTES)
    if path.stat().st_size == 0:
        raise InvalidInput(f"items file {path} is empty: expected one JSON object a line")
    return pyarrow.json.read_json(path, read_options=options)


def _with_string_ids(table: pa.Table, path: Path) -> pa.Table:
    if "item_id" not in table.column_names:
        raise InvalidInput(f"items file {path} has columns {table.column_names}: expected item_id and title")
    if "title" not in table.column_names:
        table = table.append_column("title", pa.nulls(len(table), pa.string()))
    for name in ("item_id", "title"):
        column = table.column(name)
        if not pa.types.is_string(column.type):
            # ids and titles may be numbers in JSON; a number and its text are the same id
            position = table.column_names.index(name)
            table = table.set_column(position, name, column.cast(pa.string()))
    return table


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
