"""A run that goes on from a model of the store, and the twin that begins with random weights."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from model_store.artifacts.store import ModelStore
from model_store.errors import ArtifactNotFound, InvalidInput
from model_store.hllm.files import load_hllm
from offline.training.hllm.run import train_hllm
from offline.training.hllm.settings import TrainSettings
from tests.model_store.models import make_directory
from tests.offline.training.chain_shop import write_chain_shop


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_chain_shop(tmp_path_factory.mktemp("data") / "shop")


def settings(shop: Path, store: Path, **changes: Any) -> TrainSettings:
    quick = TrainSettings(data=shop, store=str(store), preset="tiny", device="cpu", precision="float32", epochs=1)
    # untrained texts are all alike
    quick = dataclasses.replace(quick, false_negative_cosine=1.0)
    return dataclasses.replace(quick, **changes)


STILL = {"learning_rate": 1e-12, "weight_decay": 0.0}


@pytest.mark.parametrize("changes", [{"item_input": "id"}, {"stage": "2"}, {"user_model": "lags", "stage": "2"}])
def test_a_run_that_goes_on_begins_with_what_was_learned_and_new_items_get_vectors(
    changes: dict[str, Any], shop: Path, tmp_path: Path
) -> None:
    first = train_hllm(settings(shop, tmp_path / "store", hold_out_items=0.2, **changes))
    second = train_hllm(settings(shop, tmp_path / "store", start_from=first.model_id, **STILL))

    store = ModelStore(tmp_path / "store")
    before, after = (load_hllm(store.model_directory(one.model_id)) for one in (first, second))
    assert list(second.parents) == [first.model_id]
    # the dropout of the input is that of a stage, and no part of what was learned
    assert dataclasses.replace(after.config, dropout=0.0) == dataclasses.replace(before.config, dropout=0.0)
    learned = {name: tensor for name, tensor in before.state_dict().items() if not name.startswith("item_vectors.")}
    for name, tensor in learned.items():
        torch.testing.assert_close(after.state_dict()[name], tensor, msg=name)
    if before.item_vectors is None:
        assert after.item_vectors is None
        return
    assert after.item_vectors is not None
    known = before.item_vectors.known_item_ids
    new = sorted(set(after.item_vectors.known_item_ids) - set(known))
    assert len(new) >= 3
    vectors = [one.item_vectors(one.item_vectors.rows_of(known)) for one in (before, after)]  # type: ignore[misc]
    torch.testing.assert_close(vectors[1], vectors[0])
    fresh = after.item_vectors(after.item_vectors.rows_of(new))
    assert bool(fresh.abs().max() < 1e-6) == (changes.get("item_input") != "id")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"item_llm": "somewhere"}, "--item-llm is somewhere, expected none with --from"),
        ({"text_fields": ("title",)}, "--text-field is title, expected none with --from"),
        ({"averaging": 0.5}, "--averaging is 0.5, expected none with --from"),
    ],
)
def test_what_the_model_decides_is_not_asked_for_again(
    changes: dict[str, Any], message: str, shop: Path, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInput, match=message):
        settings(shop, tmp_path, start_from="hllm-1", **changes)


def test_a_model_that_is_not_there_is_named(shop: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactNotFound, match="hllm-nowhere"):
        train_hllm(settings(shop, tmp_path / "store", start_from="hllm-nowhere"))


def test_the_random_twin_has_the_architecture_and_learns_it_end_to_end(shop: Path, tmp_path: Path) -> None:
    directory = make_directory("bert", tmp_path / "bert")
    chosen = settings(shop, tmp_path / "store", item_llm=str(directory), random_init=True)
    assert chosen.has_end_to_end
    model = train_hllm(chosen)
    loaded = load_hllm(ModelStore(tmp_path / "store").model_directory(model.model_id))
    assert loaded.item_llm is not None
    assert loaded.item_llm.backbone.config.model_type == "bert"
    with pytest.raises(InvalidInput, match="--random-init is True, expected an --item-llm or --user-llm beside it"):
        settings(shop, tmp_path, random_init=True)
