"""What the service was told, as a dataset: merges and erasures hold, whenever they came."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from model_store.errors import InvalidInput
from model_store.people.owner import Owner
from offline.dataset.dataset import Dataset
from offline.import_data import app
from service.people.history_store import Event
from tests.offline.datasets import write_json_lines, write_text
from tests.offline.export.log_writing import append, clicks, export, with_store


def _imported(out: Path, *options: str) -> list[tuple[str, str, int, str | None, float | None]]:
    items = write_json_lines(out / "items.jsonl", [{"item_id": f"i{number}"} for number in range(20)])
    arguments = ["events", "--items", str(items), "--events", str(out), "--out", str(out / "dataset"), "--overwrite"]
    result = CliRunner().invoke(app, [*arguments, *options])
    if result.exception:
        raise result.exception
    table = pq.read_table(Dataset.open(out / "dataset").directory / "interactions.parquet")
    return sorted(
        (row["user_id"], row["item_id"], row["timestamp"] - 1_700_000_000, row["type"], row["rating"])
        for row in table.to_pylist()
    )


def test_events_of_several_runs_become_one_dataset(url: str, tmp_path: Path) -> None:
    append(url, [*clicks("u1", [1, 2]), *clicks("u2", [1])])
    export(url, tmp_path, trim=True)
    append(url, [*clicks("u1", [3]), *clicks("s", [4], session=True)])
    append(url, [Event("b", Owner("u2"), "i5", 1_700_000_005, "purchase", properties={"rating": 4.5})])
    append(url, clicks("u2", [99]))  # an item that is not in the catalogue
    export(url, tmp_path, trim=True)
    assert _imported(tmp_path) == [
        ("session:s", "i4", 4, "click", None),
        ("u1", "i1", 1, "click", None),
        ("u1", "i2", 2, "click", None),
        ("u1", "i3", 3, "click", None),
        ("u2", "i1", 1, "click", None),
        ("u2", "i5", 5, "purchase", 4.5),
    ]
    assert Dataset.open(tmp_path / "dataset").time_unit == "seconds"


def test_some_types_only_and_what_was_before_the_service(url: str, tmp_path: Path) -> None:
    append(
        url,
        [Event("a", Owner("u1"), "i1", 1_700_000_001, "view"), Event("b", Owner("u1"), "i2", 1_700_000_002, "click")],
    )
    append(url, [Event("c", Owner("u2"), "i3", 1_700_000_003, "purchase")])
    export(url, tmp_path)
    before = write_text(tmp_path / "before.csv", "user_id,item_id,timestamp\nu1,i9,1600000000\nu0,i8,1600000001\n")
    found = _imported(tmp_path, "--type", "click", "--type", "purchase", "--interactions", str(before))
    assert [(user, item) for user, item, *_ in found] == [("u0", "i8"), ("u1", "i2"), ("u1", "i9"), ("u2", "i3")]


def test_a_merge_holds_for_runs_before_it_and_counts_an_event_once(url: str, tmp_path: Path) -> None:
    append(url, [*clicks("s", [1, 2], session=True), *clicks("u", [2, 7]), *clicks("other", [1])])
    export(url, tmp_path, trim=True)
    with_store(url, lambda store: store.merge(Owner("s", is_session=True), Owner("u")))
    append(url, clicks("s", [3], session=True))  # after the merge: a visitor again
    export(url, tmp_path, trim=True)
    assert [(user, item) for user, item, *_ in _imported(tmp_path)] == [
        ("other", "i1"),
        ("session:s", "i3"),
        ("u", "i1"),
        ("u", "i2"),  # reported for the session and for the user under one event id
        ("u", "i7"),
    ]


def test_an_erasure_holds_for_runs_before_it_and_for_merged_sessions(url: str, tmp_path: Path) -> None:
    append(url, [*clicks("gone", [1, 2]), *clicks("s", [3], session=True), *clicks("u1", [1]), *clicks("u2", [2])])
    with_store(url, lambda store: store.merge(Owner("s", is_session=True), Owner("gone")))
    export(url, tmp_path, trim=True)
    with_store(url, lambda store: store.erase(Owner("gone")))
    append(url, clicks("gone", [4]))  # comes back
    export(url, tmp_path, trim=True)
    assert [(user, item) for user, item, *_ in _imported(tmp_path)] == [("gone", "i4"), ("u1", "i1"), ("u2", "i2")]


def test_what_a_session_brings_to_a_user_who_was_erased_before_counts(url: str, tmp_path: Path) -> None:
    append(url, [*clicks("s", [1, 2], session=True), *clicks("u", [3]), *clicks("other", [4])])
    with_store(url, lambda store: store.erase(Owner("u")))
    with_store(url, lambda store: store.merge(Owner("s", is_session=True), Owner("u")))
    export(url, tmp_path)
    assert [(user, item) for user, item, *_ in _imported(tmp_path)] == [("other", "i4"), ("u", "i1"), ("u", "i2")]


@pytest.mark.parametrize("length", [240, 256])
def test_a_long_session_id_is_a_user_too(url: str, tmp_path: Path, length: int) -> None:
    append(url, [*clicks("s" * length, [1], session=True), *clicks("u" * 256, [2])])
    export(url, tmp_path)
    assert [item for _, item, *_ in _imported(tmp_path)] == ["i1", "i2"]


def test_a_directory_without_an_export_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"has no export\.json"):
        _imported(tmp_path)


def test_a_file_that_counts_and_is_missing_is_refused(url: str, tmp_path: Path) -> None:
    append(url, [*clicks("u1", [1]), *clicks("u2", [2])])
    export(url, tmp_path)
    (tmp_path / "events-000001.parquet").unlink()
    with pytest.raises(InvalidInput, match=r"events-000001\.parquet does not exist"):
        _imported(tmp_path)
