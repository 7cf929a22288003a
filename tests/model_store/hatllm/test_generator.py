"""Titles written under beams with shared keys and values, against every title scored one by one by plain code."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model_store.errors import ArtifactIncompatible
from model_store.hatllm.network import HatLLM
from model_store.hatllm.titles.generator import BeamScorer, TitleGenerator, can_generate, make_generator
from model_store.people.histories import History
from tests.model_store.hat_models import TITLES, HatItems, make_hatllm, make_items
from tests.model_store.hatllm.test_user_encoder import history, make_encoder
from tests.oracles.plain_forward import plain_states, word_embeddings

# "red shoe number 0" twice, and one title that goes on where another ends
SHOP = [*TITLES[:10], TITLES[0], TITLES[0] + " and more"]


@dataclass(frozen=True)
class Shop:
    """What a generator needs of a bundle."""

    model_directory: Path
    item_tokens: object
    catalogue: object


@dataclass(frozen=True)
class Popularity:
    popularity: np.ndarray


def make(model: HatLLM, directory: Path, num_beams: int = 50) -> tuple[TitleGenerator, HatItems]:
    items = make_items(model, directory, SHOP)
    popularity = np.arange(len(SHOP))  # the later, the more popular
    return TitleGenerator(items.item_tokens, popularity, make_encoder(items), num_beams=num_beams), items


def title_log_probabilities(model: HatLLM, past: list[int]) -> np.ndarray:
    """(N,) of every title after a history, by the plain forward and a softmax over what can follow."""
    segments = model.item_tokenizer.encode(SHOP)
    ids = [token for item in past for token in segments[item - 1]]
    items = [ordinal for ordinal, item in enumerate(past, start=1) for _ in segments[item - 1]]
    table = word_embeddings(model)
    result = []
    for segment in segments:
        states = plain_states(model, ids + segment, items + [len(past) + 1] * len(segment))
        logits = (states[len(ids) - 1 : -1] @ table.T).detach().double()
        total = 0.0
        for depth, token in enumerate(segment):
            followers = sorted({other[depth] for other in segments if other[:depth] == segment[:depth]})
            total += float(logits[depth][token] - logits[depth][followers].logsumexp(dim=0))
        result.append(total)
    return np.array(result)


@pytest.mark.parametrize("family", ["llama", "qwen3"])
@pytest.mark.parametrize("item_end", ["quote", "end_token"])
def test_generated_items_are_those_of_scoring_every_title(family: str, item_end: str, tmp_path: Path) -> None:
    model = make_hatllm(tmp_path, family=family, item_end=item_end, max_item_tokens=20)
    generator, _ = make(model, tmp_path / "model")
    past = [3, 1, 4, 4, 7]
    expected = title_log_probabilities(model, past)
    for owner in (None, "u", "u"):  # the second time from what was kept
        items, scores = generator.recommend(history(*past, owner=owner), len(SHOP), None)
        assert sorted(items) == list(range(1, len(SHOP) + 1))
        np.testing.assert_allclose(scores, expected[items - 1], atol=1e-3)
        assert (np.diff(scores) <= 1e-6).all()
    distinct = np.delete(expected, 10)
    assert np.exp(distinct).sum() == pytest.approx(1, abs=1e-3)
    # of one title the more popular item comes first
    assert list(items).index(11) < list(items).index(1)


def test_generation_with_few_beams_stays_inside_what_is_allowed(tmp_path: Path) -> None:
    model = make_hatllm(tmp_path, max_item_tokens=20)
    generator, _ = make(model, tmp_path / "model", num_beams=2)
    allowed = np.zeros(len(SHOP), dtype=bool)
    allowed[[1, 4, 10]] = True
    items, scores = generator.recommend(history(2, 3), 3, allowed)
    assert sorted(items) == [2, 5, 11]
    np.testing.assert_allclose(scores, title_log_probabilities(model, [2, 3])[items - 1], atol=1e-3)
    assert len(generator.recommend(history(2, 3), 2, allowed)[0]) == 2
    assert len(generator.recommend(history(2, 3), 2, np.zeros(len(SHOP), dtype=bool))[0]) == 0


def test_generating_leaves_the_kept_state_as_it_was(tmp_path: Path) -> None:
    model = make_hatllm(tmp_path, max_item_tokens=20)
    generator, items = make(model, tmp_path / "model")
    before = generator.encoder.encode([history(1, 2, owner="u")])
    generator.recommend(history(1, 2, owner="u"), 5, None)
    np.testing.assert_array_equal(generator.encoder.encode([history(1, 2, owner="u")]), before)
    np.testing.assert_allclose(make_encoder(items).encode([history(1, 2)]), before, atol=1e-5)


@pytest.mark.parametrize("settings", [{"modes": ("retrieve",)}, {"cr_keys": "all"}, {"target_as_item": False}])
def test_models_that_cannot_write_titles_are_told_apart(settings: dict[str, object], tmp_path: Path) -> None:
    model = make_hatllm(tmp_path, **settings)
    items = make_items(model, tmp_path / "model", SHOP)
    encoder = make_encoder(items)
    shop: Any = Shop(items.model_directory, items.item_tokens, Popularity(np.zeros(len(SHOP))))
    assert not can_generate(encoder)
    assert make_generator(shop, encoder) is None
    with pytest.raises(ArtifactIncompatible, match="does not write titles"):
        TitleGenerator(items.item_tokens, np.zeros(len(SHOP)), encoder)


def test_beams_that_change_places_keep_their_own_past(tmp_path: Path) -> None:
    model = make_hatllm(tmp_path, max_item_tokens=20)
    generator, _ = make(model, tmp_path / "model")
    segments = model.item_tokenizer.encode(SHOP)
    ids = segments[2] + segments[0]
    items = [1] * len(segments[2]) + [2] * len(segments[0])
    with generator.encoder.state_of(History(np.array([3, 1]), np.array([0, 0]))) as state, torch.no_grad():
        scorer = BeamScorer(generator.encoder.model, state)
        scorer.first()
        scorer.step(torch.tensor([0, 0]), torch.tensor([5, 6]))
        scorer.step(torch.tensor([1, 0, 1]), torch.tensor([7, 8, 9]))
        logits = scorer.step(torch.tensor([2, 1]), torch.tensor([10, 11]))
        table = word_embeddings(model)
        for row, title in enumerate(([6, 9, 10], [5, 8, 11])):
            expected = plain_states(model, ids + title, items + [3] * 3)[-1] @ table.T
            torch.testing.assert_close(logits[row], expected, atol=1e-3, rtol=0)
