"""Which attributes of a catalogue a model reads as text, unless somebody chooses.

A text should say what an item is, and should change only when the item does: a price or a stock would have the item
embedded again each night, and an id says nothing. So the title is read, and attributes of strings or lists of strings
that look like words; never numbers, truth values, moments, ids, addresses and files.
"""

import re
import reprlib
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from model_store.catalogue.catalogue import TITLE, Catalogue
from model_store.catalogue.item_text import as_text

_SAMPLE_ITEMS = 10_000
# A column is left out if so many of its values look like something else than words.
_MOST = 0.9
# From this share of all items on, one text for several of them is worth a word.
_MANY = 0.05
_NAMES_OF_NO_WORDS = re.compile(
    r"(^|_)(ids?|asin|sku|ean|gtin|upc|isbn|url|uri|href|link|image|images|img|picture|photo|thumbnail|hash|slug|"
    r"date|time|timestamp|created|updated|available|expires|price|cost|currency|stock|rating|rank|count)(_|$)"
)
_NUMBER = re.compile(r"[^\w\s]*\s*[-+]?\d[\d.,\s]*\s*([^\w\s]|[A-Za-z]{3})?")
_MOMENT = re.compile(r"\d{4}-\d{1,2}-\d{1,2}([T ].*)?|\d{1,2}[./]\d{1,2}[./]\d{2,4}")
_ADDRESS = re.compile(r"(\w+://|www\.|/)\S+|\S+\.(jpe?g|png|webp|gif|svg|html?)", re.IGNORECASE)
_CODE = re.compile(r"(?=\S*\d)[\w.-]+")


def default_text_fields(catalogue: Catalogue) -> tuple[str, ...]:
    """The title and the attributes that are words, in the order of the catalogue."""
    return (TITLE, *(name for name in catalogue.attribute_names if _is_text(catalogue, name)))


def reading_sentence(catalogue: Catalogue, fields: Sequence[str]) -> str:
    """What a model reads of this catalogue, and what it does not, for whoever imports or trains."""
    others = [name for name in catalogue.attribute_names if name not in fields]
    left_out = f"; not {', '.join(others)}" if others else ""
    return f"a model reads of each item: {', '.join(fields)}{left_out} (--text-field chooses)"


def same_text_sentence(catalogue: Catalogue, fields: Sequence[str]) -> str | None:
    """How many items share one text, where that is a good part of them; None where it is not."""
    columns = [_one_string(catalogue.column(name)) for name in fields if name in (TITLE, *catalogue.attribute_names)]
    if not columns:
        return None
    joined = pc.binary_join_element_wise(*columns, "\x1f", null_handling="replace", null_replacement="")
    counted = pc.value_counts(joined.combine_chunks())
    most = pc.index(counted.field("counts"), pc.max(counted.field("counts"))).as_py()
    count, text = counted.field("counts")[most].as_py(), counted.field("values")[most].as_py()
    if count < 2 or count < _MANY * len(catalogue):
        return None
    words = reprlib.repr(" ".join(text.replace("\x1f", " ").split()))
    return f"{count} of {len(catalogue)} items have the same text, {words}: no model can tell them apart by it"


def _one_string(column: pa.ChunkedArray) -> pa.ChunkedArray:
    kind = column.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pc.binary_join(column.cast(pa.list_(pa.string())), "\x1e")
    return column.cast(pa.string())


def _is_text(catalogue: Catalogue, name: str) -> bool:
    column = catalogue.column(name)
    if _NAMES_OF_NO_WORDS.search(name.lower()) or not _holds_strings(column.type):
        return False
    texts = [text for value in column.slice(0, _SAMPLE_ITEMS).to_pylist() if (text := as_text(value).strip())]
    kinds = set(texts)
    if len(kinds) < 2:  # it tells no items apart
        return False
    if any(_share(texts, pattern) >= _MOST for pattern in (_NUMBER, _MOMENT, _ADDRESS)):
        return False
    is_nearly_unique = len(kinds) >= _MOST * len(texts)
    return not (is_nearly_unique and _share(texts, _CODE) >= _MOST)


def _share(texts: Sequence[str], pattern: re.Pattern[str]) -> float:
    return sum(pattern.fullmatch(text) is not None for text in texts) / len(texts)


def _holds_strings(kind: pa.DataType) -> bool:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _holds_strings(kind.value_type)
    if pa.types.is_dictionary(kind):
        return _holds_strings(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
