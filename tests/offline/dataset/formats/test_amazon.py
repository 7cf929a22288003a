from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from model_store.errors import InvalidInput
from offline.dataset.dataset import Dataset
from offline.dataset.formats import amazon
from offline.import_data import ImportOptions, import_source
from tests.offline.datasets import write_json_lines, write_text

REVIEWS_2018 = [
    {"reviewerID": "R1", "asin": "A1", "overall": 5.0, "unixReviewTime": 1400000000, "reviewText": "Good"},
    {"reviewerID": "R2", "asin": "A2", "overall": 1.0, "unixReviewTime": 1400000001},
]


def _import(folder: Path, reviews: Path, metadata: Path, max_bad: float = 0.0) -> Dataset:
    import_source(amazon.source([reviews], [metadata]), folder / "out", ImportOptions(max_bad, time_unit="seconds"))
    return Dataset.open(folder / "out")


def _interactions(dataset: Dataset) -> list[dict[str, Any]]:
    rows = pq.read_table(dataset.directory / "interactions.parquet").to_pylist()
    return sorted(rows, key=lambda row: row["user_id"])


def test_metadata_of_2014_are_python_literals(tmp_path: Path) -> None:
    metadata = write_text(
        tmp_path / "meta.json.gz",
        "{'asin': 'A1', 'title': \"Rosie's &amp; Co. Lamp\", 'price': 12.5, 'brand': 'Lumo', "
        "'categories': [['Home'], ['Home', 'Lighting', 'Lamps']], 'related': {'also_bought': ['A2']}}\n"
        "{'asin': 'A2'}\n",
    )

    dataset = _import(tmp_path, write_json_lines(tmp_path / "reviews.json", REVIEWS_2018), metadata)

    assert dataset.description.source == "amazon-2014/2018"
    assert dataset.catalogue().fields(1) == {
        "title": "Rosie's & Co. Lamp",
        "category": "Lamps",
        "categories": ["Home", "Lighting", "Lamps"],
        "brand": "Lumo",
        "price": 12.5,
    }
    assert dataset.catalogue().fields(2) == {"title": ""}
    assert _interactions(dataset)[0] == {
        "user_id": "R1",
        "item_id": "A1",
        "timestamp": 1400000000,
        "type": "review",
        "rating": 5.0,
    }


def test_metadata_of_2018_are_json_with_lists_and_repeated_items(tmp_path: Path) -> None:
    first = {
        "asin": "A1",
        "title": "Lamp",
        "category": ["Home", "Lamps"],
        "description": ["<b>Bright</b>", "and warm"],
        "feature": ["E27"],
        "price": "$1,012.50",
    }
    second = {"asin": "A2", "title": "Desk", "price": "$5.99 - $9.99"}
    metadata = write_json_lines(tmp_path / "meta.json", [first, second, {**first, "title": "Lamp again"}])

    dataset = _import(tmp_path, write_json_lines(tmp_path / "reviews.json.gz", REVIEWS_2018), metadata)

    assert dataset.catalogue().fields(1) == {
        "title": "Lamp",
        "category": "Lamps",
        "categories": ["Home", "Lamps"],
        "price": 1012.5,
        "description": "Bright and warm",
        "features": "E27",
    }
    assert dataset.catalogue().fields(2) == {"title": "Desk"}
    assert dataset.report["repeated_items"] == 1


@pytest.mark.parametrize("is_csv", [False, True])
def test_2023_has_milliseconds_and_parent_asins(tmp_path: Path, is_csv: bool) -> None:
    if is_csv:
        text = "user_id,parent_asin,rating,timestamp\nR1,P1,4.0,1588687728923\nR2,P1,5.0,1588687728000\n"
        reviews = write_text(tmp_path / "reviews.csv.gz", text)
    else:
        rows = [("R1", 4.0, 1588687728923), ("R2", 5.0, 1588687728000)]
        reviews = write_json_lines(
            tmp_path / "reviews.jsonl",
            ({"user_id": user, "asin": "V", "parent_asin": "P1", "rating": r, "timestamp": t} for user, r, t in rows),
        )
    metadata = write_json_lines(
        tmp_path / "meta.jsonl",
        [
            {
                "parent_asin": "P1",
                "title": "Serum",
                "main_category": "All Beauty",
                "store": "Nia",
                "price": 9.0,
                "categories": [],
                "features": ["vegan", "30 ml"],
                "description": [],
                "average_rating": 4.4,
                "details": {"Brand": "Nia"},
            }
        ],
    )

    dataset = _import(tmp_path, reviews, metadata)

    assert dataset.description.source == "amazon-2023"
    assert [(row["timestamp"], row["rating"]) for row in _interactions(dataset)] == [
        (1588687728, 4.0),
        (1588687728, 5.0),
    ]
    assert dataset.catalogue().fields(1) == {
        "title": "Serum",
        "category": "All Beauty",
        "brand": "Nia",
        "price": 9.0,
        "features": "vegan 30 ml",
    }


