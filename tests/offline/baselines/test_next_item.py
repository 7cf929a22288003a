import numpy as np
import pytest
import torch

from offline.baselines.networks import BSARec, FrequencyFilter, GRU4Rec, SASRec
from offline.baselines.next_item import NextItemSettings
from offline.baselines.table import BASELINES, Work
from offline.dataset.dataset import UserSequences
from offline.dataset.splits import leave_one_out
from offline.evaluation.catalogue_ranking import rank_cases

NUM_ITEMS = 12
SETTINGS = NextItemSettings(
    width=16, dropout=0.1, max_length=6, batch_size=32, learning_rate=1e-2, epochs=15, max_minutes=2
)


def cycle() -> UserSequences:
    """60 users walk 1, 6, 11, 4, ... (five further each time, modulo 12) from places of their own, six steps each."""
    items = np.concatenate([5 * (user + np.arange(6)) % NUM_ITEMS + 1 for user in range(60)])
    return UserSequences(
        user_ids=[f"u{user}" for user in range(60)],
        offsets=np.arange(61) * 6,
        item_indices=items.astype(np.int32),
        timestamps=np.arange(360),
    )


@pytest.mark.parametrize("name", ["gru4rec", "sasrec", "bsarec"])
def test_a_sequence_baseline_learns_what_comes_next(name: str) -> None:
    split = leave_one_out(cycle())
    work = Work(split, NUM_ITEMS, SETTINGS)
    ranks = {
        each: rank_cases(BASELINES[each](work).scorer, split.test, num_items=NUM_ITEMS, k=5).ranks
        for each in (name, "popularity")
    }

    assert (ranks[name] == 1).mean() > 0.7
    assert (ranks["popularity"] == 1).mean() < 0.5


def test_the_weights_are_those_of_the_best_epoch() -> None:
    split = leave_one_out(cycle())
    trained = BASELINES["sasrec"](Work(split, NUM_ITEMS, SETTINGS))

    ranks = rank_cases(trained.scorer, split.validation, num_items=NUM_ITEMS, k=1).ranks
    gains = np.where(ranks <= 10, 1 / np.log2(1 + ranks), 0.0)
    assert gains.mean() == pytest.approx(trained.training["ndcg@10"])
    assert trained.training["best_epoch"] <= trained.training["epochs"]


@pytest.mark.parametrize("network", [GRU4Rec, SASRec])
def test_no_state_of_a_causal_network_depends_on_later_items(network: type[GRU4Rec] | type[SASRec]) -> None:
    model = network(8, 6, 0.0).eval()
    items, is_item = torch.randn(2, 6, 8), torch.ones(2, 6, dtype=torch.bool)
    changed = items.clone()
    changed[:, 4:] += 1.0

    assert network.is_causal
    assert torch.allclose(model(items, is_item)[:, :4], model(changed, is_item)[:, :4], atol=1e-5)


def test_the_filter_of_bsarec_reads_later_items_so_that_only_its_last_position_is_trained() -> None:
    torch.manual_seed(0)
    model = BSARec(8, 6, 0.0).eval()
    items, is_item = torch.randn(2, 6, 8), torch.ones(2, 6, dtype=torch.bool)
    changed = items.clone()
    changed[:, 4:] += torch.randn(2, 2, 8)

    assert not torch.allclose(model(items, is_item)[:, :4], model(changed, is_item)[:, :4], atol=1e-3)
    assert not BSARec.is_causal


def test_the_filter_keeps_a_constant_and_scales_what_alternates() -> None:
    module = FrequencyFilter(2, 0.0, num_frequencies=1)
    with torch.no_grad():
        module.beta.fill_(0.5)
    module.register_module("norm", torch.nn.Identity())
    constant = torch.ones(1, 4, 2)
    alternating = torch.tensor([1.0, -1.0, 1.0, -1.0])[None, :, None].expand(1, 4, 2)

    assert torch.allclose(module(constant), 2 * constant, atol=1e-6)
    assert torch.allclose(module(alternating), 1.25 * alternating, atol=1e-6)
