from pathlib import Path

import pytest
import torch
from torch.nn import functional

from model_store.errors import InvalidInput
from model_store.hllm.files import load_hllm, save_hllm
from model_store.hllm.network import HLLMConfig
from model_store.hllm.recent_mean import NUM_LAGS, RecentMean
from tests.model_store.models import make_hllm


def test_a_state_is_the_sum_of_the_latest_directions_times_their_lags() -> None:
    torch.manual_seed(0)
    reader = RecentMean(3)
    items = torch.randn(1, NUM_LAGS + 4, 3) * 5
    with torch.no_grad():
        reader.lag_weights.copy_(torch.randn(NUM_LAGS))
        found = reader(items, torch.ones(1, NUM_LAGS + 4, dtype=torch.bool))[0]

    directions = functional.normalize(items[0], dim=-1)
    for place in range(NUM_LAGS + 4):
        expected = sum(reader.lag_weights[lag] * directions[place - lag] for lag in range(min(NUM_LAGS, place + 1)))
        torch.testing.assert_close(found[place], expected.detach())


@pytest.mark.parametrize(
    "settings",
    [
        {"user_model": "lags", "has_time_features": False, "has_item_vectors": False},
        {"averaging": 0.6},
        {"averaging": 0.3, "has_time_features": False},
    ],
)
def test_what_reads_histories_is_saved_and_loaded_and_padding_changes_nothing(settings: dict, tmp_path: Path) -> None:
    model = make_hllm(**settings)
    save_hllm(model, tmp_path)
    loaded = load_hllm(tmp_path, parts={"user"})
    assert (tmp_path / "user_llm").is_dir() == ("user_model" not in settings)
    items = torch.randn(1, 4, 64, generator=torch.Generator().manual_seed(1))
    padded = torch.cat([items, torch.full((1, 3, 64), 7.0)], dim=1)
    times = torch.arange(7)[None]
    with torch.no_grad():
        saved = model.encode_users(items, torch.ones(1, 4, dtype=torch.bool), times[:, :4])
        alone = loaded.encode_users(items, torch.ones(1, 4, dtype=torch.bool), times[:, :4])
        among = loaded.encode_users(padded, torch.arange(7)[None] < 4, times)
    assert torch.equal(saved, alone)
    torch.testing.assert_close(alone, among)


def test_a_configuration_of_the_first_release_is_read() -> None:
    values = HLLMConfig(embedding_dim=8).to_dict()
    del values["user_model"], values["averaging"]
    assert HLLMConfig.from_dict(values) == HLLMConfig(embedding_dim=8)


@pytest.mark.parametrize(
    "settings", [{"user_model": "mean"}, {"averaging": 1.0}, {"user_model": "lags", "averaging": 0.5}]
)
def test_settings_that_are_none_are_refused(settings: dict) -> None:
    with pytest.raises(InvalidInput):
        HLLMConfig(embedding_dim=8, **settings)
