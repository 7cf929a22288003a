import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model_store.artifacts.store import ModelStore
from model_store.errors import InvalidInput
from model_store.hatllm.files import load_hatllm
from model_store.hatllm.network import HatLLM
from model_store.hllm.files import item_tower_hash
from offline.baselines.popularity import interaction_counts, popularity_scores
from offline.dataset.dataset import Dataset
from offline.dataset.formats.rows import Interaction, Item
from offline.dataset.splits import leave_one_out
from offline.dataset.writer import WriteOptions, write_dataset
from offline.evaluation.ranking_metrics import recall_at_k
from offline.training.hatllm.run import train_hatllm
from offline.training.hatllm.settings import HatTrainSettings
from tests.model_store.models import make_directory
from tests.offline.small_models import add_small_model, small_hllm
from tests.offline.training.chain_shop import NUM_ITEMS, write_chain_shop


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_chain_shop(tmp_path_factory.mktemp("data") / "shop")


def settings(data: Path, store: Path, **changes: Any) -> HatTrainSettings:
    quick = HatTrainSettings(
        data=data,
        store=str(store),
        preset="tiny",
        device="cpu",
        precision="float32",
        epochs=1,
        negatives="16",
        validation_cases=60,
    )
    return dataclasses.replace(quick, **changes)


def train(run: HatTrainSettings) -> tuple[HatLLM, dict[str, float]]:
    manifest = train_hatllm(run)
    return load_hatllm(ModelStore(run.store).model_directory(manifest.model_id)), manifest.metrics


def popularity_recall(data: Path) -> float:
    """Recall@10 in validation of the most popular items that are not in the history."""
    split = leave_one_out(Dataset.open(data).sequences())
    popularity = popularity_scores(interaction_counts(split.train, NUM_ITEMS))
    cases, ranks = split.validation, []
    for user, end, target in zip(cases.user_rows, cases.history_ends, cases.targets, strict=True):
        scores = popularity.copy()
        scores[cases.sequences.item_indices[cases.sequences.offsets[user] : end] - 1] = -1
        ranks.append(1 + int((scores > scores[target - 1]).sum()))
    return recall_at_k(np.array(ranks), 10)


def test_it_learns_what_follows_what_which_popularity_cannot(shop: Path, tmp_path: Path) -> None:
    run = settings(shop, tmp_path / "store", epochs=6, learning_rate=1e-3, validation_cases=None)
    manifest = train_hatllm(run)

    assert manifest.kind == "hatllm"
    assert manifest.metrics["validation_recall@10"] > 2 * popularity_recall(shop)
    assert manifest.training["settings"]["cr_band"] == 0.5
    directory = ModelStore(tmp_path / "store").model_directory(manifest.model_id)
    model = load_hatllm(directory)
    assert model.bands == ("in", "or", "cr", "cr")
    assert model.runs_fast
    assert model.item_vectors is not None
    assert manifest.parents == []
    assert list((tmp_path / "store/work").iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "metric"),
    [
        ({"objective": "retrieve", "no_masks": True}, "validation_ndcg@10"),
        ({"objective": "generate"}, "validation_loss"),
        ({"objective": "both", "generate_weight": 0.5, "gradient_checkpointing": True}, "validation_ndcg@10"),
        ({"objective": "both", "prompt": "Visited: ", "item_end": "quote"}, "validation_ndcg@10"),
        ({"objective": "generate", "target_as_item": False, "band_order": "cr,in,or"}, "validation_loss"),
        ({"cr_keys": "all", "item_end": "title", "in_band": 1, "cr_band": 3}, "validation_ndcg@10"),
        ({"text_fields": ("title", "item_id"), "max_history_length": 4, "embedding_dim": 24}, "validation_ndcg@10"),
    ],
)
def test_every_objective_and_open_choice_trains(
    changes: dict[str, Any], metric: str, shop: Path, tmp_path: Path
) -> None:
    model, metrics = train(settings(shop, tmp_path / "store", **changes))
    assert np.isfinite(metrics[metric])
    assert [name for name in metrics if name.startswith("validation_")][0] == metric
    assert set(model.config.modes) == (
        {"retrieve", "generate"} if "both" in changes.values() else {metric_mode(metric)}
    )


def metric_mode(metric: str) -> str:
    return "generate" if metric == "validation_loss" else "retrieve"


def test_generation_learns_titles(shop: Path, tmp_path: Path) -> None:
    model, metrics = train(settings(shop, tmp_path / "store", objective="generate", learning_rate=3e-3, epochs=5))
    # knowing nothing is the logarithm of the vocabulary
    assert metrics["validation_loss"] < 0.2 * np.log(model.layers.model.config.vocab_size)


def test_the_items_of_an_hllm_are_the_targets_and_the_model_brings_them_along(shop: Path, tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "store")
    ids = Dataset.open(shop).catalogue().item_ids[:30]
    tower = add_small_model(store, small_hllm(known_item_ids=ids))
    run = settings(shop, tmp_path / "store", item_tower=tower.model_id, negatives="all", epochs=3, learning_rate=1e-3)
    manifest = train_hatllm(run)

    assert manifest.parents == [tower.model_id]
    assert manifest.embedding_dim == 16
    assert manifest.item_tower_hash == item_tower_hash(store.model_directory(tower.model_id))
    model = load_hatllm(store.model_directory(manifest.model_id))
    assert model.item_vectors is None
    assert model.item_tower is not None
    # the tower as a directory is the same run as by its id
    by_path = dataclasses.replace(run, item_tower=str(store.model_directory(tower.model_id)))
    assert train_hatllm(by_path).model_id == manifest.model_id


