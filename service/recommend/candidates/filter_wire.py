"""A filter as it is sent, and as a scenario file has it: strict, bounded, and refused with the place of the mistake.

::

    {"category": {"any_of": ["Audio"]}, "colour": "red",
     "or": [{"price": {"lte": 50}}, {"not": {"brand": {"exists": true}}}]}

A value instead of a condition is short for ``any_of`` with this value, a list of values for ``any_of`` with these. All
entries of an object must hold. An entry is an attribute with its condition, or ``and`` or ``or`` with a list of such
objects, or ``not`` with one. So an attribute called ``and``, ``or`` or ``not`` cannot be filtered by.
"""

import math
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from service.recommend.candidates.attributes import Value
from service.recommend.candidates.filters import All, Either, Node, Not, condition

MAX_DEPTH = 8
MAX_CONDITIONS = 64
MAX_VALUES = 1_000

_AND, _OR, _NOT = "and", "or", "not"
_ANY_OF = "any_of"
_LISTS = (_ANY_OF, "none_of")
_MAX_STRING = 1_024
_SMALLEST, _LARGEST = -(2**63), 2**64 - 1


def _scalar(value: object, *, with_bool: bool) -> object:
    """Refuses a wrong value in one sentence; a union would say one for each of its members.

    Raises:
        PydanticCustomError: It is neither a string nor a finite number (nor true or false).
    """
    expected = "a string, a number, true or false" if with_bool else "a number or a string"
    is_fit = isinstance(value, str | int | float) and (with_bool or not isinstance(value, bool))
    if not is_fit or (isinstance(value, float) and not math.isfinite(value)):
        raise PydanticCustomError("filter_value", f"expected {expected}")
    if isinstance(value, int) and not _SMALLEST <= value <= _LARGEST:
        raise PydanticCustomError("filter_value", "expected an integer of at most 64 bits")
    if isinstance(value, str) and len(value) > _MAX_STRING:
        raise PydanticCustomError("filter_value", f"a string longer than {_MAX_STRING} characters")
    if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
        raise PydanticCustomError("filter_value", "half of a surrogate pair is not Unicode")
    return value


FilterValue = Annotated[str | int | float | bool, BeforeValidator(lambda value: _scalar(value, with_bool=True))]
Bound = Annotated[int | float | str, BeforeValidator(lambda value: _scalar(value, with_bool=False))]


class _Filter(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


def _tidied(schema: dict[str, Any]) -> None:
    """Null is no value that one could send, so it is no default to document."""
    for of_field in schema["properties"].values():
        of_field.pop("default", None)


def _tidied_condition(schema: dict[str, Any]) -> None:
    _tidied(schema)
    schema["minProperties"] = 1


def _tidied_node(schema: dict[str, Any]) -> None:
    _tidied(schema)
    value = {"type": ["string", "number", "boolean"]}
    values = {"type": "array", "items": value, "minItems": 1, "maxItems": MAX_VALUES}
    schema["additionalProperties"] = {"anyOf": [schema["additionalProperties"], value, values]}


# Were None in the types, every mistake would have a second error: "expected null".
_NOT_SENT: Any = None


class FilterCondition(_Filter):
    """What an attribute must be; all must hold. An item without a value fails all but none_of and exists: false.

    Of an attribute that is a list, one element must be among any_of and within the bounds, and none among none_of.
    """

    model_config = ConfigDict(json_schema_extra=_tidied_condition)

    any_of: Annotated[list[FilterValue], Field(min_length=1, max_length=MAX_VALUES)] = _NOT_SENT
    none_of: Annotated[list[FilterValue], Field(min_length=1, max_length=MAX_VALUES)] = _NOT_SENT
    gte: Bound = _NOT_SENT
    lte: Bound = _NOT_SENT
    gt: Bound = _NOT_SENT
    lt: Bound = _NOT_SENT
    exists: bool = _NOT_SENT

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, sent: Any) -> Any:
        """Null is nothing: many clients write it for what they do not send. A value is short for any_of."""
        if isinstance(sent, dict):
            return {name: part for name, part in sent.items() if part is not None}
        if isinstance(sent, list):
            return {_ANY_OF: sent}
        return {_ANY_OF: [sent]} if isinstance(sent, str | int | float | bool) else sent

    @model_validator(mode="after")
    def _has_a_condition(self) -> Self:
        if not self.model_fields_set:
            names = ", ".join(type(self).model_fields)
            raise PydanticCustomError("filter_condition", "expected at least one of {names}", {"names": names})
        return self


