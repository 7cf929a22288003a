"""What a caller is told about a wrong value."""

from typing import Any

import pytest
from pydantic import ValidationError

from model_store.field_problems import describe_problem
from service.routes.schemas.recommend import RecommendRequest


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"history": [], "k": -1}, "expected at least 1, got -1"),
        ({"history": [], "k": "10"}, "expected a whole number, got '10'"),
        (
            {"history": [], "model": "x" * 65},
            "expected at most 64 characters, got 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx'",
        ),
        ({"history": [], "model": ["a"]}, "expected text"),
        ({"history": [], "model": 7}, "expected text, got 7"),
    ],
)
def test_a_wrong_value_is_named_where_it_is_short(body: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValidationError) as caught:
        RecommendRequest.model_validate(body)
    assert describe_problem(dict(caught.value.errors()[0])).startswith(expected)


def test_every_field_of_a_request_is_described() -> None:
    assert [name for name, field in RecommendRequest.model_fields.items() if not field.description] == []
