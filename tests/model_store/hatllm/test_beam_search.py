"""The search against answers worked out by hand and against going through every title."""

import math
import zlib
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model_store.errors import InvalidInput
from model_store.hatllm.titles.beam_search import beam_search
from model_store.hatllm.titles.trie import TitleTrie

END = 0
VOCABULARY = 6
Title = tuple[int, ...]


class TableScorer:
    """Logits that depend on the tokens read so far and nothing else: from a table, else from a checksum of them.

    ``read`` holds, step by step, what every beam had read after it.
    """

    def __init__(self, table: Mapping[Title, Mapping[int, float]] | None = None, seed: int = 0) -> None:
        self.table = table
        self.seed = seed
        self.beams: list[Title] = []
        self.read: list[list[Title]] = []

    def logits(self, prefix: Title) -> list[float]:
        if self.table is not None:
            return [self.table.get(prefix, {}).get(token, 0.0) for token in range(VOCABULARY)]
        return [zlib.crc32(bytes([self.seed, *prefix, token])) / 2**32 * 6 for token in range(VOCABULARY)]

    def first(self) -> torch.Tensor:
        assert not self.read, "the history is read once"
        self.beams = [()]
        self.read.append(self.beams)
        return torch.tensor(self.logits(()), dtype=torch.float32)

    def step(self, parents: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        assert parents.dtype == tokens.dtype == torch.int64
        assert parents.shape == tokens.shape
        pairs = zip(parents.tolist(), tokens.tolist(), strict=True)
        self.beams = [(*self.beams[parent], token) for parent, token in pairs]
        self.read.append(self.beams)
        return torch.tensor([self.logits(beam) for beam in self.beams], dtype=torch.float32)


def make_trie(titles: Sequence[Sequence[int]], popularity: Sequence[float] | None = None) -> TitleTrie:
    offsets = np.cumsum([0, *map(len, titles)]).astype(np.int64)
    token_ids = np.array([token for title in titles for token in title], dtype=np.int32)
    return TitleTrie.from_tokens(token_ids, offsets, np.asarray(popularity or [0.0] * len(titles)))


def probabilities(titles: Sequence[Title], scorer: TableScorer) -> dict[Title, float]:
    """Of every distinct title, by going through all of them at every token."""
    result = {}
    for title in set(titles):
        log_probability = 0.0
        for depth, token in enumerate(title):
            followers = {other[depth] for other in titles if other[:depth] == title[:depth]}
            logits = np.float32(scorer.logits(title[:depth])).astype(float)
            log_probability += logits[token] - math.log(sum(math.exp(logits[one]) for one in followers))
        result[title] = log_probability
    return result


def thirds(*tokens: int) -> dict[int, float]:
    """Logits that make the first token twice as probable as the second."""
    return dict(zip(tokens, (math.log(2.0), 0.0), strict=True))


def test_titles_come_by_probability_and_forced_tokens_cost_nothing() -> None:
    # 1 -> 2/3, below it 3 5 0 -> 1/3 and 2 0 -> 2/3; 4 4 4 4 0 -> 1/3 with a tail that no other title shares
    trie = make_trie([(1, 3, 5, END), (4, 4, 4, 4, END), (1, 2, END)])
    scorer = TableScorer({(): thirds(1, 4), (1,): thirds(2, 3)})
    items, scores = beam_search(scorer, trie, num_beams=4, k=3)
    assert items.tolist() == [3, 2, 1]
    assert np.exp(scores) == pytest.approx([4 / 9, 1 / 3, 2 / 9], rel=1e-6)
    assert (items.dtype, scores.dtype) == (np.int64, np.float32)
    assert scorer.read == [[()], [(1,)]]  # the tails, being certain, were not read


def test_a_forced_token_before_a_branch_is_read_but_costs_nothing() -> None:
    trie = make_trie([(2, 3, 1, END), (2, 3, 4, END)])
    # what is not in the catalogue takes no probability, however much the model would like it
    scorer = TableScorer({(): {5: 50.0}, (2,): {5: 50.0}, (2, 3): {5: 50.0} | thirds(4, 1)})
    items, scores = beam_search(scorer, trie, num_beams=2, k=2)
    assert scorer.read == [[()], [(2,)], [(2, 3)]]
    assert items.tolist() == [2, 1]
    assert np.exp(scores) == pytest.approx([2 / 3, 1 / 3], rel=1e-6)


def test_a_title_that_continues_another_is_another() -> None:
    trie = make_trie([(1, END), (1, 1, END), (2, END)])
    items, scores = beam_search(TableScorer({(): thirds(1, 2), (1,): thirds(1, END)}), trie, num_beams=3, k=3)
    assert dict(zip(items.tolist(), np.exp(scores), strict=True)) == pytest.approx({1: 2 / 9, 2: 4 / 9, 3: 1 / 3})


def test_one_beam_is_greedy_and_more_find_what_it_misses() -> None:
    # 1 is likelier than 2, but splits evenly between three titles; 2 splits 100 : 1
    titles = [(1, 1, END), (1, 2, END), (1, 3, END), (2, 1, END), (2, 2, END)]
    table = {(): thirds(1, 2), (2,): {1: math.log(100.0), 2: 0.0}}
    greedy, _ = beam_search(TableScorer(table), make_trie(titles), num_beams=1, k=1)
    assert greedy.tolist() == [1]
    items, scores = beam_search(TableScorer(table), make_trie(titles), num_beams=2, k=2)
    assert items.tolist() == [4, 1]
    assert np.exp(scores) == pytest.approx([100 / 303, 2 / 9], rel=1e-6)


def test_the_search_ends_when_no_beam_can_beat_the_answer() -> None:
    titles = [(1, END), (2, 3, END), (2, 4, END)]
    scorer = TableScorer({(): thirds(1, 2)})
    items, _ = beam_search(scorer, make_trie(titles), num_beams=5, k=1)
    assert items.tolist() == [1]
    assert len(scorer.read) == 1
    scorer = TableScorer({(): thirds(2, 1), (2,): thirds(4, 3)})  # now the beam can: 4/9 against 1/3
    items, _ = beam_search(scorer, make_trie(titles), num_beams=5, k=1)
    assert items.tolist() == [3]
    assert len(scorer.read) == 2


def test_a_finished_title_takes_no_beam() -> None:
    titles = [(1, END), (2, END), (3, 1, END), (3, 2, END)]
    scorer = TableScorer({(): {1: 3.0, 2: 2.0, 3: 2.5}, (3,): {1: 5.0, 2: 0.0}})
    items, _ = beam_search(scorer, make_trie(titles), num_beams=2, k=2)
    assert items.tolist() == [1, 3]


def test_beams_follow_their_parents_when_they_change_places() -> None:
    titles = [(first, second, third, END) for first in (1, 2) for second in (3, 4) for third in (1, 5)]
    table = {
        (): thirds(1, 2),
        (1,): {3: 0.0, 4: 0.1},
        (2,): {3: 9.0, 4: 0.0},
        (2, 3): {1: 8.0, 5: 0.0},
        (1, 4): {1: 0.0, 5: 0.3},
    }
    scorer = TableScorer(table)
    items, scores = beam_search(scorer, make_trie(titles), num_beams=3, k=2)
    assert scorer.read == [[()], [(1,), (2,)], [(1, 4), (2, 3), (1, 3)]]
    truth = probabilities(titles, scorer)
    assert [titles[item - 1] for item in items] == sorted(titles, key=lambda title: -truth[title])[:2]
    assert scores == pytest.approx(sorted(truth.values(), reverse=True)[:2], abs=1e-5)


def test_items_with_one_title_come_together_by_popularity_with_its_probability() -> None:
    trie = make_trie([(1, END), (2, END), (1, END), (1, END)], popularity=[1, 9, 3, 3])
    table = {(): thirds(1, 2)}
    items, scores = beam_search(TableScorer(table), trie, num_beams=2, k=9)
    assert items.tolist() == [3, 4, 1, 2]
    assert np.exp(scores) == pytest.approx([2 / 3, 2 / 3, 2 / 3, 1 / 3], rel=1e-6)
    items, _ = beam_search(TableScorer(table), trie, num_beams=2, k=2)
    assert items.tolist() == [3, 4]
    allowed = np.array([True, True, False, True])
    items, _ = beam_search(TableScorer(table), trie, num_beams=2, k=9, allowed=allowed)
    assert items.tolist() == [4, 1, 2]


def test_what_is_not_allowed_keeps_its_probability_to_itself() -> None:
    trie = make_trie([(1, 2, END), (1, 3, END), (4, END)])
    table = {(): thirds(1, 4), (1,): thirds(2, 3)}
    allowed = np.array([False, True, True])
    items, scores = beam_search(TableScorer(table), trie, num_beams=3, k=3, allowed=allowed)
    assert items.tolist() == [3, 2]
    assert np.exp(scores) == pytest.approx([1 / 3, 2 / 9], rel=1e-6)


def test_a_branch_without_anything_allowed_is_not_read() -> None:
    trie = make_trie([(1, 2, END), (1, 3, END), (4, END)])
    scorer = TableScorer({(): thirds(1, 4)})
    items, _ = beam_search(scorer, trie, num_beams=3, k=3, allowed=np.array([False, False, True]))
    assert items.tolist() == [3]
    assert scorer.read == [[()]]


def test_with_nothing_allowed_the_model_is_not_run() -> None:
    scorer = TableScorer({})
    trie = make_trie([(1, 2, END), (4, END)])
    items, scores = beam_search(scorer, trie, num_beams=3, k=3, allowed=np.zeros(2, dtype=bool))
    assert len(items) == len(scores) == 0
    assert scorer.read == []


def test_equally_probable_titles_come_in_the_order_of_their_tokens() -> None:
    titles = [(token, END) for token in (4, 2, 5, 1, 3)]
    items, _ = beam_search(TableScorer({}), make_trie(titles), num_beams=5, k=3)
    assert items.tolist() == [4, 2, 5]


def test_half_precision_logits_with_gradient_are_read() -> None:
    class Half(TableScorer):
        def first(self) -> torch.Tensor:
            return super().first().to(torch.bfloat16).requires_grad_()

    items, _ = beam_search(Half({(): thirds(2, 1)}), make_trie([(1, END), (2, END)]), num_beams=1, k=1)
    assert items.tolist() == [2]


CATALOGUES = st.lists(st.lists(st.integers(1, VOCABULARY - 1), max_size=4), min_size=1, max_size=20)


@given(CATALOGUES, st.integers(0, 255))
def test_with_enough_beams_the_answer_is_that_of_going_through_every_title(bodies: list[list[int]], seed: int) -> None:
    titles = [(*body, END) for body in bodies]
    scorer = TableScorer(seed=seed)
    items, scores = beam_search(scorer, make_trie(titles), num_beams=len(titles), k=len(titles))
    truth = probabilities(titles, scorer)
    assert sum(map(math.exp, truth.values())) == pytest.approx(1.0)
    assert sorted(items.tolist()) == list(range(1, len(titles) + 1))
    assert scores == pytest.approx([truth[titles[item - 1]] for item in items], abs=1e-5)
    assert (np.diff(scores) <= 0).all()
    distinct = {titles[item - 1]: score for item, score in zip(items, scores, strict=True)}
    assert sum(math.exp(score) for score in distinct.values()) == pytest.approx(1.0, abs=1e-5)


@given(CATALOGUES, st.data())
def test_any_search_returns_allowed_items_with_their_probability_as_many_as_its_beams_reach(
    bodies: list[list[int]], data: st.DataObject
) -> None:
    titles = [(*body, END) for body in bodies]
    popularity = data.draw(st.lists(st.integers(0, 2), min_size=len(titles), max_size=len(titles)))
    allowed = np.array(data.draw(st.lists(st.booleans(), min_size=len(titles), max_size=len(titles))))
    num_beams, k = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 8))
    scorer = TableScorer(seed=data.draw(st.integers(0, 255)))
    trie = make_trie(titles, [float(value) for value in popularity])
    items, scores = beam_search(scorer, trie, num_beams=num_beams, k=k, allowed=allowed)

    admissible = [title for title, is_allowed in zip(titles, allowed, strict=True) if is_allowed]
    truth = {title: log for title, log in probabilities(titles, scorer).items() if title in set(admissible)}
    assert len(set(items.tolist())) == len(items) <= k
    assert allowed[items - 1].all()
    assert scores == pytest.approx([truth[titles[item - 1]] for item in items], abs=1e-5)
    assert (np.diff(scores) <= 0).all()
    assert len(items) >= min(k, num_beams, len(truth))
    assert all(len(beams) <= num_beams for beams in scorer.read)
    if num_beams >= min(k, len(truth)):
        assert len(items) == min(k, len(admissible))
    if num_beams >= len(truth):  # then the answer is exact
        every = sorted((truth[title] for title in admissible), reverse=True)
        assert scores == pytest.approx(every[:k], abs=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_beams": 0, "k": 1}, "num_beams is 0, expected at least 1"),
        ({"num_beams": 1, "k": 0}, "k is 0, expected at least 1"),
        ({"num_beams": 1, "k": 1, "allowed": np.ones(3, bool)}, r"expected bool of shape \(2,\)"),
        ({"num_beams": 1, "k": 1, "allowed": np.ones(2)}, "allowed is float64"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict, message: str) -> None:
    scorer = TableScorer({})
    with pytest.raises(InvalidInput, match=message):
        beam_search(scorer, make_trie([(1, END), (2, END)]), **arguments)
    assert scorer.read == []


def test_titles_of_another_vocabulary_are_refused() -> None:
    with pytest.raises(InvalidInput, match="the token 9, but the model knows 6 tokens"):
        beam_search(TableScorer({}), make_trie([(1, END), (9, END)]), num_beams=1, k=1)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_broken_model_is_an_error_and_not_an_answer(value: float) -> None:
    with pytest.raises(FloatingPointError, match="not finite"):
        beam_search(TableScorer({(): {2: value}}), make_trie([(1, END), (2, END)]), num_beams=1, k=1)
    # what the trie does not allow does not matter
    items, _ = beam_search(TableScorer({(): {5: value}}), make_trie([(1, END), (2, END)]), num_beams=1, k=1)
    assert items.tolist() == [1]