class FilterNode(_Filter):
    """All entries must hold; without entries everything passes. Other names than these are attributes."""

    model_config = ConfigDict(extra="allow", json_schema_extra=_tidied_node)
    __pydantic_extra__: dict[str, FilterCondition] = Field(init=False)

    all_of: Annotated[
        list["FilterNode"],
        Field(alias=_AND, min_length=1, max_length=MAX_CONDITIONS, description="All of these must hold"),
    ] = _NOT_SENT
    one_of: Annotated[
        list["FilterNode"],
        Field(alias=_OR, min_length=1, max_length=MAX_CONDITIONS, description="One of these must hold"),
    ] = _NOT_SENT
    none: Annotated["FilterNode", Field(alias=_NOT, description="This must not hold")] = _NOT_SENT

    def tree(self, path: str = "/filter") -> Node | None:
        """The filter for evaluating; None where everything passes.

        Args:
            path: Where it was sent, for errors.
        """
        parts = [self._leaf(name, sent, path) for name, sent in (self.__pydantic_extra__ or {}).items()]
        parts += [each for at, sent in enumerate(self.all_of or ()) if (each := sent.tree(f"{path}/{_AND}/{at}"))]
        if self.one_of is not None:
            either = [sent.tree(f"{path}/{_OR}/{at}") for at, sent in enumerate(self.one_of)]
            if None not in either:  # or one of them passes everything
                parts.append(Either(tuple(each for each in either if each is not None)))
        if self.none is not None:
            # what passes everything, turned round, passes nothing
            parts.append(Not(self.none.tree(f"{path}/{_NOT}") or All(())))
        if not parts:
            return None
        return parts[0] if len(parts) == 1 else All(tuple(parts))

    @staticmethod
    def _leaf(name: str, sent: FilterCondition, path: str) -> Node:
        def values(of: list[Value] | None) -> tuple[Value, ...] | None:
            return None if of is None else tuple(of)

        escaped = name.replace("~", "~0").replace("/", "~1")
        return condition(
            name,
            any_of=values(sent.any_of),
            none_of=values(sent.none_of),
            gte=sent.gte,
            lte=sent.lte,
            gt=sent.gt,
            lt=sent.lt,
            exists=sent.exists,
            path=f"{path}/{escaped}",
        )


def _bounded(sent: Any) -> Any:
    """Refuses a filter that is too deep or too large, before anything recurses into it.

    Raises:
        ValidationError: With the place of what is too much.
    """
    waiting: list[tuple[Any, tuple[str | int, ...], int]] = [(sent, (), 1)]
    conditions = values = 0
    while waiting:
        node, place, depth = waiting.pop()
        if not isinstance(node, dict):
            continue  # for pydantic to refuse, which says it better
        if depth > MAX_DEPTH:
            raise _too_much(place, f"the filter is nested more than {MAX_DEPTH} deep")
        conditions += len(node)
        if conditions > MAX_CONDITIONS:
            raise _too_much(place, f"the filter has more than {MAX_CONDITIONS} conditions")
        for name, part in node.items():
            if name in (_AND, _OR) and isinstance(part, list):
                waiting += [(each, (*place, name, at), depth + 1) for at, each in enumerate(part)]
            elif name == _NOT:
                waiting.append((part, (*place, name), depth + 1))
            elif isinstance(part, dict | list):
                lists = [part] if isinstance(part, list) else [part.get(key) for key in _LISTS]
                values += sum(len(each) for each in lists if isinstance(each, list))
                if values > MAX_VALUES:
                    raise _too_much((*place, str(name)), f"the filter has more than {MAX_VALUES} values")
    return sent


def _too_much(place: tuple[str | int, ...], message: str) -> ValidationError:
    error = InitErrorDetails(type=PydanticCustomError("filter_too_large", message), loc=place, input=None)
    return ValidationError.from_exception_data("filter", [error])


Filter = Annotated[FilterNode, BeforeValidator(_bounded)]
