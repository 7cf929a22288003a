"""``reindex --items`` reads what the importer reads, in the same way; but the first bad line is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model_store.errors import InvalidInput
from offline.dataset.catalogue_files import read_catalogue
from offline.dataset.dataset import Dataset
from offline.dataset.formats import canonical
from offline.import_data import ImportOptions, import_source
from tests.offline.datasets import write_json_lines, write_text

ITEMS: list[dict[str, Any]] = [
    {"item_id": "2021-01-20", "title": "1999-12-31", "since": "2020-05-01", "price": 7, "stock": "3"},
    {"item_id": "2021-01-21T10:00:00Z", "title": 1984, "since": "2020-05-02T10:00:00", "price": 7.5, "stock": 4},
    {"item_id": 7, "tags": ["a", 1], "since": None, "stock": True, "size": {"w": 1}, "nothing": None},
    {"item_id": "00101", "title": "Salt &amp;amp; <b>Pepper</b>", "tags": "single"},
]


@pytest.mark.parametrize("name", ["items.jsonl", "items.jsonl.gz"])
def test_both_ways_to_a_catalogue_give_the_same_items(tmp_path: Path, name: str) -> None:
    items = write_json_lines(tmp_path / name, ITEMS)
    log = write_text(tmp_path / "log.csv", "user_id,item_id,timestamp\nu,7,1\nv,7,2\n")
    import_source(canonical.source(items, log), tmp_path / "out", ImportOptions())

    read = read_catalogue(items)

    assert read.table.equals(Dataset.open(tmp_path / "out").items)
    assert list(read.item_ids) == ["2021-01-20", "2021-01-21T10:00:00Z", "7", "00101"]
    assert read.fields(1) == {"title": "1999-12-31", "since": "2020-05-01", "price": 7.0, "stock": "3"}
    assert read.column("since").type == pa.string()
    assert read.fields(4) == {"title": "Salt & Pepper", "tags": ["single"]}


def test_a_popularity_that_is_given_is_kept(tmp_path: Path) -> None:
    rows = [{"item_id": "a", "popularity": 3}, {"item_id": "b"}, {"item_id": "c", "popularity": 9.0}]

    catalogue = read_catalogue(write_json_lines(tmp_path / "items.jsonl", rows))

    assert catalogue.popularity.tolist() == [3, 0, 9]
    assert catalogue.popular().tolist() == [3, 1, 2]
    assert catalogue.attribute_names == []


def test_without_any_popularity_there_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    catalogue = read_catalogue(write_json_lines(tmp_path / "items.jsonl", [{"item_id": "a"}]))

    assert catalogue.popularity.tolist() == [0]
    assert "items.jsonl has no popularity" in caplog.text


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (
            b'{"item_id": 2.5}',
            r"item_id is 2\.5, expected a text or a whole number of at most 64 bits; write it in quotes",
        ),
        (b'{"item_id": 12345678901234567890123}', "item_id is 1.23.*write it in quotes"),
        (b'{"item_id": "b", "title": ["A", "B"]}', r"title is \['A', 'B'\], expected a text"),
        (b'{"item_id": "b", "price": 1, "price": 2}', "the key 'price' occurs twice in one object"),
        (b'{"item_id": "b", "size": {"w": 1, "w": 2}}', "the key 'w' occurs twice in one object"),
        ('{"item_id": "Café"}'.encode("latin-1"), "not utf-8 text: .* convert it: iconv -f LATIN1"),
        (b'{"item_id": "b", "price": NaN}', "not JSON: NaN is no number in JSON, expected a number or null"),
        (b'{"item_id": "b", "price": -Infinity}', "not JSON: -Infinity is no number in JSON"),
        (b'{"item_id": "b", "popularity": "often"}', "popularity is 'often', expected a whole number"),
        (b'{"item_id": "b", "popularity": -1}', "popularity is -1, expected a whole number"),
        (b'{"item_id": "a"}', "item_id 'a' occurs twice, first as item 1"),
        (b'["b"]', "a JSON list, expected an object"),
        (b'{"item_id": "b"', "not JSON: "),
    ],
)
def test_a_bad_line_is_refused_in_one_line_with_file_and_line(tmp_path: Path, line: bytes, reason: str) -> None:
    path = tmp_path / "items.jsonl"
    path.write_bytes(b'{"item_id": "a"}\n' + line + b"\n")

    with pytest.raises(InvalidInput, match=rf"items cannot be read: .*items\.jsonl, line 2: {reason}") as caught:
        read_catalogue(path)

    assert "\n" not in str(caught.value)


def test_inner_objects_with_the_keys_of_outer_ones_are_no_repetition(tmp_path: Path) -> None:
    row = {"item_id": "a", "text": 'so-called "x": "y"', "size": {"item_id": 1}, "sizes": [{"w": 1}, {"w": 2}]}

    catalogue = read_catalogue(write_text(tmp_path / "items.jsonl", json.dumps(row)))

    assert catalogue.fields(1)["sizes"] == ['{"w": 1}', '{"w": 2}']


@pytest.mark.parametrize(
    ("column", "message"),
    [(pa.array([["a"]]), "column 'item_id' is list"), (pa.array([2.5]), "column 'item_id' is double")],
)
def test_parquet_columns_that_are_no_ids_are_refused(tmp_path: Path, column: pa.Array, message: str) -> None:
    pq.write_table(pa.table({"item_id": column}), tmp_path / "items.parquet")

    with pytest.raises(InvalidInput, match=message):
        read_catalogue(tmp_path / "items.parquet")


def test_whole_numbers_in_parquet_become_ids(tmp_path: Path) -> None:
    pq.write_table(pa.table({"item_id": np.array([3, 4])}), tmp_path / "items.parquet")

    assert list(read_catalogue(tmp_path / "items.parquet").item_ids) == ["3", "4"]
