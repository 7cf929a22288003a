"""What is refused before parsing: deep nesting, NaN, Infinity; and nothing that is fine."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.http.json_guard import json_problem

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=20,
)


def _depth(value: object) -> int:
    if isinstance(value, dict):
        return 1 + max(map(_depth, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(_depth, value), default=0)
    return 0


@given(VALUES, st.integers(1, 4))
def test_exactly_what_is_deeper_is_refused(value: object, max_depth: int) -> None:
    for body in (json.dumps(value).encode(), json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")):
        assert (json_problem(body, max_depth=max_depth) is None) == (_depth(value) <= max_depth)


@given(st.text())
def test_whatever_stands_in_a_string_is_text(text: str) -> None:
    value = {"text": text + '"\\NaN [[[[ {{{{ Infinity', '\\"': "]]"}
    assert json_problem(json.dumps(value).encode(), max_depth=2) is None


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_a_number_that_is_none_is_named(number: str) -> None:
    reason = json_problem(f'{{"properties": {{"price": {number}}}}}'.encode(), max_depth=9)
    assert reason is not None
    assert number.removeprefix("-") in reason


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 1_000_000,
        b'{"a":' * 200_000,
        b'"' * 1_000_000,
        b'"\\' * 500_000,
        b'["' + b"\\" * 999_990,
        b"]" * 1_000_000,
        b"[]" * 500_000,
        b"NaN" * 300_000,
        b'"NaN' + b"[" * 900_000,
    ],
)
def test_no_body_of_a_megabyte_takes_long(body: bytes) -> None:
    started = time.perf_counter()
    json_problem(body, max_depth=32)
    assert time.perf_counter() - started < 3  # what is not linear takes minutes
