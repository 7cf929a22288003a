import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_store.artifacts.live_pointer import earlier_bundles, recorded


@pytest.mark.parametrize(
    ("history", "before", "after", "expected"),
    [
        ("", None, "a", "a"),
        ("a", "a", "b", "ab"),
        ("ab", "b", "b", "ab"),
        ("abc", "c", "a", "bca"),
        ("abc", "b", "d", "abd"),  # c was rolled back
        ("abX", "b", "c", "abc"),  # X never went live: killed before the pointer was written
        ("ab", "z", "c", "abzc"),  # the history was lost or edited
    ],
)
def test_what_goes_live_comes_last_and_once(history: str, before: str | None, after: str, expected: str) -> None:
    assert recorded(list(history), before=before, after=after) == list(expected)


@pytest.mark.parametrize(
    ("history", "current", "expected"), [("abc", "c", "ba"), ("abX", "b", "a"), ("a", "a", ""), ("ab", "z", "ba")]
)
def test_a_rollback_goes_to_what_stands_before(history: str, current: str, expected: str) -> None:
    assert earlier_bundles(list(history), current) == list(expected)


@given(st.lists(st.sampled_from("abcd"), min_size=2))
def test_being_killed_between_history_and_pointer_loses_no_rollback_target(published: list[str]) -> None:
    history: list[str] = []
    live: str | None = None
    for bundle in published:
        attempted = recorded(history, before=live, after=bundle)
        if live is not None and live != bundle:
            target = [one for one in earlier_bundles(history, live) if one != bundle]
            assert earlier_bundles(attempted, live) == target
            # and once it is live, a rollback goes to what was live
            assert earlier_bundles(attempted, bundle)[0] == live
        history, live = attempted, bundle
