"""What is wrong with a value that pydantic refused, in the words of this product.

pydantic's own messages ("Extra inputs are not permitted", "Input should be a valid integer") name neither the value nor
the field that was meant.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel

_READABLE_LENGTH = 80
_MAX_NAMES = 40

# By the type of pydantic's error; what is in braces is in the error's context.
_WORDS = {
    "missing": "this field is required",
    "int_type": "expected a whole number",
    "int_parsing": "expected a whole number",
    "int_from_float": "expected a whole number",
    "int_parsing_size": "expected a whole number of fewer digits",
    "float_type": "expected a number",
    "float_parsing": "expected a number",
    "finite_number": "expected a finite number",
    "bool_type": "expected true or false",
    "bool_parsing": "expected true or false",
    "string_type": "expected text",
    "string_unicode": "expected text without halves of surrogate pairs",
    "string_pattern_mismatch": "expected text of the form {pattern}",
    "string_too_short": "expected at least {min_length} characters",
    "string_too_long": "expected at most {max_length} characters",
    "too_short": "expected at least {min_length} entries, got {actual_length}",
    "too_long": "expected at most {max_length} entries, got {actual_length}",
    "greater_than": "expected more than {gt}",
    "greater_than_equal": "expected at least {ge}",
    "less_than": "expected less than {lt}",
    "less_than_equal": "expected at most {le}",
    "multiple_of": "expected a multiple of {multiple_of}",
    "literal_error": "expected {expected}",
    "enum": "expected {expected}",
    "list_type": "expected a list",
    "tuple_type": "expected a list",
    "set_type": "expected a list",
    "frozen_set_type": "expected a list",
    "dict_type": "expected an object",
    "mapping_type": "expected an object",
    "model_type": "expected an object",
    "model_attributes_type": "expected an object",
    "dataclass_type": "expected an object",
    "json_type": "expected JSON",
    "json_invalid": "expected JSON: {error}",
    "value_error": "{error}",
    "path_type": "expected a path",
    "datetime_type": "expected a date and time",
    "datetime_parsing": "expected a date and time in ISO 8601",
    "datetime_from_date_parsing": "expected a date and time in ISO 8601",
    "timezone_aware": "expected a date and time with its offset",
}
# Our own errors say all of it, and so do those that count what is in a list.
_WHOLE = frozenset({"missing", "extra_forbidden", "value_error", "too_short", "too_long"})


def describe_problem(entry: Mapping[str, Any], model: type[BaseModel] | None = None) -> str:
    """What was expected of a value, and the value itself where it is short enough to read.

    Args:
        entry: One of pydantic's ``errors()``.
        model: What was validated, to name the field that an unknown one may have meant.
    """
    kind, value = entry["type"], entry.get("input")
    if kind == "extra_forbidden":
        return _unknown_field(entry["loc"], model)
    words = _WORDS.get(kind)
    # PydanticCustomError carries a message of ours.
    expected = (
        str(entry["msg"])
        if words is None
        else words.format_map(defaultdict(lambda: "another number", entry.get("ctx") or {}))
    )
    is_readable = (
        isinstance(value, str | int | float) and len(str(value)) <= _READABLE_LENGTH and str(value).isprintable()
    )
    return f"{expected}, got {value!r}" if is_readable and kind not in _WHOLE and "input" in entry else expected


def _unknown_field(place: Sequence[str | int], model: type[BaseModel] | None) -> str:
    name = str(place[-1])
    shown = repr(name) if len(name) <= _READABLE_LENGTH and name.isprintable() else "a field"
    if model is None:
        return f"unknown field {shown}"
    names = sorted({one for inner in _models_at(place, model) for one in _own_names(inner)})
    elsewhere = sorted({*_field_names(model)} - {name})
    if meant := _nearest(name, names) or _nearest(name, elsewhere):
        return f"unknown field {shown}; did you mean {meant!r}?"
    return f"unknown field {shown}" + (f"; known are {', '.join(names)}" if len(names) <= _MAX_NAMES else "")


def _nearest(name: str, names: Sequence[str]) -> str | None:
    by_letters = {one.casefold(): one for one in names}
    near = get_close_matches(name[:_READABLE_LENGTH].casefold(), by_letters, n=1)
    return by_letters[near[0]] if near else None


def _own_names(model: type[BaseModel]) -> Sequence[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


def _models_at(place: Sequence[str | int], model: type[BaseModel]) -> Sequence[type[BaseModel]]:
    """The models whose fields may stand at a place; there are several where one of several is expected."""
    models = [model]
    for step in place[:-1]:
        fields = (field for one in models for name, field in one.model_fields.items() if step in (name, field.alias))
        # a place in a list, or the name of one of several, leads no deeper
        models = [inner for field in fields for inner in _models_in(field.annotation)] or models
    return models


def _field_names(model: type[BaseModel], seen: frozenset[type[BaseModel]] = frozenset()) -> Iterator[str]:
    """Of the model and of all models inside it."""
    yield from _own_names(model)
    for field in model.model_fields.values():
        for inner in _models_in(field.annotation):
            if inner not in seen:
                yield from _field_names(inner, seen | {model, inner})


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)
