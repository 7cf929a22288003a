import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from model_store.errors import InvalidInput
from offline.dataset.dataset import Dataset
from offline.import_data import app
from tests.offline.datasets import write_json_lines, write_text

ITEMS: list[dict[str, Any]] = [
    {"item_id": "a", "title": "Lamp", "price": 9.5},
    {"item_id": "b", "title": "Desk", "tags": ["oak", "large"]},
    {"item_id": 3, "title": None},
]
GOOD = "user_id,item_id,timestamp\nu1,a,1700000000\nu1,b,1700000001\nu2,3,1700000002\n"


def _import(folder: Path, *options: str, items: Any = ITEMS, interactions: str = GOOD) -> Dataset:
    item_file = write_json_lines(folder / "items.jsonl", items)
    log = write_text(folder / "interactions.csv", interactions)
    arguments = ["canonical", "--items", str(item_file), "--interactions", str(log), "--out", str(folder / "out")]
    result = CliRunner().invoke(app, [*arguments, *options])
    if result.exception:
        raise result.exception
    return Dataset.open(folder / "out")


def _rows(dataset: Dataset) -> list[tuple[Any, ...]]:
    table = pq.read_table(dataset.directory / "interactions.parquet")
    return sorted((row["user_id"], row["item_id"], row["timestamp"]) for row in table.to_pylist())


def test_canonical_form_comes_out_typed(tmp_path: Path) -> None:
    dataset = _import(tmp_path)

    assert _rows(dataset) == [("u1", "a", 1700000000), ("u1", "b", 1700000001), ("u2", "3", 1700000002)]
    assert dataset.time_unit == "seconds"
    assert dataset.items.to_pylist() == [
        {"item_id": "a", "title": "Lamp", "price": 9.5, "tags": None},
        {"item_id": "b", "title": "Desk", "price": None, "tags": ["oak", "large"]},
        {"item_id": "3", "title": "", "price": None, "tags": None},
    ]


def test_types_ratings_and_columns_in_any_order_are_read(tmp_path: Path) -> None:
    dataset = _import(
        tmp_path, interactions="rating,timestamp,other,type,item_id,user_id\n4.5,7,?,buy,a,u1\n,8.9,?,,b,u2\n"
    )

    rows = pq.read_table(dataset.directory / "interactions.parquet").to_pylist()
    assert sorted(rows, key=lambda row: row["user_id"]) == [
        {"user_id": "u1", "item_id": "a", "timestamp": 7, "type": "buy", "rating": 4.5},
        {"user_id": "u2", "item_id": "b", "timestamp": 8, "type": None, "rating": None},
    ]
    assert dataset.time_unit == "rank"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("u1,a", "2 fields, expected 3"),
        ("u1,a,soon", "timestamp 'soon' is not a number"),
        ("u1,a,nan", "timestamp 'nan' is not a number"),
        ("u1,a,inf", "timestamp 'inf' is not a number"),
        ("u1,a,-1", "timestamp '-1' is not between the years 1970 and 2100"),
        ("u1,a,884541600000", "not between the years 1970 and 2100 (milliseconds? use --time-unit milliseconds)"),
        (f"u1,a,{'9' * 5000}", "is not a number"),
        (",a,5", "user_id is empty"),
        ("u1, ,5", "item_id is empty"),
        (f"{'u' * 300},a,5", "user_id has 300 characters, expected at most 256"),
        ('"u1,a,5', "not CSV"),
    ],
)
def test_a_bad_row_is_counted_and_sampled_with_its_line(tmp_path: Path, row: str, reason: str) -> None:
    dataset = _import(tmp_path, "--max-bad", "0.25", interactions=f"{GOOD}{row}\n")

    log = dataset.report["files"][1]
    assert (log["rows"], log["bad_rows"]) == (4, 1)
    assert log["samples"][0]["line"] == 5
    assert reason in log["samples"][0]["reason"]
    assert len(_rows(dataset)) == 3


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        ({"item_id": "x", "title": "T" * 2_000_000}, "a title of 2000000 characters, expected at most 10000"),
        ({"item_id": None, "title": "T"}, "item_id is None, expected a text or a whole number"),
        ({"item_id": True}, "item_id is True"),
        ({"title": "T"}, "no item_id, only ['title']"),
        (["x"], "a JSON list, expected an object"),
    ],
)
def test_a_bad_item_is_counted_and_sampled_with_its_line(tmp_path: Path, item: Any, reason: str) -> None:
    dataset = _import(tmp_path, "--max-bad", "0.25", items=[*ITEMS, item])

    log = dataset.report["files"][0]
    assert (log["rows"], log["bad_rows"]) == (4, 1)
    assert log["samples"][0]["line"] == 4
    assert reason in log["samples"][0]["reason"]
    assert dataset.description.num_items == 3


