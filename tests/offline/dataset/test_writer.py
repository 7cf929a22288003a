import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model_store.errors import InvalidInput
from offline.dataset import log_sort
from offline.dataset.dataset import INTERACTION_SCHEMA, Dataset
from offline.dataset.formats.rows import Interaction, Item
from offline.dataset.writer import WriteOptions, write_dataset

ITEMS = [Item(item_id, item_id.upper(), {}) for item_id in "abcdef"]
TWO_USERS = [Interaction("u1", "a", 5), Interaction("u2", "b", 6)]


def _write(
    out: Path,
    items: list[Item] | None = None,
    interactions: list[Interaction] | None = None,
    *,
    overwrite: bool = False,
) -> Dataset:
    write_dataset(
        out,
        items=ITEMS if items is None else items,
        interactions=TWO_USERS if interactions is None else interactions,
        options=WriteOptions(source="test", overwrite=overwrite),
    )
    return Dataset.open(out)


def test_interactions_come_out_by_user_then_time_then_input_order(tmp_path: Path) -> None:
    _write(
        tmp_path / "out",
        interactions=[
            Interaction("u1", "c", 9, "view", 1.5),
            Interaction("u2", "a", 3),
            Interaction("u1", "b", 2, "cart"),
            Interaction("u1", "a", 9, "buy"),
        ],
    )

    table = pq.read_table(tmp_path / "out/interactions.parquet")

    assert table.schema.equals(INTERACTION_SCHEMA)
    assert [row for row in table.to_pylist() if row["user_id"] == "u1"] == [
        {"user_id": "u1", "item_id": "b", "timestamp": 2, "type": "cart", "rating": None},
        {"user_id": "u1", "item_id": "c", "timestamp": 9, "type": "view", "rating": 1.5},
        {"user_id": "u1", "item_id": "a", "timestamp": 9, "type": "buy", "rating": None},
    ]


