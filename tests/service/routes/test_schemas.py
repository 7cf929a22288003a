"""What a caller is told about a wrong value."""

from typing import Any

import pytest
from pydantic import ValidationError

from service.http.problems import describe_problem
from service.routes.schemas.recommend import RecommendRequest


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"history": [], "k": -1}, "Input should be greater than or equal to 1, got -1"),
        ({"history": [], "k": "10"}, "Input should be a valid integer, got '10'"),
        ({"history": [], "model": "x" * 65}, "String should have at most 64 characters"),
        ({"history": [], "model": ["a"]}, "Input should be a valid string"),
        ({"history": [], "model": 7}, "Input should be a valid string, got 7"),
    ],
)
def test_a_wrong_value_is_named_where_it_is_short(body: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValidationError) as caught:
        RecommendRequest.model_validate(body)
    assert describe_problem(dict(caught.value.errors()[0])) == expected


def test_every_field_of_a_request_is_described() -> None:
    assert [name for name, field in RecommendRequest.model_fields.items() if not field.description] == []
