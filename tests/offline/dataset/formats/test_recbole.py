from pathlib import Path

import pyarrow.parquet as pq
import pytest

from model_store.errors import InvalidInput
from offline.dataset.dataset import Dataset
from offline.dataset.formats import recbole
from offline.import_data import ImportOptions, import_source
from tests.offline.datasets import write_text

ITEMS = (
    "item_id:token\tmovie_title:token_seq\trelease_year:float\tvector:float_seq\tclass:token_seq\n"
    "i1\tA Long Day\t1995\t0.1 0.2\tDrama War\n"
    "i2\tNight\t\t0.3\t\n"
)
LOG = "user_id:token\titem_id:token\trating:float\ttimestamp:float\nu1\ti1\t4\t881250949\nu2\ti2\t3.5\t8.8125095e8\n"


def _import(folder: Path, *, items: str = ITEMS, log: str = LOG, max_bad: float = 0.0) -> Dataset:
    source = recbole.source(write_text(folder / "x.item", items), write_text(folder / "x.inter.gz", log))
    import_source(source, folder / "out", ImportOptions(max_bad))
    return Dataset.open(folder / "out")


def test_columns_are_typed_by_the_header(tmp_path: Path) -> None:
    dataset = _import(tmp_path)

    assert dataset.catalogue().fields(1) == {"title": "A Long Day", "release_year": 1995.0, "class": "Drama War"}
    assert dataset.catalogue().fields(2) == {"title": "Night"}
    rows = pq.read_table(tmp_path / "out/interactions.parquet").to_pylist()
    assert sorted((row["user_id"], row["timestamp"], row["rating"]) for row in rows) == [
        ("u1", 881250949, 4.0),
        ("u2", 881250950, 3.5),
    ]


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("user_id\titem_id:token\ttimestamp:float", "column 'user_id' is not typed"),
        ("user_id:token\titem_id:token", r"no column \['timestamp'\]"),
        ("user_id:token\titem_id:text\ttimestamp:float", "column 'item_id:text' is not typed"),
        ("", "is not typed"),
    ],
)
def test_headers_that_do_not_fit_are_refused(tmp_path: Path, header: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=f"line 1: .*{message}"):
        _import(tmp_path, log=f"{header}\n")


def test_rows_that_do_not_fit_the_header_are_bad(tmp_path: Path) -> None:
    dataset = _import(tmp_path, items=f"{ITEMS}i4\tX\n", max_bad=0.5)

    assert "2 fields, expected 5" in dataset.report["files"][0]["samples"][0]["reason"]


@pytest.mark.parametrize("price", ["—", "$7.00", "late", "7,00", "1.2.3"])
def test_what_is_no_number_where_the_header_says_float_is_missing_and_counted(tmp_path: Path, price: str) -> None:
    items = f"item_id:token\ttitle:token_seq\tprice:float\ni1\tA\t{price}\ni2\tB\t7\n"
    log = f"user_id:token\titem_id:token\trating:float\ttimestamp:float\nu1\ti1\t{price}\t5\nu2\ti2\t3\t6\n"

    dataset = _import(tmp_path, items=items, log=log)

    assert dataset.items.column("price").to_pylist() == [None, 7.0]
    assert [file["findings"]["missing_numbers"]["count"] for file in dataset.report["files"]] == [1, 1]
    assert any(f"x.item, in line 2: price is '{price}'" in sentence for sentence in dataset.report["sentences"])
