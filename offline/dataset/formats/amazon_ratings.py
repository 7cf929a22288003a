"""Amazon's ratings alone: CSV files of user, item, rating, timestamp (2014) or item, user, rating, timestamp (2018).

The files have no header, or one of those that copies of them were given. Without one, the ids say which column is
which: an item has ten characters that begin with B, or the ten digits of a book; hardly any user has.
"""

import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from model_store.errors import InvalidInput
from offline.dataset.formats.lines import csv_records
from offline.dataset.formats.rows import RawInteraction, RowLog

Record = tuple[int, list[str]]

_ITEM = re.compile(r"(?:B[0-9A-Z]{9}|[0-9]{9}[0-9X])\Z")
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?\Z")
_SAMPLE_ROWS = 1_000
_MIN_SHARE_OF_ITEMS = 0.9
_MAX_SHARE_OF_USERS = 0.1
_USER_NAMES = {"user", "userid", "user_id", "reviewerid"}
_ITEM_NAMES = {"item", "itemid", "item_id", "productid", "product_id", "asin"}


def has_ratings_alone(path: Path) -> bool:
    """Whether a CSV file is of this kind, by its first record.

    Raises:
        InvalidInput: The file cannot be read.
    """
    _, first = next(csv_records(path, RowLog(path, max_bad=1.0)), (0, []))
    if len(first) != 4:
        return False
    return _header_order(first) is not None or all(_NUMBER.match(field.strip()) for field in first[2:])


def read_ratings(path: Path, log: RowLog) -> Iterator[RawInteraction]:
    """Reads the interactions.

    Raises:
        InvalidInput: The ids do not say which of the first two columns is the user.
    """
    records = csv_records(path, log)
    sample = list(itertools.islice(records, _SAMPLE_ROWS))
    order = _header_order(sample[0][1]) if sample else None
    if order:
        del sample[0]
    else:
        order = _order_by_ids(path, [fields for _, fields in sample if len(fields) == 4])
    user, item = order
    for line, fields in itertools.chain(sample, records):
        if len(fields) != 4:
            log.add_bad(line, f"{len(fields)} fields, expected 4: user and item, rating, timestamp")
            continue
        yield RawInteraction(line, fields[user], fields[item], fields[3], "review", fields[2])


def _header_order(fields: Sequence[str]) -> tuple[int, int] | None:
    """Columns of user and item by the names of a header; None if the record is none."""
    names = [name.strip().lower() for name in fields[:2]]
    for user, item in ((0, 1), (1, 0)):
        if len(names) == 2 and names[user] in _USER_NAMES and names[item] in _ITEM_NAMES:
            return user, item
    return None


def _order_by_ids(path: Path, rows: list[list[str]]) -> tuple[int, int]:
    """Columns of user and item by how their ids look."""
    shares = [sum(bool(_ITEM.match(row[column].strip())) for row in rows) / max(len(rows), 1) for column in (0, 1)]
    for user, item in ((0, 1), (1, 0)):
        if shares[item] >= _MIN_SHARE_OF_ITEMS and shares[user] <= _MAX_SHARE_OF_USERS:
            return user, item
    raise InvalidInput(
        f"{path}: which column is the user and which the item cannot be told, for {shares[0]:.0%} of the first and "
        f"{shares[1]:.0%} of the second look like Amazon's item ids; expected user,item,rating,timestamp (2014) or "
        "item,user,rating,timestamp (2018), or a header of user_id and item_id"
    )
