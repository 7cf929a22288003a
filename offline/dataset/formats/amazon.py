"""Amazon Reviews: 2014 and 2018 (reviewerID, asin, unixReviewTime) and 2023 (user_id, parent_asin, timestamp in ms).

The ratings alone of 2014 and 2018 are CSV files without a header, whose columns are in another order each
(``amazon_ratings``).

Metadata of 2014 are Python literals rather than JSON, one a line; both are read. In the 2018 metadata some items are
listed twice, so the first row of an item counts. Averages and counts of ratings and "also bought" lists are left out:
they were gathered after the reviews, and would tell a model what it is to predict.
"""

import ast
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import orjson

from model_store.errors import InvalidInput
from offline.dataset.formats.amazon_ratings import has_ratings_alone, read_ratings
from offline.dataset.formats.lines import json_objects, records_as_dicts, text_lines
from offline.dataset.formats.markup import plain_text
from offline.dataset.formats.rows import RawInteraction, RawItem, RowLog, Source

Release = Literal["2014/2018", "2023"]
_PRICE = re.compile(r"^\s*\$?\s*([0-9][0-9,]*(?:\.[0-9]+)?)\s*$")


def source(reviews: Sequence[Path], metadata: Sequence[Path], *, release: Release | None = None) -> Source:
    """Describes review and metadata files, plain or gzipped.

    Args:
        reviews: JSON lines; for 2023 also the CSV files of the ready-made splits (``user_id,parent_asin,rating,
            timestamp``), for 2014 and 2018 those of ratings alone.
        metadata: One object a line.
        release: None = look at the first review. 2014 and 2018 differ in their metadata only, row by row.

    Raises:
        InvalidInput: A file is missing, or its first review is of no known release.
    """
    if not reviews or not metadata:
        raise InvalidInput(f"{len(reviews)} review and {len(metadata)} metadata files, expected at least one each")
    is_2023 = (release or _release_of(reviews[0])) == "2023"
    read_reviews = _read_reviews_2023 if is_2023 else _read_reviews
    read_items = _read_items_2023 if is_2023 else _read_items
    return Source(
        format="amazon-2023" if is_2023 else "amazon-2014/2018",
        item_files=tuple((path, read_items) for path in metadata),
        interaction_files=tuple((path, read_reviews) for path in reviews),
        time_unit="milliseconds" if is_2023 else "seconds",
        repeated_items="first",
    )


def _release_of(reviews: Path) -> Release:
    if _is_csv(reviews):
        return "2014/2018" if has_ratings_alone(reviews) else "2023"
    # what is bad about these rows is counted when they are read in earnest
    for _, row in json_objects(reviews, RowLog(reviews, max_bad=1.0)):
        if "reviewerID" in row:
            return "2014/2018"
        if "parent_asin" in row:
            return "2023"
        raise InvalidInput(
            f"{reviews} begins with a review of {sorted(row)[:10]}: expected reviewerID, asin, unixReviewTime (2014, "
            "2018) or user_id, parent_asin, timestamp (2023)"
        )
    raise InvalidInput(f"{reviews} has no reviews: expected one JSON object a line")


def _is_csv(path: Path) -> bool:
    return ".csv" in path.suffixes


def _read_reviews(path: Path, log: RowLog) -> Iterator[RawInteraction]:
    if _is_csv(path):
        yield from read_ratings(path, log)
        return
    for line, row in json_objects(path, log):
        yield RawInteraction(
            line, row.get("reviewerID"), row.get("asin"), row.get("unixReviewTime"), "review", row.get("overall")
        )


def _read_reviews_2023(path: Path, log: RowLog) -> Iterator[RawInteraction]:
    rows: Iterator[tuple[int, dict[str, Any]]] = (
        records_as_dicts(path, log, required=("user_id", "parent_asin", "timestamp"))
        if _is_csv(path)
        else json_objects(path, log)
    )
    for line, row in rows:
        yield RawInteraction(
            line, row.get("user_id"), row.get("parent_asin"), row.get("timestamp"), "review", row.get("rating")
        )


def _read_items(path: Path, log: RowLog) -> Iterator[RawItem]:
    for line, row in _literal_objects(path, log):
        categories = _path_of(row.get("categories") or row.get("category"))
        attributes = {
            "category": categories[-1] if categories else None,
            "categories": categories,
            "brand": _text(row.get("brand")),
            "price": _price(row.get("price")),
            "description": _description(row.get("description")),
            "features": _joined(row.get("feature")),
        }
        yield RawItem(line, row.get("asin"), _title(row.get("title")), attributes)


def _read_items_2023(path: Path, log: RowLog) -> Iterator[RawItem]:
    for line, row in json_objects(path, log):
        categories = _path_of(row.get("categories"))
        attributes = {
            "category": categories[-1] if categories else _text(row.get("main_category")),
            "categories": categories,
            "brand": _text(row.get("store")),
            "price": _price(row.get("price")),
            "description": _description(row.get("description")),
            "features": _joined(row.get("features")),
        }
        yield RawItem(line, row.get("parent_asin"), _title(row.get("title")), attributes)


def _literal_objects(path: Path, log: RowLog) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, text in text_lines(path, log):
        try:
            content = _parse(text)
        # literal_eval meets hostile nesting with the last two
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
            log.add_bad(line, f"neither JSON nor a Python literal: {' '.join(str(error).split())[:100]}")
            continue
        if isinstance(content, dict):
            yield line, content
        else:
            log.add_bad(line, f"a {type(content).__name__}, expected an object")


def _parse(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        content = ast.literal_eval(text)
        # what JSON could not hold either (sets, bytes, half a surrogate pair) is a TypeError here
        orjson.dumps(content)
        return content


def _path_of(categories: Any) -> list[str]:
    """One path through the category tree; 2014 has several, as lists of lists."""
    if isinstance(categories, list) and categories and isinstance(categories[0], list):
        categories = max(categories, key=len)
    if not isinstance(categories, list):
        categories = [categories]
    return [text for text in map(_text, categories) if text]


def _description(value: Any) -> str | None:
    """One text, of which the check of every item takes out the markup."""
    return _title(" ".join(part for part in value if isinstance(part, str)) if isinstance(value, list) else value)


def _joined(value: Any) -> str | None:
    if isinstance(value, list):
        return " ".join(text for text in map(_text, value) if text) or None
    return _text(value)


def _text(value: Any) -> str | None:
    """Plain text: entities resolved, markup and line ends gone."""
    return " ".join(plain_text(value).split()) or None if isinstance(value, str) else None


def _title(value: Any) -> str | None:
    """Without line ends; the markup is taken out, and counted, by the check of every item."""
    return " ".join(value.split()) or None if isinstance(value, str) else None


def _price(value: Any) -> float | None:
    """In dollars; None for the likes of "None", "—" and "$5.99 - $9.99"."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    found = _PRICE.match(value) if isinstance(value, str) else None
    return float(found.group(1).replace(",", "")) if found else None