_LOGS = st.lists(
    st.tuples(st.sampled_from(["u", "v", "ü", "user 4"]), st.sampled_from("abcdef"), st.integers(0, 4)),
    min_size=1,
    max_size=40,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(log=_LOGS, rows_per_spill=st.integers(1, 7))
def test_external_sort_equals_a_stable_sort_in_memory(
    log: list[tuple[str, str, int]],
    rows_per_spill: int,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(log_sort, "_ROWS_PER_SPILL", rows_per_spill)
    monkeypatch.setattr(log_sort, "_ROWS_PER_GROUP", 5)
    log = [*log, ("other", "a", 0)]
    out = tmp_path_factory.mktemp("sort") / "out"
    if len({user for user, _, _ in log}) < 2:
        return
    expected = defaultdict(list)
    for user, item, time in sorted(log, key=lambda event: event[2]):
        expected[user].append((item, time))

    dataset = _write(out, interactions=[Interaction(user, item, time) for user, item, time in log])

    sequences = dataset.sequences()
    ids = dataset.catalogue().item_ids
    found = {
        user: [
            (ids[index - 1], time)
            for index, time in zip(*(array.tolist() for array in _arrays(sequences.user(row))), strict=True)
        ]
        for row, user in enumerate(sequences.user_ids)
    }
    assert found == expected
    assert len(sequences) == len(expected) == dataset.description.num_users


def _arrays(history: object) -> tuple:  # type: ignore[type-arg]
    return history.item_indices, history.timestamps  # type: ignore[attr-defined]


def test_ranks_are_told_from_seconds_by_their_size(tmp_path: Path) -> None:
    ranks = _write(tmp_path / "ranks", interactions=[Interaction("u1", "a", 0), Interaction("u2", "b", 199)])
    seconds = _write(
        tmp_path / "seconds", interactions=[Interaction("u1", "a", 0), Interaction("u2", "b", 874_965_478)]
    )

    assert (ranks.time_unit, seconds.time_unit) == ("rank", "seconds")


def test_interactions_of_unknown_items_are_left_out_and_counted(tmp_path: Path) -> None:
    dataset = _write(tmp_path / "out", interactions=[*TWO_USERS, Interaction("u3", "unknown", 7)])

    assert dataset.report["interactions_of_unknown_items"] == 1
    assert dataset.sequences().user_ids == ["u1", "u2"] or dataset.sequences().user_ids == ["u2", "u1"]


def test_only_interacted_items_are_kept_when_asked(tmp_path: Path) -> None:
    write_dataset(
        tmp_path / "out",
        items=ITEMS,
        interactions=[Interaction("u1", "e", 5), Interaction("u2", "b", 6)],
        options=WriteOptions(source="test", only_interacted=True),
    )

    dataset = Dataset.open(tmp_path / "out")
    assert list(dataset.catalogue().item_ids) == ["b", "e"]
    assert dataset.catalogue().popularity.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("items", "interactions", "message"),
    [
        ([], TWO_USERS, "the catalogue is empty: 0 items, expected at least 1"),
        ([*ITEMS, ITEMS[1]], TWO_USERS, "item_id 'b' occurs twice, first as item 2: expected once"),
        (ITEMS, [], "there are no interactions, expected at least 1"),
        (ITEMS, TWO_USERS[:1], "the dataset has 1 user, expected at least 2"),
        (
            ITEMS,
            [Interaction("u1", "x", 1)],
            "no interactions, expected at least 1; 1 are of items that are not among the items",
        ),
    ],
)
def test_what_is_no_dataset_is_refused_and_leaves_nothing(
    tmp_path: Path, items: list[Item], interactions: list[Interaction], message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        _write(tmp_path / "out", items, interactions)

    assert list(tmp_path.iterdir()) == []


def test_a_dataset_is_replaced_only_when_asked(tmp_path: Path) -> None:
    _write(tmp_path / "out")
    more = [*TWO_USERS, Interaction("u3", "c", 7)]

    with pytest.raises(InvalidInput, match="has a dataset already"):
        _write(tmp_path / "out", interactions=more)
    assert Dataset.open(tmp_path / "out").description.num_users == 2

    assert _write(tmp_path / "out", interactions=more, overwrite=True).description.num_users == 3
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_failed_replacement_keeps_the_old_dataset(tmp_path: Path) -> None:
    _write(tmp_path / "out")

    with pytest.raises(InvalidInput, match="the catalogue is empty"):
        _write(tmp_path / "out", items=[], overwrite=True)

    assert Dataset.open(tmp_path / "out").description.num_users == 2


def test_what_is_not_a_dataset_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.txt").write_text("precious")
    (tmp_path / "file").write_text("precious")

    with pytest.raises(InvalidInput, match="something else than a dataset"):
        _write(tmp_path / "out", overwrite=True)
    with pytest.raises(InvalidInput, match="is a file, expected a directory"):
        _write(tmp_path / "file", overwrite=True)


def test_what_a_killed_import_left_is_removed_by_the_next(tmp_path: Path) -> None:
    finished = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True)
    dead = tmp_path / f".out.{int(finished.stdout)}.abc"
    alive = tmp_path / f".out.{os.getpid()}.abc"
    dead.mkdir()
    alive.mkdir()

    _write(tmp_path / "out")

    assert not dead.exists()
    assert alive.exists()


def _rows(num_rows: int) -> Iterator[Interaction]:
    for number in range(num_rows):
        yield Interaction(f"user-{number * 7919 % 1_000_003}", "abcdef"[number % 6], 1_700_000_000 + number % 99_991)


def _write_log(path: Path, num_rows: int) -> None:
    with path.open("w") as file:
        file.write("user_id,item_id,timestamp\n")
        file.writelines(f"{row.user_id},{row.item_id},{row.timestamp}\n" for row in _rows(num_rows))


_IMPORT = """
import json, resource, sys
from pathlib import Path
from offline.dataset.formats import canonical
from offline.import_data import ImportOptions, import_source
folder = Path(sys.argv[1])
source = canonical.source(folder / "items.jsonl", folder / "interactions.csv")
description = import_source(source, folder / "out", ImportOptions())
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"rows": description.num_interactions, "peak_mib": peak / 1024}))
"""


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_memory_stays_bounded_on_ten_million_rows(tmp_path: Path) -> None:
    peaks = {}
    for num_rows in (1_000_000, 10_000_000):
        folder = tmp_path / str(num_rows)
        folder.mkdir()
        (folder / "items.jsonl").write_text("".join(json.dumps({"item_id": i.item_id}) + "\n" for i in ITEMS))
        _write_log(folder / "interactions.csv", num_rows)
        done = subprocess.run([sys.executable, "-c", _IMPORT, str(folder)], capture_output=True, text=True, check=True)
        figures = json.loads(done.stdout.splitlines()[-1])
        assert figures["rows"] == num_rows
        peaks[num_rows] = figures["peak_mib"]

    # ten times the rows: one partition and the sorted rows that wait for a row group grow, nothing else does
    assert peaks[10_000_000] < 500, peaks
    assert peaks[10_000_000] < peaks[1_000_000] + 150, peaks