def test_lines_that_are_no_literal_are_bad(tmp_path: Path) -> None:
    lines = ["{'asin': 'A1', 'title': 'Lamp'}", "__import__('os').getcwd()", "(" * 100_000, "{'asin': ", "[1]"]
    lines += [r"{'asin': '\ud800'}", "{'asin': {1}}"]
    metadata = write_text(tmp_path / "meta.json", "\n".join(lines) + "\n")

    dataset = _import(
        tmp_path,
        write_json_lines(tmp_path / "r.json", [*REVIEWS_2018, {**REVIEWS_2018[1], "asin": "A1"}]),
        metadata,
        max_bad=0.9,
    )

    assert [sample["line"] for sample in dataset.report["files"][0]["samples"]] == [2, 3, 4, 5, 6, 7]


def test_reviews_of_no_known_release_are_refused(tmp_path: Path) -> None:
    reviews = write_json_lines(tmp_path / "reviews.json", [{"user": "R1", "stars": 5}])

    with pytest.raises(InvalidInput, match=r"begins with a review of \['stars', 'user'\]: expected reviewerID"):
        amazon.source([reviews], [reviews])
    with pytest.raises(InvalidInput, match="has no reviews"):
        amazon.source([write_text(tmp_path / "empty.json", "")], [reviews])


RATINGS_2014 = "A39HTATAQ9V7YF,0205616461,5.0,1369699200\nAB1CDEF2G3HIJ,B002OVV7F0,3.0,1369699201\n"
RATINGS_2018 = "0205616461,A39HTATAQ9V7YF,5.0,1369699200\nB002OVV7F0,AB1CDEF2G3HIJ,3.0,1369699201\n"


@pytest.mark.parametrize(
    "text",
    [
        RATINGS_2014,
        RATINGS_2018,
        f"UserId,ProductId,Rating,Timestamp\n{RATINGS_2014}",
        f"item,user,rating,timestamp\n{RATINGS_2018}",
    ],
)
def test_ratings_alone_are_read_in_either_order(tmp_path: Path, text: str) -> None:
    rows = [{"asin": "0205616461", "title": "Book"}, {"asin": "B002OVV7F0", "title": "Brush"}]

    dataset = _import(
        tmp_path, write_text(tmp_path / "ratings.csv", text), write_json_lines(tmp_path / "meta.json", rows)
    )

    found = [(row["user_id"], row["item_id"], row["timestamp"], row["rating"]) for row in _interactions(dataset)]
    assert found == [
        ("A39HTATAQ9V7YF", "0205616461", 1369699200, 5.0),
        ("AB1CDEF2G3HIJ", "B002OVV7F0", 1369699201, 3.0),
    ]


def test_ratings_whose_order_cannot_be_told_are_blamed_and_not_the_metadata(tmp_path: Path) -> None:
    ratings = write_text(tmp_path / "ratings.csv", "anna,lamp,5.0,1369699200\nbert,desk,4.0,1369699201\n")
    metadata = write_json_lines(tmp_path / "meta.json", [{"asin": "lamp", "title": "Lamp"}])

    with pytest.raises(InvalidInput, match=r"ratings\.csv: which column is the user and which the item cannot be told"):
        _import(tmp_path, ratings, metadata)


def test_the_markup_of_titles_and_descriptions_is_taken_out_and_counted(tmp_path: Path) -> None:
    metadata = write_json_lines(
        tmp_path / "meta.json",
        [
            {"asin": "A1", "title": "Lamp<script>x()</script> &amp;amp; more", "description": ["<i>old</i>", "oak"]},
            {"asin": "A2", "title": "a < b"},
        ],
    )

    dataset = _import(tmp_path, write_json_lines(tmp_path / "reviews.json", REVIEWS_2018), metadata)

    assert dataset.catalogue().fields(1) == {"title": "Lamp & more", "description": "old oak"}
    assert dataset.catalogue().fields(2) == {"title": "a < b"}
    findings = dataset.report["files"][0]["findings"]
    assert (findings["cleaned_titles"]["count"], findings["cleaned_descriptions"]["count"]) == (1, 1)
