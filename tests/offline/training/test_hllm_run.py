import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model_store.artifacts.store import ModelStore
from model_store.errors import InvalidInput
from model_store.hllm.files import load_hllm
from offline.dataset.dataset import Dataset
from offline.dataset.splits import is_held_out
from offline.training.hllm.run import train_hllm
from offline.training.hllm.settings import TrainSettings
from offline.training.losses import TrainingCollapsed
from offline.training.trainer import TaskTrainer
from tests.offline.training.chain_shop import NUM_ITEMS, write_chain_shop


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_chain_shop(tmp_path_factory.mktemp("data") / "shop")


def settings(shop: Path, store: Path, **changes: Any) -> TrainSettings:
    quick = TrainSettings(data=shop, store=str(store), preset="tiny", device="cpu", precision="float32", epochs=2)
    return dataclasses.replace(quick, **changes)


def test_the_id_twin_learns_what_follows_what(shop: Path, tmp_path: Path) -> None:
    manifest = train_hllm(settings(shop, tmp_path / "store", item_input="id", epochs=6, learning_rate=3e-3))

    # by chance a target is among the first ten of forty in a quarter of the cases
    assert manifest.metrics["validation_recall@10"] > 0.6
    assert manifest.training["split"] == "leave-one-out"
    assert manifest.training["hold_out_items"] == 0.0
    assert manifest.training["seed"] == 0
    model = load_hllm(ModelStore(tmp_path / "store").model_directory(manifest.model_id))
    assert model.item_llm is None
    assert model.item_vectors is not None
    assert model.item_vectors.weight.shape == (NUM_ITEMS, 128)
    assert list((tmp_path / "store/work").iterdir()) == []


def test_weights_that_are_no_numbers_end_training_before_a_checkpoint_is_the_best(shop: Path, tmp_path: Path) -> None:
    run = settings(shop, tmp_path / "store", item_input="id", epochs=2, learning_rate=1e38)
    with pytest.raises(TrainingCollapsed, match="not finite numbers; try a lower --learning-rate"):
        train_hllm(run)
    assert ModelStore(tmp_path / "store").models() == []


def test_items_of_one_text_end_a_short_training_without_a_model(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shop = write_chain_shop(tmp_path / "shop", title="Hat")
    with pytest.raises(TrainingCollapsed, match=r"0.00% of negatives survive .* are the items' texts the same"):
        train_hllm(settings(shop, tmp_path / "store", stage="1", epochs=1, item_vectors=False))
    assert "40 of 40 items have the same text, 'Hat'" in caplog.text
    assert ModelStore(tmp_path / "store").models() == []


def test_both_stages_from_scratch_train_the_item_llm_and_then_freeze_it(shop: Path, tmp_path: Path) -> None:
    one = settings(shop, tmp_path / "store", stage="1", epochs=1, gradient_checkpointing=True)
    both = settings(shop, tmp_path / "store", stage="both", epochs=1, gradient_checkpointing=True)
    store = ModelStore(tmp_path / "store")
    first, second = (load_hllm(store.model_directory(train_hllm(run).model_id)) for run in (one, both))

    assert second.item_llm is not None
    assert first.item_llm is not None
    for name, tensor in first.item_llm.state_dict().items():
        assert torch.equal(tensor, second.item_llm.state_dict()[name]), name
    assert first.item_vectors is not None
    assert second.item_vectors is not None
    assert not torch.equal(first.item_vectors.weight, second.item_vectors.weight)


def test_items_held_out_have_no_vector_and_are_known_by_text_alone(shop: Path, tmp_path: Path) -> None:
    run = settings(shop, tmp_path / "store", stage="2", whiten_power=1.0, hold_out_items=0.3, seed=3, epochs=1)
    manifest = train_hllm(run)

    item_ids = Dataset.open(shop).catalogue().item_ids
    held_out = {item_ids[row] for row in np.flatnonzero(is_held_out(item_ids, 0.3, 3))}
    model = load_hllm(ModelStore(tmp_path / "store").model_directory(manifest.model_id))
    assert model.item_vectors is not None
    assert held_out
    assert set(model.item_vectors.known_item_ids) == set(item_ids) - held_out
    assert manifest.training["hold_out_items"] == 0.3


def test_the_same_seed_trains_the_same_model_and_another_seed_another(shop: Path, tmp_path: Path) -> None:
    runs = [
        settings(shop, tmp_path / name, item_input="id", seed=seed) for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    first, again, other = (train_hllm(run).model_id for run in runs)
    assert first == again
    assert first != other


def test_sampled_negatives_time_features_and_lora_train_too(shop: Path, tmp_path: Path) -> None:
    run = settings(
        shop, tmp_path / "store", stage="1", lora_r=2, lora_user=True, time_features=True, negatives="16", epochs=1
    )
    manifest = train_hllm(run)
    directory = ModelStore(tmp_path / "store").model_directory(manifest.model_id)
    assert (directory / "adapter/item_llm/adapter_model.safetensors").is_file()
    assert load_hllm(directory).config.has_time_features


def test_a_time_limit_ends_training_with_a_model(shop: Path, tmp_path: Path) -> None:
    run = settings(shop, tmp_path / "store", item_input="id", epochs=10_000, max_minutes=0.02, patience=10_000)
    assert train_hllm(run).metrics["validation_recall@10"] >= 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"item_input": "id", "stage": "1"}, "--stage 1"),
        ({"item_input": "id", "item_llm": "x"}, "--item-llm"),
        ({"preset": "huge"}, "--preset is 'huge'"),
        ({"negatives": "many"}, "--negatives is many"),
        ({"epochs": 0}, "--epochs is 0"),
        ({"hold_out_items": 1.0}, "--hold-out-items is 1.0"),
        ({"learning_rate": -1.0}, "--learning-rate is -1.0"),
    ],
)
def test_bad_settings_are_refused_by_name(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=message):
        settings(tmp_path, tmp_path, **changes)


def test_a_store_that_is_a_file_is_refused(shop: Path, tmp_path: Path) -> None:
    (tmp_path / "store").write_text("")
    with pytest.raises(InvalidInput, match="is a file"):
        train_hllm(settings(shop, tmp_path / "store"))


def test_ranks_as_time_are_refused_for_a_temporal_split(shop: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="time_unit 'rank'"):
        train_hllm(settings(shop, tmp_path / "store", split="temporal"))


class Killed(BaseException):
    """Ends a run where it stands, as a kill would."""


@pytest.mark.parametrize("method", ["training_step", "evaluate"])
@pytest.mark.parametrize("number", [2, 3, 6])
def test_wherever_a_run_ends_it_goes_on_to_the_same_model(
    method: str, number: int, shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a checkpoint is due after every step
    run = {"item_input": "id", "epochs": 6, "patience": 6, "checkpoint_seconds": 0.0}
    original, calls = getattr(TaskTrainer, method), []

    def killed(self: TaskTrainer, *arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == number:
            raise Killed
        return original(self, *arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(TaskTrainer, method, killed)
        with pytest.raises(Killed):
            train_hllm(settings(shop, tmp_path / "killed", **run))
    resumed = train_hllm(settings(shop, tmp_path / "killed", **run))
    whole = train_hllm(settings(shop, tmp_path / "whole", **run))
    assert resumed.model_id == whole.model_id