def test_a_pretrained_backbone_gets_adapters_and_its_twin_random_weights(shop: Path, tmp_path: Path) -> None:
    backbone = str(make_directory("llama", tmp_path / "llama"))
    run = settings(shop, tmp_path / "store", backbone=backbone, max_item_tokens=12, max_history_length=8)
    adapted, _ = train(run)
    full, _ = train(dataclasses.replace(run, full=True))
    twin, _ = train(dataclasses.replace(run, random_init=True, num_layers=3))

    adapters = ("lora_A", "lora_B")
    names = {name for name, _ in adapted.named_parameters() if any(part in name for part in adapters)}
    assert {name.split(".")[-4] for name in names} == {"q_proj", "v_proj"}
    pretrained = load_hatllm_base(backbone)
    for name, weights in pretrained.items():
        kept = adapted.layers.model.state_dict()
        found = kept.get(name, kept.get(name.replace("_proj.weight", "_proj.base_layer.weight")))
        assert found is not None
        assert torch.equal(found, weights), name
    assert not any(part in name for name, _ in full.named_parameters() for part in adapters)
    assert not torch.equal(full.layers.model.state_dict()[name], weights)
    assert twin.layers.num_layers == 3


def load_hatllm_base(backbone: str) -> dict[str, torch.Tensor]:
    from model_store.backbone.load import load_backbone

    return dict(load_backbone(backbone).model.state_dict())


def test_query_and_item_embedding_start_as_the_state_itself(shop: Path, tmp_path: Path) -> None:
    model, _ = train(settings(shop, tmp_path / "store", learning_rate=1e-9, embedding_dim=48))
    for head in (model.user_head, model.item_head):
        assert head is not None
        torch.testing.assert_close(head.weight.data, torch.eye(48, 128), atol=1e-6, rtol=0)
        torch.testing.assert_close(head.bias.data, torch.zeros(48), atol=1e-6, rtol=0)


def test_items_held_out_have_no_vector(shop: Path, tmp_path: Path) -> None:
    model, _ = train(settings(shop, tmp_path / "store", hold_out_items=0.3, seed=3))
    assert model.item_vectors is not None
    assert 0 < len(model.item_vectors.known_item_ids) < NUM_ITEMS


def test_the_same_seed_trains_the_same_model_and_another_seed_another(shop: Path, tmp_path: Path) -> None:
    first, again, other = (
        train_hatllm(settings(shop, tmp_path / name, seed=seed)).model_id
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert first == again
    assert first != other


def one_user_dataset(out: Path, title: str) -> Path:
    """One user to learn from (a dataset has at least two), whose first item has an odd title."""
    items = [Item("i0", title, {}), *(Item(f"i{row}", f"thing {row}", {}) for row in range(1, 6))]
    rows = [*(Interaction("learner", f"i{rank}", rank) for rank in range(5)), Interaction("passer-by", "i5", 0)]
    write_dataset(out, items=items, interactions=rows, options=WriteOptions(source="test"))
    return out


@pytest.mark.parametrize("objective", ["both", "generate"])
@pytest.mark.parametrize("title", ["", "word " * 5000])
def test_one_user_and_titles_that_are_empty_or_endless_train(title: str, objective: str, tmp_path: Path) -> None:
    data = one_user_dataset(tmp_path / "data", title)
    model, metrics = train(settings(data, tmp_path / "store", objective=objective))
    assert np.isfinite(metrics["validation_ndcg@10" if objective == "both" else "validation_loss"])
    assert max(map(len, model.item_tokenizer.encode([title]))) <= 32


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"band_order": "in,cr"}, "--band-order is in,cr, expected"),
        ({"band_order": "in,or,up"}, "--band-order is in,or,up, expected"),
        ({"objective": "generate", "item_end": "title"}, "--item-end title"),
        ({"objective": "both", "item_end": "title"}, "--item-end title"),
        ({"preset": "huge"}, "--preset is 'huge'"),
        ({"negatives": "all"}, "--negatives all needs stored embeddings"),
        ({"random_init": True}, "--random-init"),
        ({"backbone": "x", "num_layers": 3}, "--num-layers"),
        ({"item_tower": "x", "objective": "generate"}, "--item-tower"),
        ({"item_tower": "x", "item_vectors": True}, "--item-vectors"),
        ({"generate_weight": 0.0}, "--generate-weight is 0.0"),
        ({"max_item_tokens": 0}, "--max-item-tokens is 0"),
    ],
)
def test_bad_settings_are_refused_by_name(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=message):
        settings(tmp_path, tmp_path, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"in_band": 3, "cr_band": 2}, "the masks are deeper than the model: 3 IN and 2 CR layers, the model has 4"),
        ({"in_band": 1.5}, "the IN band is 1.5"),
        ({"max_history_length": 100, "max_item_tokens": 32}, "at most 64 items"),
    ],
)
def test_what_does_not_fit_the_model_is_refused_in_one_line(
    changes: dict[str, Any], message: str, shop: Path, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInput, match=message) as error:
        train_hatllm(settings(shop, tmp_path / "store", **changes))
    assert "\n" not in str(error.value)


def test_an_item_tower_of_another_kind_or_width_is_refused(shop: Path, tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "store")
    hat = train_hatllm(settings(shop, tmp_path / "store"))
    with pytest.raises(InvalidInput, match="is of kind 'hatllm', expected 'hllm'"):
        train_hatllm(settings(shop, tmp_path / "store", item_tower=hat.model_id))
    tower = add_small_model(store, small_hllm())
    with pytest.raises(InvalidInput, match="size 16, embedding_dim is 32"):
        train_hatllm(settings(shop, tmp_path / "store", item_tower=tower.model_id, embedding_dim=32))
