from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model_store.catalogue.catalogue import Catalogue
from model_store.errors import ArtifactCorrupt, ArtifactNotFound, InvalidInput


def table(**changes: Any) -> pa.Table:
    columns = {
        "item_id": ["a", "b", "c", "d"],
        "title": ["Anvil", None, "Cup", "Dice"],
        "category": ["Tools", "Toys", None, "Toys"],
        "price": [9.5, float("nan"), 2.0, None],
        "tags": [["x", "y"], [], None, ["z"]],
        "popularity": pa.array([3, None, 7, 3], pa.int64()),
        "content_hash": ["1", "2", "3", "4"],
    }
    return pa.table({name: value for name, value in {**columns, **changes}.items() if value is not None})


@pytest.fixture
def catalogue() -> Catalogue:
    return Catalogue.from_table(table())


def test_items_are_counted_from_one_and_zero_is_unknown(catalogue: Catalogue) -> None:
    assert len(catalogue) == 4
    assert list(catalogue.item_ids) == ["a", "b", "c", "d"]
    assert [catalogue.index_of(item_id) for item_id in ("a", "d", "zzz", "")] == [1, 4, 0, 0]
    indices = catalogue.indices_of(["c", "zzz", "a"])
    assert indices.tolist() == [3, 0, 1]
    assert indices.dtype == np.int64
    assert catalogue.indices_of([]).shape == (0,)
    assert [catalogue.id_of(item_index) for item_index in (1, 4)] == ["a", "d"]
    assert "a" in catalogue
    assert "zzz" not in catalogue


def test_fields_are_those_that_have_a_value(catalogue: Catalogue) -> None:
    assert catalogue.fields(1) == {"title": "Anvil", "category": "Tools", "price": 9.5, "tags": ["x", "y"]}
    assert catalogue.fields(2) == {"category": "Toys", "tags": []}
    assert catalogue.fields(4) == {"title": "Dice", "category": "Toys", "tags": ["z"]}


def test_fields_can_be_chosen_and_come_in_the_order_asked(catalogue: Catalogue) -> None:
    assert list(catalogue.fields(1, ["price", "item_id"]).items()) == [("price", 9.5), ("item_id", "a")]
    assert catalogue.fields(3, ["category"]) == {}
    with pytest.raises(InvalidInput, match="'colour'"):
        catalogue.fields(1, ["colour"])


def test_values_of_a_column_are_the_same_however_often_they_are_asked_for(
    catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model_store.catalogue.catalogue._MAX_KEPT_VALUES", 2)
    for indices in ([1, 3], [3, 1, 1], [2], [4, 2, 1, 3], []):
        rows = [index - 1 for index in indices]
        for name in ("title", "tags", "popularity"):
            expected = [catalogue.column(name)[row].as_py() for row in rows]
            assert catalogue.values(name, indices) == expected
    with pytest.raises(InvalidInput, match="no field 'colour'"):
        catalogue.values("colour", [1])


def test_attributes_are_neither_title_nor_bookkeeping(catalogue: Catalogue) -> None:
    assert catalogue.attribute_names == ["category", "price", "tags"]
    assert catalogue.column("category").to_pylist() == ["Tools", "Toys", None, "Toys"]


def test_the_most_popular_come_first_and_equal_ones_by_row(catalogue: Catalogue) -> None:
    assert catalogue.popularity.tolist() == [3, 0, 7, 3]
    assert catalogue.popularity.dtype == np.int64
    assert catalogue.popular().tolist() == [3, 1, 4, 2]
    assert catalogue.popular() is catalogue.popular()


def test_popularity_may_be_unknown() -> None:
    catalogue = Catalogue.from_table(table(popularity=None))
    assert catalogue.popularity.tolist() == [0, 0, 0, 0]
    assert catalogue.popular().tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("item_index", [0, -1, 5])
def test_an_index_out_of_range_is_refused(catalogue: Catalogue, item_index: int) -> None:
    for call in (catalogue.id_of, catalogue.fields):
        with pytest.raises(InvalidInput, match=f"{item_index} is not in 1..4"):
            call(item_index)


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (table().slice(0, 0), "empty"),
        (table(item_id=None), "no column 'item_id'"),
        (table(title=None), "no column 'title'"),
        (table(item_id=["a", "b", "a", "d"]), "'a' occurs twice, as items 1 and 3"),
        (table(item_id=["a", "", "c", "d"]), "item 2 has an empty item_id"),
        (table(item_id=["a", "b", None, "d"]), "item 3 has an empty item_id"),
        (table(item_id=[1, 2, 3, 4]), "'item_id' is int64"),
        (table(popularity=["3", "0", "7", "3"]), "'popularity' is string"),
    ],
)
def test_tables_that_are_no_catalogue_are_refused(items: pa.Table, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        Catalogue.from_table(items)


@pytest.mark.parametrize("item_id_type", [pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_other_ways_to_hold_strings_are_fine(item_id_type: pa.DataType) -> None:
    ids = pa.array(["a", "b", "c", "d"]).cast(item_id_type)
    assert Catalogue.from_table(table(item_id=ids)).index_of("c") == 3


def test_a_parquet_file_gives_the_same_catalogue(catalogue: Catalogue, tmp_path: Path) -> None:
    path = tmp_path / "items.parquet"
    with pytest.raises(ArtifactNotFound, match=r"items\.parquet"):
        Catalogue.from_parquet(path)
    pq.write_table(catalogue.table, path, row_group_size=2)

    loaded = Catalogue.from_parquet(path)

    assert [loaded.fields(row) for row in (1, 4)] == [catalogue.fields(row) for row in (1, 4)]
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ArtifactCorrupt, match=r"items\.parquet"):
        Catalogue.from_parquet(path)
