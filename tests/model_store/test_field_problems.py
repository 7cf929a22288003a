"""What a wrong value is called, whatever pydantic says of it."""

from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field, ValidationError

from model_store.field_problems import describe_problem
from tests.words import RAW_WORDS


class Inner(BaseModel):
    colour: Literal["red", "blue"] = "red"


class Everything(BaseModel):
    model_config = {"extra": "forbid"}

    number: Annotated[int, Field(ge=1, lt=10, multiple_of=3)] = 3
    share: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 0.5
    word: Annotated[str, Field(min_length=2, max_length=4, pattern="^[a-z]+$")] = "ab"
    flag: bool = True
    names: Annotated[list[str], Field(min_length=1, max_length=2)] = ["a"]
    pair: tuple[int, str] = (1, "a")
    table: dict[str, int] = {}
    inner: Inner = Inner()


@pytest.mark.parametrize("field", [*Everything.model_fields, "numbr"])
@pytest.mark.parametrize(
    "value",
    [
        None,
        "x",
        "xxxxx",
        "X1",
        -3,
        4,
        30,
        1.5,
        float("nan"),
        True,
        [],
        [1],
        ["a"] * 3,
        {},
        {"colour": "green"},
        object(),
    ],
)
def test_no_words_of_the_library_and_no_failure(field: str, value: Any) -> None:
    try:
        Everything.model_validate({field: value}, strict=True)
    except ValidationError as error:
        for entry in error.errors(include_url=False):
            words = describe_problem(dict(entry), Everything)
            assert words
            assert not RAW_WORDS.search(words), (entry, words)
            # what an error brings along may be less than the words have room for
            describe_problem({**entry, "ctx": {}}, Everything)


class Strict(Inner):
    model_config = {"extra": "forbid"}


class Outer(BaseModel):
    model_config = {"extra": "forbid"}

    colours: list[str] = []
    inners: list[Strict | str] = []


def test_an_unknown_field_is_compared_with_those_of_its_place_first_and_never_with_itself() -> None:
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate({"colour": "green", "inners": [{"color": 1}]})
    unknown = [entry for entry in caught.value.errors() if entry["type"] == "extra_forbidden"]
    words = {entry["loc"][0]: describe_problem(dict(entry), Outer) for entry in unknown}
    assert words["colour"] == "unknown field 'colour'; did you mean 'colours'?"
    assert words["inners"] == "unknown field 'color'; did you mean 'colour'?"


def test_an_unknown_field_is_compared_with_those_inside_too() -> None:
    with pytest.raises(ValidationError) as caught:
        Everything.model_validate({"color": 1})
    (entry,) = caught.value.errors()
    assert describe_problem(dict(entry), Everything) == "unknown field 'color'; did you mean 'colour'?"
    assert describe_problem(dict(entry)) == "unknown field 'color'"
