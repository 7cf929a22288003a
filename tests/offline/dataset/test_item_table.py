from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from model_store.errors import InvalidInput
from offline.dataset import item_table
from offline.dataset.formats.rows import Item
from offline.dataset.item_table import ItemTable


def _column(values: list[Any], name: str = "value") -> pa.ChunkedArray:
    table = ItemTable()
    for number, value in enumerate(values):
        table.add(Item(str(number), "", {} if value is None else {name: value}))
    return table.to_arrow(np.ones(len(values), dtype=bool)).column(name)


# whether values of different types meet in one chunk or in several must not matter
@pytest.mark.parametrize("rows_per_chunk", [1, 2, 100])
@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([1, None, 3], pa.int64(), [1, None, 3]),
        ([1, 2.5, None], pa.float64(), [1.0, 2.5, None]),
        ([True, None, False], pa.bool_(), [True, None, False]),
        ([["a", "b"], None, ["c"]], pa.list_(pa.string()), [["a", "b"], None, ["c"]]),
        ([["a"], "b", None], pa.list_(pa.string()), [["a"], ["b"], None]),
        ([1, "x", True], pa.string(), ["1", "x", "true"]),
    ],
)
def test_a_column_gets_its_type_from_its_values(
    monkeypatch: pytest.MonkeyPatch, rows_per_chunk: int, values: list[Any], kind: pa.DataType, expected: list[Any]
) -> None:
    monkeypatch.setattr(item_table, "_ROWS_PER_CHUNK", rows_per_chunk)

    column = _column(values)

    assert column.type == kind
    assert column.to_pylist() == expected


@pytest.mark.parametrize("name", ["popularity", "content_hash", "title", "item_id"])
def test_an_attribute_does_not_pass_for_a_column_with_a_meaning(name: str) -> None:
    table = ItemTable()
    table.add(Item("a", "A", {name: "often"}))

    columns = table.to_arrow(np.ones(1, dtype=bool)).to_pylist()[0]

    assert columns == {"item_id": "a", "title": "A", f"{name}_attribute": "often"}


def test_more_attributes_than_columns_make_sense_are_refused() -> None:
    table = ItemTable()
    for number in range(300):
        table.add(Item(str(number), "", {f"attribute {number}": 1}))

    with pytest.raises(InvalidInput, match="more than 256 different attributes"):
        table.to_arrow(np.ones(300, dtype=bool))
