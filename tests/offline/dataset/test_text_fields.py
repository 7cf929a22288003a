"""What a model reads of an item unless somebody chooses: words, and nothing that changes while the item stays."""

import pyarrow as pa
import pytest

from model_store.catalogue.catalogue import Catalogue
from offline.dataset.text_fields import default_text_fields, reading_sentence, same_text_sentence

_NUM = 40
_REGIONS = ("Mosel", "Rheingau", "Pfalz", "Baden")


def _wines(**columns: object) -> Catalogue:
    ids = [f"w{number}" for number in range(_NUM)]
    titles = [f"Riesling number {number}" for number in range(_NUM)]
    return Catalogue.from_table(pa.table({"item_id": ids, "title": titles, **columns}))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("region", [_REGIONS[number % 4] for number in range(_NUM)]),
        ("description", [f"A dry wine of {2000 + number}, with notes of peach" for number in range(_NUM)]),
        ("grapes", [["Riesling"] if number % 2 else ["Riesling", "Silvaner"] for number in range(_NUM)]),
        ("maker", [None if number % 3 else f"Weingut {number}" for number in range(_NUM)]),
        ("size", ["0.75 l bottle" if number % 2 else "magnum" for number in range(_NUM)]),
        ("candidate", [("red wine", "white wine")[number % 2] for number in range(_NUM)]),
        ("model", [f"WH-1000XM{number % 5}" for number in range(_NUM)]),
    ],
)
def test_words_are_read(name: str, values: list[object]) -> None:
    assert default_text_fields(_wines(**{name: values})) == ("title", name)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("price", [float(number) for number in range(_NUM)]),
        ("stock", list(range(_NUM))),
        ("is_new", [number % 2 == 0 for number in range(_NUM)]),
        ("added", pa.array(range(_NUM), pa.timestamp("s"))),
        ("price_text", [f"$ {number}.50" for number in range(_NUM)]),
        ("offer", [f"{number},50 €" for number in range(_NUM)]),
        ("year", [str(1980 + number) for number in range(_NUM)]),
        ("bottled", [f"2021-01-{1 + number % 28:02d}" for number in range(_NUM)]),
        ("bottled_at", [f"2021-01-{1 + number % 28:02d}T10:00:00Z" for number in range(_NUM)]),
        ("page", [f"https://shop.example/{number}" for number in range(_NUM)]),
        ("label", [f"labels/{number}.jpg" for number in range(_NUM)]),
        ("supplier_id", [("a", "b")[number % 2] for number in range(_NUM)]),
        ("code", [f"AB-{number:05d}" for number in range(_NUM)]),
        ("kind", ["wine"] * _NUM),
        ("nothing", pa.array([None] * _NUM, pa.string())),
        ("codes", [[f"{number}"] for number in range(_NUM)]),
        ("image_url", [("white", "red")[number % 2] for number in range(_NUM)]),
    ],
)
def test_what_is_no_words_is_not_read(name: str, values: object) -> None:
    catalogue = _wines(**{name: values})
    assert default_text_fields(catalogue) == ("title",)
    assert reading_sentence(catalogue, ("title",)) == (
        f"a model reads of each item: title; not {name} (--text-field chooses)"
    )


def test_many_items_of_one_text_are_counted() -> None:
    same = pa.table({"item_id": [f"i{number}" for number in range(200)], "title": ["Hat"] * 200})
    assert same_text_sentence(Catalogue.from_table(same), ("title",)) == (
        "200 of 200 items have the same text, 'Hat': no model can tell them apart by it"
    )
    wines = _wines(region=["Mosel"] * _NUM, grapes=[["a"]] * _NUM)
    assert same_text_sentence(wines, ("title", "region", "grapes")) is None
    assert str(same_text_sentence(wines, ("region", "grapes"))).startswith("40 of 40 items")
    assert same_text_sentence(wines, ("no_such_field",)) is None
