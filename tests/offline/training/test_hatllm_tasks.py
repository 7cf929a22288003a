"""The fast, shared computation of a batch against the dense one written out item by item."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from model_store.hatllm.network import HatLLM
from offline.indexing.catalogue_tokens import CatalogueTokens
from offline.training.hatllm.tasks import HatGenerateTask, HatRetrieveTask, HatTowerTask, HatWindows, title_losses
from offline.training.ranking_task import Candidates
from tests.model_store.hat_models import TITLES, make_hatllm

NUM_ITEMS = len(TITLES)
# windows of item_index, 0 = padding; item 3 is repeated, item 9 is an input in one window and a target in another
ITEMS = torch.tensor([[3, 1, 9, 3, 12], [7, 9, 4, 0, 0], [20, 5, 0, 0, 0]])
NEGATIVES = torch.tensor([15, 2, 9])
# only the first two items have a vector
VECTOR_ROWS = torch.tensor([-1, 0, 1] + [-1] * (NUM_ITEMS - 2))


def windows_of(model: HatLLM) -> HatWindows:
    encoded = model.item_tokenizer.encode(TITLES)
    offsets = np.cumsum([0, *map(len, encoded)])
    flat = np.array([token for ids in encoded for token in ids], dtype=np.int32)
    return HatWindows(model, CatalogueTokens(flat, offsets, np.zeros(len(encoded), dtype="S32")))


def make_model(directory: Path, **settings: object) -> HatLLM:
    model = make_hatllm(directory, has_item_vectors=True, **settings)
    assert model.item_vectors is not None
    torch.nn.init.normal_(model.item_vectors.weight, std=0.3)
    return model


class ThreeCandidates(Candidates):
    """Draws the same negatives every time."""

    def __init__(self) -> None:
        super().__init__(torch.arange(1, NUM_ITEMS + 1), num_items=NUM_ITEMS, num_negatives=3)

    def draw_distinct(self) -> torch.Tensor:
        return NEGATIVES


def retrieve_task(model: HatLLM, **options: float) -> HatRetrieveTask:
    return HatRetrieveTask(
        model,
        windows_of(model),
        candidates=ThreeCandidates(),
        vector_rows=VECTOR_ROWS,
        **{"false_negative_cosine": 1.0, **options},
    )


def dense_state(model: HatLLM, items: list[int]) -> torch.Tensor:
    """(H,) state at the last token of one history, all tokens through all layers under their masks."""
    encoded = model.item_tokenizer.encode([TITLES[item - 1] for item in items])
    token_ids = [token for ids in encoded for token in ids]
    item_map = [place for place, ids in enumerate(encoded, start=1) for _ in ids]
    return model.dense_states(torch.tensor([token_ids]), torch.tensor([item_map]))[0, -1]


def dense_embedding(model: HatLLM, item: int) -> torch.Tensor:
    assert model.item_head is not None
    assert model.item_vectors is not None
    text = model.item_head(dense_state(model, [item]))
    return text + model.item_vectors.weight[VECTOR_ROWS[item]] if VECTOR_ROWS[item] >= 0 else text


def position_loss(model: HatLLM, history: list[int], target: int, candidates: list[int]) -> torch.Tensor:
    """Cross-entropy of one position among the target and some other items."""
    query = model.user_head(dense_state(model, history))
    rows = torch.stack([dense_embedding(model, item) for item in (target, *candidates)])
    logits = functional.cosine_similarity(query[None], rows) * model.logit_scale.exp()
    return functional.cross_entropy(logits[None], torch.tensor([0]))


def positions() -> list[tuple[list[int], int, set[int]]]:
    """History, target and all items of the user, of every position."""
    rows = [[item for item in row if item] for row in ITEMS.tolist()]
    return [(row[:place], row[place], set(row)) for row in rows for place in range(1, len(row))]


def gradients(model: HatLLM, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}


def assert_same_gradients(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert set(actual) == set(expected)
    for name, gradient in actual.items():
        torch.testing.assert_close(
            gradient, expected[name], atol=2e-5, rtol=1e-3, msg=lambda text, n=name: f"{n}: {text}"
        )


@pytest.mark.parametrize(
    "settings",
    [{}, {"in_layers": 0, "cr_layers": 0}, {"band_order": ("cr", "or", "in")}, {"cr_keys": "all"}],
    ids=["fast", "no masks", "another order", "all keys"],
)
def test_loss_and_gradients_of_a_batch_are_those_of_its_positions_one_by_one(
    settings: dict[str, object], tmp_path: Path
) -> None:
    model = make_model(tmp_path, **settings)
    task = retrieve_task(model)
    loss = task(input_ids=ITEMS)["loss"]
    actual = gradients(model, loss)

    everything = sorted({*ITEMS.flatten().tolist(), *NEGATIVES.tolist()} - {0})
    losses = [
        position_loss(model, history, target, [item for item in everything if item not in own])
        for history, target, own in positions()
    ]
    expected = torch.stack(losses).mean()
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
    assert_same_gradients(actual, gradients(model, expected))
    survivors = [len(everything) - len(own) for _, _, own in positions()]
    assert task.training_figures()["negatives_surviving"] == pytest.approx(np.mean(survivors))


def test_with_stored_embeddings_the_whole_catalogue_is_compared(tmp_path: Path) -> None:
    model = make_hatllm(tmp_path)
    table = torch.randn(NUM_ITEMS + 1, 16, generator=torch.Generator().manual_seed(3))
    known = torch.arange(1, NUM_ITEMS + 1)
    task = HatTowerTask(
        model,
        windows_of(model),
        table=table,
        candidates=Candidates(known, num_items=NUM_ITEMS, num_negatives=None),
        vector_rows=torch.full((NUM_ITEMS + 1,), -1),
        false_negative_cosine=1.0,
    )
    loss = task(input_ids=ITEMS)["loss"]
    losses = []
    for history, target, _ in positions():
        query = model.user_head(dense_state(model, history))
        logits = functional.cosine_similarity(query[None], table[1:]) * model.logit_scale.exp()
        losses.append(functional.cross_entropy(logits[None], torch.tensor([target - 1])))
    torch.testing.assert_close(loss, torch.stack(losses).mean(), atol=1e-5, rtol=1e-5)


def test_both_losses_are_added_by_their_weight(tmp_path: Path) -> None:
    model = make_model(tmp_path)
    retrieve = retrieve_task(model)(input_ids=ITEMS)["loss"]
    generate = HatGenerateTask(model, windows_of(model))(input_ids=ITEMS)["loss"]
    both = retrieve_task(model, generate_weight=0.5)
    torch.testing.assert_close(both(input_ids=ITEMS)["loss"], retrieve + 0.5 * generate)
    assert both.training_figures()["generate_loss"] == pytest.approx(generate.item(), rel=1e-5)


@pytest.mark.parametrize("target_as_item", [True, False])
def test_validation_of_generation_is_the_loss_of_the_targets_title_alone(target_as_item: bool, tmp_path: Path) -> None:
    model = make_model(tmp_path, target_as_item=target_as_item)
    task = HatGenerateTask(model, windows_of(model)).eval()
    batch = {"input_ids": torch.tensor([[3, 1, 9], [7, 0, 0]]), "targets": torch.tensor([12, 4])}
    with torch.no_grad():
        losses = task.evaluate_cases(batch)
        for row, history in enumerate(([3, 1, 9, 12], [7, 4])):
            encoded = model.item_tokenizer.encode([TITLES[item - 1] for item in history])
            token_ids = torch.tensor([[token for ids in encoded for token in ids]])
            target = len(history) if target_as_item else 0
            ordinals = [*range(1, len(history)), target]
            item_map = torch.tensor([[place for place, ids in zip(ordinals, encoded, strict=True) for _ in ids]])
            logits = model.token_logits(model.dense_states(token_ids, item_map))[0]
            count = len(encoded[-1])
            expected = functional.cross_entropy(logits[-count - 1 : -1], token_ids[0, -count:])
            torch.testing.assert_close(losses[row], expected, atol=1e-5, rtol=1e-5)
    assert task.summarise(losses.numpy())["loss"] == pytest.approx(float(losses.mean()))


def test_training_on_one_history_predicts_the_title_that_follows(tmp_path: Path) -> None:
    model = make_model(tmp_path)
    windows = windows_of(model)
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(60):
        optimiser.zero_grad()
        loss = HatGenerateTask(model, windows)(input_ids=ITEMS[:1])["loss"]
        loss.backward()
        optimiser.step()
    tokens, places = windows.tokens_of(ITEMS[:1])
    with torch.no_grad():
        assert float(title_losses(model, tokens, places)[0]) < 0.2


def test_ranks_are_those_of_the_dense_cosines_without_the_history(tmp_path: Path) -> None:
    model = make_model(tmp_path)
    task = retrieve_task(model)
    batch = {
        "input_ids": torch.tensor([[3, 1, 9], [7, 0, 0]]),
        "seen": torch.tensor([[5, 3, 1, 9], [7, 0, 0, 0]]),
        "targets": torch.tensor([12, 4]),
    }
    with torch.no_grad(), task.evaluation():
        ranks = task.evaluate_cases(batch).tolist()
        for rank, history, seen, target in zip(ranks, ([3, 1, 9], [7]), ({5, 3, 1, 9}, {7}), (12, 4), strict=True):
            query = model.user_head(dense_state(model, history))
            scores = {
                item: float(functional.cosine_similarity(query, dense_embedding(model, item), dim=0))
                for item in range(1, NUM_ITEMS + 1)
                if item not in seen
            }
            assert rank == 1 + sum(score > scores[target] for score in scores.values())


def test_negatives_are_drawn_without_repeats_and_again_from_the_same_state() -> None:
    known = torch.arange(2, 60, 2)
    candidates = Candidates(known, num_items=60, num_negatives=20)
    torch.manual_seed(5)
    first, second = candidates.draw_distinct(), candidates.draw_distinct()
    torch.manual_seed(5)
    assert torch.equal(first, candidates.draw_distinct())
    assert not torch.equal(first, second)
    assert len(set(first.tolist())) == 20
    assert set(first.tolist()) <= set(known.tolist())
    assert len(Candidates(known, num_items=60, num_negatives=100).draw_distinct()) == len(known)
