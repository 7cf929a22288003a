import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model_store.errors import InvalidInput
from offline.dataset import dataset as dataset_module
from offline.dataset.dataset import INTERACTION_SCHEMA, Dataset
from offline.dataset.formats.rows import Interaction, Item
from offline.dataset.writer import WriteOptions, write_dataset


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    write_dataset(
        tmp_path / "dataset",
        items=[Item("x", "X", {"price": 1.5}), Item("y", "", {"tags": ["a", "b"]}), Item("z", "Z", {})],
        interactions=[
            Interaction("u1", "y", 10),
            Interaction("u2", "z", 5),
            Interaction("u1", "x", 9),
            Interaction("u2", "y", 6),
            Interaction("u2", "y", 7),
        ],
        options=WriteOptions(source="test"),
    )
    return tmp_path / "dataset"


def test_sequences_number_items_from_one_and_go_oldest_first(directory: Path) -> None:
    sequences = Dataset.open(directory).sequences()

    histories = {user: sequences.user(row) for row, user in enumerate(sequences.user_ids)}
    assert histories["u1"].item_indices.tolist() == [1, 2]
    assert histories["u1"].timestamps.tolist() == [9, 10]
    assert histories["u2"].item_indices.tolist() == [3, 2, 2]
    assert sorted(sequences.lengths.tolist()) == [2, 3]


def test_sequences_do_not_depend_on_the_size_of_reads(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Dataset.open(directory).sequences()
    monkeypatch.setattr(dataset_module, "_ROWS_PER_READ", 2)
    pieces = Dataset.open(directory).sequences()

    assert pieces.user_ids == whole.user_ids
    assert pieces.offsets.tolist() == whole.offsets.tolist()
    assert pieces.item_indices.tolist() == whole.item_indices.tolist()


def test_catalogue_has_typed_attributes_and_counts_interactions(directory: Path) -> None:
    catalogue = Dataset.open(directory).catalogue()

    assert catalogue.fields(1) == {"title": "X", "price": 1.5}
    assert catalogue.fields(2) == {"title": "", "tags": ["a", "b"]}
    assert catalogue.popularity.tolist() == [1, 3, 1]


def test_what_is_no_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="is not a dataset: it has no dataset.json"):
        Dataset.open(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not a dataset description"),
        ("[]", "is not a dataset description"),
        ('{"schema_version": 2}', "schema_version 2, expected at most 1"),
    ],
)
def test_bad_descriptions_are_refused_by_name(directory: Path, content: str, message: str) -> None:
    (directory / "dataset.json").write_text(content)

    with pytest.raises(InvalidInput, match=message):
        Dataset.open(directory)


def test_a_truncated_file_is_refused_by_name(directory: Path) -> None:
    file = directory / "interactions.parquet"
    file.write_bytes(file.read_bytes()[:-20])

    with pytest.raises(InvalidInput, match=r"interactions\.parquet is not a Parquet file"):
        Dataset.open(directory).sequences()


def test_an_interaction_of_an_item_that_is_missing_is_refused(directory: Path) -> None:
    row = {"user_id": "u", "item_id": "gone", "timestamp": 1, "type": None, "rating": None}
    pq.write_table(pa.Table.from_pylist([row], INTERACTION_SCHEMA), directory / "interactions.parquet")

    with pytest.raises(InvalidInput, match="an interaction with item 'gone', which is not in items.parquet"):
        Dataset.open(directory).sequences()


def test_description_counts_what_is_there(directory: Path) -> None:
    description = json.loads((directory / "dataset.json").read_text())

    assert description["num_users"] == 2
    assert description["num_items"] == 3
    assert description["num_interactions"] == 5
    assert description["time_unit"] == "rank"
