from pathlib import Path

import pyarrow.parquet as pq
import pytest

from model_store.errors import InvalidInput
from offline.dataset.dataset import Dataset
from offline.dataset.formats import movielens
from offline.import_data import ImportOptions, import_source
from tests.offline.datasets import write_text

FLAGS_OF_CHILDREN_AND_COMEDY = "|".join("1" if genre in (4, 5) else "0" for genre in range(19))


def _write_100k(folder: Path) -> None:
    folder.mkdir()
    item = f"1|Café Story (1995)|01-Jan-1995||http://example.org|{FLAGS_OF_CHILDREN_AND_COMEDY}\n"
    (folder / "u.item").write_bytes(item.encode("latin-1"))
    write_text(folder / "u.data", "7\t1\t5\t881250949\n8\t1\t3\t881250950\n")


def _write_1m(folder: Path) -> None:
    write_text(folder / "ratings.dat.gz", "7::1::5::881250949\n8::1::3::881250950\n")
    (folder / "movies.dat").write_bytes("1::Café Story (1995)::Children's|Comedy\n".encode("latin-1"))


def _write_10m(folder: Path) -> None:
    write_text(folder / "ratings.dat", "7::1::5::881250949\n8::1::3::881250950\n")
    write_text(folder / "movies.dat", "1::Café Story (1995)::Children's|Comedy\n")


def _write_csv(folder: Path) -> None:
    write_text(folder / "ratings.csv", "userId,movieId,rating,timestamp\n7,1,5.0,881250949\n8,1,3.0,881250950\n")
    write_text(folder / "movies.csv", 'movieId,title,genres\n1,"Café Story (1995)",Children\'s|Comedy\n')


@pytest.mark.parametrize("write", [_write_100k, _write_1m, _write_10m, _write_csv])
def test_every_release_gives_the_same_dataset(tmp_path: Path, write: object) -> None:
    write(tmp_path / "ml")  # type: ignore[operator]

    import_source(movielens.source(tmp_path / "ml"), tmp_path / "out", ImportOptions(max_bad=0.0))

    dataset = Dataset.open(tmp_path / "out")
    assert dataset.catalogue().fields(1) == {
        "title": "Café Story (1995)",
        "category": "Children's, Comedy",
        "genres": ["Children's", "Comedy"],
        "year": 1995,
    }
    rows = pq.read_table(tmp_path / "out/interactions.parquet").to_pylist()
    assert sorted((row["user_id"], row["item_id"], row["timestamp"], row["rating"]) for row in rows) == [
        ("7", "1", 881250949, 5.0),
        ("8", "1", 881250950, 3.0),
    ]


def test_a_directory_without_the_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="is not a MovieLens directory: expected in it one of u.data with u.item"):
        movielens.source(tmp_path)
