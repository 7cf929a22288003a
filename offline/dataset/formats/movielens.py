"""MovieLens: 100K (u.data, u.item), 1M and 10M (ratings.dat, movies.dat), later ones (ratings.csv, movies.csv).

The titles of 100K and 1M are in Latin-1, those of 10M in UTF-8.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from model_store.errors import InvalidInput
from offline.dataset.formats.lines import records_as_dicts, text_lines
from offline.dataset.formats.rows import InteractionReader, ItemReader, RawInteraction, RawItem, RowLog, Source

_GENRES_100K = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip
_FIELDS_BEFORE_GENRES = 5
_YEAR = re.compile(r"\((\d{4})\)\s*$")
_NO_GENRES = "(no genres listed)"


def source(directory: Path) -> Source:
    """Describes a MovieLens directory as it comes out of its archive; each file may be gzipped.

    Raises:
        InvalidInput: It has none of the known pairs of files.
    """
    known: tuple[tuple[str, ItemReader, str, InteractionReader], ...] = (
        ("u.item", _read_items_100k, "u.data", _read_ratings_100k),
        ("movies.dat", _read_items_dat, "ratings.dat", _read_ratings_dat),
        ("movies.csv", _read_items_csv, "ratings.csv", _read_ratings_csv),
    )
    for item_name, read_items, rating_name, read_ratings in known:
        items, ratings = _find(directory, item_name), _find(directory, rating_name)
        if items and ratings:
            return Source(
                format="movielens",
                item_files=((items, read_items),),
                interaction_files=((ratings, read_ratings),),
                time_unit="seconds",
            )
    pairs = ", ".join(f"{rating_name} with {item_name}" for item_name, _, rating_name, _ in known)
    raise InvalidInput(f"{directory} is not a MovieLens directory: expected in it one of {pairs}, plain or .gz")


def _find(directory: Path, name: str) -> Path | None:
    return next((path for path in (directory / name, directory / f"{name}.gz") if path.is_file()), None)


def _read_ratings_100k(path: Path, log: RowLog) -> Iterator[RawInteraction]:
    return _read_ratings(path, log, separator="\t")


def _read_ratings_dat(path: Path, log: RowLog) -> Iterator[RawInteraction]:
    return _read_ratings(path, log, separator="::")


def _read_ratings(path: Path, log: RowLog, *, separator: str) -> Iterator[RawInteraction]:
    for line, text in text_lines(path, log, may_be_latin_1=True):
        fields = text.split(separator)
        if len(fields) != 4:
            log.add_bad(line, f"{len(fields)} fields, expected 4: user, item, rating, timestamp")
            continue
        yield RawInteraction(line, fields[0], fields[1], fields[3], "rating", fields[2])


def _read_ratings_csv(path: Path, log: RowLog) -> Iterator[RawInteraction]:
    for line, row in records_as_dicts(path, log, required=("userId", "movieId", "rating", "timestamp")):
        yield RawInteraction(line, row["userId"], row["movieId"], row["timestamp"], "rating", row["rating"])


def _read_items_100k(path: Path, log: RowLog) -> Iterator[RawItem]:
    for line, text in text_lines(path, log, may_be_latin_1=True):
        fields = text.split("|")
        if len(fields) != _FIELDS_BEFORE_GENRES + len(_GENRES_100K):
            expected = _FIELDS_BEFORE_GENRES + len(_GENRES_100K)
            log.add_bad(line, f"{len(fields)} fields, expected {expected}")
            continue
        flags = zip(_GENRES_100K, fields[_FIELDS_BEFORE_GENRES:], strict=True)
        yield _movie(line, fields[0], fields[1], [genre for genre, flag in flags if flag == "1"])


def _read_items_dat(path: Path, log: RowLog) -> Iterator[RawItem]:
    for line, text in text_lines(path, log, may_be_latin_1=True):
        fields = text.split("::")
        if len(fields) != 3:
            log.add_bad(line, f"{len(fields)} fields, expected 3: movie, title, genres")
            continue
        yield _movie(line, fields[0], fields[1], fields[2].split("|"))


def _read_items_csv(path: Path, log: RowLog) -> Iterator[RawItem]:
    for line, row in records_as_dicts(path, log, required=("movieId", "title", "genres")):
        genres = [] if row["genres"] == _NO_GENRES else row["genres"].split("|")
        yield _movie(line, row["movieId"], row["title"], genres)


def _movie(line: int, item_id: str, title: str, genres: list[str]) -> RawItem:
    year = _YEAR.search(title)
    attributes = {"category": ", ".join(genres), "genres": genres, "year": int(year.group(1)) if year else None}
    return RawItem(line, item_id, title, attributes)
