"""Random catalogues, filters and the slow way to evaluate them, for tests that draw."""

import math
from typing import Any

import pyarrow as pa
from hypothesis import strategies as st

from model_store.catalogue.catalogue import Catalogue
from service.engine.served_bundle import MaskCache
from service.recommend.candidates.filter_wire import FilterNode
from service.recommend.candidates.filters import evaluate, unpack

BIG = 2**53
COLOURS = st.sampled_from(["red", "green", "blue", ""])
FLOATS = st.floats(-3, 3).map(lambda price: round(price, 1)) | st.sampled_from([0.0, -0.0, 1e300, float(BIG)])
INTEGERS = st.integers(-3, 3) | st.sampled_from([BIG, BIG + 1, -(2**63), 2**63 - 1])
TYPES = {
    "colour": pa.string(),
    "kind": pa.dictionary(pa.int32(), pa.string()),
    "price": pa.float64(),
    "weight": pa.float32(),
    "size": pa.int64(),
    "level": pa.int8(),
    "is_new": pa.bool_(),
    "tags": pa.list_(pa.string()),
    "sizes": pa.list_(pa.float64()),
}
ELEMENTS: dict[str, st.SearchStrategy[Any]] = {
    "colour": COLOURS,
    "kind": COLOURS,
    "price": FLOATS | st.just(math.nan),
    "weight": st.sampled_from([0.0, 0.5, -1.25, 3.0, math.nan]),
    "size": INTEGERS,
    "level": st.integers(-3, 3),
    "is_new": st.booleans(),
    "tags": st.lists(st.none() | COLOURS, max_size=3),
    "sizes": st.lists(st.none() | FLOATS | st.just(math.nan), max_size=3),
}
NUMBERS = INTEGERS | FLOATS | st.sampled_from([0.5, 1.5, 2**64 - 1, -1.25])
SENT: dict[str, st.SearchStrategy[Any]] = {
    "colour": COLOURS,
    "kind": COLOURS,
    "price": NUMBERS,
    "weight": NUMBERS,
    "size": NUMBERS,
    "level": NUMBERS,
    "is_new": st.booleans(),
    "tags": COLOURS,
    "sizes": NUMBERS,
}
ORDERED = sorted(set(SENT) - {"is_new"})

rows = st.lists(
    st.fixed_dictionaries({name: st.none() | elements for name, elements in ELEMENTS.items()}), min_size=1, max_size=20
)


def catalogue_of(drawn: list[dict[str, Any]]) -> Catalogue:
    """Items ``i1``.. with these attributes; popularity rises with the row."""
    columns = {name: pa.array([row[name] for row in drawn], kind) for name, kind in TYPES.items()}
    ids = [f"i{number}" for number in range(1, len(drawn) + 1)]
    popularity = pa.array(range(len(drawn)), pa.int64())
    return Catalogue.from_table(pa.table({"item_id": ids, "title": ids, **columns, "popularity": popularity}))


@st.composite
def conditions(draw: st.DrawFn) -> tuple[str, Any]:
    """An attribute and what it must be, as it is sent."""
    name = draw(st.sampled_from(sorted(SENT)))
    keys = ["any_of", "none_of", "exists"] + (["gte", "lte", "gt", "lt"] if name in ORDERED else [])
    chosen = draw(st.lists(st.sampled_from(keys), min_size=1, max_size=3, unique=True))
    values = {
        "any_of": st.lists(SENT[name], min_size=1, max_size=3),
        "none_of": st.lists(SENT[name], min_size=1, max_size=3),
        "gte": SENT[name],
        "lte": SENT[name],
        "gt": SENT[name],
        "lt": SENT[name],
        "exists": st.booleans(),
    }
    condition = {key: draw(values[key]) for key in chosen}
    # the short forms: the values, or the one value
    if chosen == ["any_of"] and draw(st.booleans()):
        return name, condition["any_of"][0] if len(condition["any_of"]) == 1 else condition["any_of"]
    return name, condition


leaves = st.lists(conditions(), max_size=2).map(dict)
trees = st.recursive(
    leaves,
    lambda inner: st.builds(
        lambda leaf, more: {**leaf, **more},
        leaves,
        st.fixed_dictionaries(
            {},
            optional={
                "and": st.lists(inner, min_size=1, max_size=3),
                "or": st.lists(inner, min_size=1, max_size=3),
                "not": inner,
            },
        ),
    ),
    max_leaves=8,
)


def passes(row: dict[str, Any], sent: dict[str, Any]) -> bool:
    """Whether an item passes a filter, the slow way."""
    for name, part in sent.items():
        if name == "and":
            holds = all(passes(row, one) for one in part)
        elif name == "or":
            holds = any(passes(row, one) for one in part)
        elif name == "not":
            holds = not passes(row, part)
        else:
            holds = _holds(row[name], part)
        if not holds:
            return False
    return True


def _holds(value: Any, sent: Any) -> bool:
    condition = sent if isinstance(sent, dict) else {"any_of": sent if isinstance(sent, list) else [sent]}
    elements = [
        one
        for one in (value if isinstance(value, list) else [value])
        if one is not None and not (isinstance(one, float) and math.isnan(one))
    ]

    def fits(one: Any) -> bool:
        return (
            ("any_of" not in condition or one in condition["any_of"])
            and ("gte" not in condition or one >= condition["gte"])
            and ("lte" not in condition or one <= condition["lte"])
            and ("gt" not in condition or one > condition["gt"])
            and ("lt" not in condition or one < condition["lt"])
        )

    wants_one = {"any_of", "gte", "lte", "gt", "lt"} & condition.keys()
    return (
        (not wants_one or any(fits(one) for one in elements))
        and not any(one in condition.get("none_of", ()) for one in elements)
        and ("exists" not in condition or condition["exists"] == bool(elements))
    )


def mask_of(catalogue: Catalogue, sent: dict[str, Any], cache: MaskCache | None = None) -> list[bool]:
    """Which items pass, the service's way, from what is sent."""
    tree = FilterNode.model_validate(sent).tree()
    if tree is None:
        return [True] * len(catalogue)
    return unpack(evaluate(tree, catalogue, cache or MaskCache()), len(catalogue)).tolist()
