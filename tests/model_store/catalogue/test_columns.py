import numpy as np
import pyarrow as pa
import pytest

from model_store.catalogue.columns import element_type, list_elements

WORDS = ["red", None, "blue", "red"]
LISTS = [["a", "b"], None, [], ["a", None]]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_plain_values_keep_their_rows_however_they_are_encoded(kind: pa.DataType) -> None:
    column = pa.chunked_array([pa.array(WORDS[:1]).cast(kind), pa.array(WORDS[1:]).cast(kind)])

    values, rows = list_elements(column)

    assert values.to_pylist() == WORDS
    assert rows.tolist() == [0, 1, 2, 3]
    assert values.type == element_type(column.type)


@pytest.mark.parametrize("element", [pa.string(), pa.dictionary(pa.int32(), pa.string())])
@pytest.mark.parametrize("of", [pa.list_, pa.large_list])
def test_lists_give_their_elements_with_the_row_of_each(of: object, element: pa.DataType) -> None:
    kind = of(element)  # type: ignore[operator]
    column = pa.chunked_array([pa.array(LISTS[:2], kind), pa.array(LISTS[2:], kind)])

    values, rows = list_elements(column)

    assert values.to_pylist() == ["a", "b", "a", None]
    assert rows.tolist() == [0, 0, 3, 3]
    assert values.type == element_type(kind)


def test_a_missing_list_of_fixed_size_has_no_elements() -> None:
    column = pa.chunked_array([pa.array([[1, 2], None, [3, None]], pa.list_(pa.int64(), 2))])

    values, rows = list_elements(column)

    assert values.to_pylist() == [1, 2, 3, None]
    assert rows.tolist() == [0, 0, 2, 2]


def test_a_slice_of_a_list_column_counts_rows_from_its_own_start() -> None:
    column = pa.chunked_array([pa.array([["x"], ["a"], ["b", "c"]]).slice(1)])

    values, rows = list_elements(column)

    assert values.to_pylist() == ["a", "b", "c"]
    assert rows.tolist() == [0, 1, 1]


@pytest.mark.parametrize("kind", [pa.string(), pa.list_(pa.int64())])
def test_a_column_without_rows_has_no_elements(kind: pa.DataType) -> None:
    values, rows = list_elements(pa.chunked_array([], type=kind))

    assert (len(values), values.type) == (0, element_type(kind))
    assert rows.dtype == np.int64
    assert len(rows) == 0