def test_past_the_limit_the_job_fails_naming_file_and_line_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"interactions\.csv, line 5: timestamp 'x' is not a number; 1 of 4 rows"):
        _import(tmp_path, interactions=GOOD + "u1,a,x\n")

    assert sorted(path.name for path in tmp_path.iterdir()) == ["interactions.csv", "items.jsonl"]


def test_a_hopeless_file_is_given_up_early(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="1001 of 1001 rows are bad"):
        _import(tmp_path, interactions="user_id,item_id,timestamp\n" + "u1,a,x\n" * 50_000)


def test_milliseconds_become_seconds_when_told(tmp_path: Path) -> None:
    dataset = _import(tmp_path, "--time-unit", "milliseconds", interactions=re.sub(r"(\d{10})", r"\g<1>999", GOOD))

    assert _rows(dataset)[0] == ("u1", "a", 1_700_000_000)


def test_duplicate_item_ids_are_refused_with_file_and_line(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"items\.jsonl, line 4: item_id 'a' occurs twice, first as item 1"):
        _import(tmp_path, items=[*ITEMS, ITEMS[0]])


def test_a_header_without_the_columns_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"line 1: the header is \['user', 'item'\]"):
        _import(tmp_path, interactions="user,item\nu1,a\n")


def test_missing_and_damaged_files_are_refused_by_name(tmp_path: Path) -> None:
    arguments = [
        "canonical",
        "--items",
        str(tmp_path / "no.jsonl"),
        "--interactions",
        "x",
        "--out",
        str(tmp_path / "o"),
    ]
    assert "no.jsonl does not exist" in str(CliRunner().invoke(app, arguments).exception)

    packed = write_text(tmp_path / "items.jsonl.gz", "".join(json.dumps(item) + "\n" for item in ITEMS))
    packed.write_bytes(packed.read_bytes()[:-12])
    arguments[2] = str(packed)
    assert "items.jsonl.gz cannot be read" in str(CliRunner().invoke(app, arguments).exception)


def test_the_command_ends_with_a_json_line_or_a_one_line_reason(tmp_path: Path) -> None:
    items = write_json_lines(tmp_path / "items.jsonl", ITEMS)
    log = write_text(tmp_path / "log.csv.gz", GOOD)
    command = [sys.executable, "-m", "offline.import_data", "canonical", "--items", items, "--interactions", log]

    good = subprocess.run([*command, "--out", tmp_path / "out"], capture_output=True, text=True)
    again = subprocess.run([*command, "--out", tmp_path / "out"], capture_output=True, text=True)

    assert good.returncode == 0
    assert json.loads(good.stdout.splitlines()[-1])["num_interactions"] == 3
    assert again.returncode == 2
    assert again.stderr.splitlines()[-1].startswith("error: ")
    assert "has a dataset already" in again.stderr.splitlines()[-1]
    assert again.stdout == ""


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "time_unit", "users", "items", "interactions"),
    [
        ("amazon_beauty_2014", "rank", 22_363, 12_101, 198_502),
        ("movielens_100k", "seconds", 943, 1_682, 100_000),
    ],
)
def test_real_datasets_import_whole(
    tmp_path: Path, name: str, time_unit: str, users: int, items: int, interactions: int
) -> None:
    root = os.environ.get("HATSTAND_TEST_DATA")
    if not root or not (Path(root) / name).is_dir():
        pytest.skip(f"HATSTAND_TEST_DATA is unset, or has no folder {name}")
    folder = Path(root) / name
    arguments = ["canonical", "--items", folder / "items.jsonl.gz", "--interactions", folder / "interactions.csv.gz"]
    result = CliRunner().invoke(app, [*map(str, arguments), "--max-bad", "0", "--out", str(tmp_path / "out")])

    assert result.exit_code == 0, result.exception
    dataset = Dataset.open(tmp_path / "out")
    sequences = dataset.sequences()
    assert dataset.time_unit == time_unit
    assert (len(sequences), dataset.items.num_rows, len(sequences.timestamps)) == (users, items, interactions)
    steps = sequences.timestamps[1:] - sequences.timestamps[:-1]
    is_within_user = [True] * len(steps)
    for start in sequences.offsets[1:-1].tolist():
        is_within_user[start - 1] = False
    assert (steps[is_within_user] >= 0).all()
