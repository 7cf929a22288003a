import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from model_store.artifacts.bundle import open_bundle
from model_store.artifacts.store import ModelStore
from model_store.blend.files import load_blend
from model_store.errors import InvalidInput
from model_store.index.vectors import normalize
from model_store.kinds import make_user_encoder
from model_store.people.histories import History
from offline.blending.blend import add_blend, blend_models
from offline.blending.recipe import RECIPES, member_settings, read_recipe
from offline.blending.weights import Weighed
from offline.evaluate import CaseName, EvaluateSettings, evaluate
from offline.evaluation.items import find_items
from offline.reindex import ReindexSettings, run_reindex
from service.settings import Settings
from tests.offline.blending.small_members import add_members, text_head
from tests.offline.datasets import NUM_ITEMS, write_small_dataset
from tests.offline.small_models import add_small_model, shop_catalogue, shop_table, small_hllm
from tests.shop import item_ids, running_app

WEIGHED = Weighed({"both": 1.0, "clicks": 0.6, "text": 0.3}, {"ndcg@10": 0.5}, {})
KNOWN = [f"i{row}" for row in range(NUM_ITEMS - 5)]


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "store")


def test_the_score_is_the_weighted_sum_of_the_members_cosines(store: ModelStore, tmp_path: Path) -> None:
    data = write_small_dataset(tmp_path / "data")
    members = add_members(store, KNOWN)
    blend = add_blend(store, members, WEIGHED)
    bundle = open_bundle(store, run_reindex(ReindexSettings(blend.model_id, data, store.root)).bundle.bundle_id)
    history = History(np.array([3, 1, 7, 2, 9, 4, 8, 20]), np.arange(8))

    user = make_user_encoder(bundle).encode([history])[0]
    scores = bundle.item_directions(np.arange(1, NUM_ITEMS + 1)) @ user

    total = sum(WEIGHED.weights.values())
    expected = np.zeros(NUM_ITEMS)
    for name, weight in WEIGHED.weights.items():
        items = find_items(store, members[name], shop_catalogue(NUM_ITEMS))
        cosines = normalize(items.embeddings) @ make_user_encoder(items).encode([history])[0]
        expected += weight / total * cosines
    np.testing.assert_allclose(scores, expected, atol=2e-6)
    assert np.linalg.norm(user) == pytest.approx(1.0, abs=1e-6)


def test_weights_are_chosen_on_validation_and_models_that_do_not_help_are_left_out(
    store: ModelStore, tmp_path: Path
) -> None:
    data = write_small_dataset(tmp_path / "data")
    members = add_members(store, KNOWN)
    blend, weighed = blend_models(store, {**members, "again": members["both"]}, data, max_cases=0)
    assert "again" not in weighed.weights or "both" not in weighed.weights
    assert max(weighed.weights.values()) == 1.0
    report = evaluate(EvaluateSettings(blend.model_id, data, store.root, cases=CaseName.VALIDATION))
    for name, value in weighed.metrics.items():
        assert report["systems"]["model"]["all"][name] == pytest.approx(value, abs=0.03), name  # one case of 40


async def test_the_service_gives_what_the_evaluation_computes(
    store: ModelStore, tmp_path: Path, settings: Settings
) -> None:
    data = write_small_dataset(tmp_path / "data")
    blend = add_blend(store, add_members(store, KNOWN), WEIGHED)
    run_reindex(ReindexSettings(blend.model_id, data, store.root))
    top = tmp_path / "top.jsonl"
    evaluate(EvaluateSettings(blend.model_id, data, store.root, top_k_path=top))
    cases = [json.loads(line) for line in top.read_text().splitlines()]
    changed = settings.model_copy(update={"store": store.root})
    async with running_app(changed) as (_, client):
        for case in cases[:20]:
            body = {"history": case["history"], "k": 10, "explain": True}
            answer = await client.post("/recommend", json=body)
            assert answer.status_code == 200, answer.text
            assert answer.json()["model"]["kind"] == "blend"
            assert item_ids(answer) == case["item_ids"]
            scores = [item["score"] for item in answer.json()["items"]]
            assert scores == pytest.approx(case["scores"], abs=1e-6)
            for item in answer.json()["items"]:
                assert set(item["heads"]) == {"both", "clicks", "text"}
                assert sum(item["heads"].values()) == pytest.approx(item["score"], abs=1e-6)
        similar = await client.get("/items/i3/similar?k=5")
        assert len(similar.json()["items"]) == 5
        by_kind = await client.post("/recommend", json={**body, "model": "blend"})
        assert by_kind.status_code == 200


def test_a_changed_item_alone_is_embedded_again_and_a_new_one_is_found_by_its_text(
    store: ModelStore, tmp_path: Path
) -> None:
    data = write_small_dataset(tmp_path / "data")
    blend = add_blend(store, add_members(store, KNOWN), WEIGHED)
    first = run_reindex(ReindexSettings(blend.model_id, data, store.root))
    pq.write_table(shop_table(NUM_ITEMS + 1, changed=[3]), tmp_path / "items.parquet")
    second = run_reindex(ReindexSettings(blend.model_id, tmp_path / "items.parquet", store.root))
    assert (second.num_embedded, second.num_reused) == (2, NUM_ITEMS - 1)
    bundle = open_bundle(store, second.bundle.bundle_id)
    assert bundle.heads is not None
    assert {head.name: head.weight for head in bundle.heads.heads} == WEIGHED.weights
    new = bundle.item_directions(np.array([NUM_ITEMS + 1]))[0]
    for head, part in zip(bundle.heads.heads, bundle.heads.slices(), strict=True):
        assert bool(new[part].any()) == (head.name != "clicks")
    assert np.linalg.norm(new) == pytest.approx(1.0, abs=1e-6)
    report = json.loads((bundle.directory / "report.json").read_text())
    assert [head["name"] for head in report["heads"]] == list(WEIGHED.weights)
    assert first.bundle.bundle_id != second.bundle.bundle_id


def test_the_shared_item_llm_is_stored_once(store: ModelStore) -> None:
    blend = add_blend(store, add_members(store, KNOWN), WEIGHED)
    directory = store.model_directory(blend.model_id)
    assert [path.relative_to(directory).as_posix() for path in directory.rglob("item_llm")] == ["item_llm"]
    assert load_blend(directory).item_tokenizer is not None


def test_models_that_cannot_be_blended_are_refused(store: ModelStore, tmp_path: Path) -> None:
    data = write_small_dataset(tmp_path / "data")
    members = add_members(store, KNOWN)
    stranger = add_small_model(store, text_head(small_hllm(seed=5)), split="leave-one-out")
    with pytest.raises(InvalidInput, match="another Item LLM than 'both'"):
        blend_models(store, {**members, "stranger": stranger}, data, max_cases=0)
    other = add_small_model(store, small_hllm(known_item_ids=KNOWN, item_input="id", seed=3), split="temporal")
    with pytest.raises(InvalidInput, match="trained with split 'leave-one-out' and 'temporal'"):
        blend_models(store, {**members, "other": other}, data, max_cases=0)


def test_shipped_recipes_are_commands_that_the_training_takes(tmp_path: Path) -> None:
    for path in RECIPES.glob("*.yaml"):
        settings = member_settings(
            read_recipe(path.stem), data=tmp_path, store="store", item_llm="there", seed=3, max_minutes=1.0
        )
        assert len({(type(one), one.seed, str(one.to_dict())) for one in settings.values()}) == len(settings)
        assert min(one.seed for one in settings.values()) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("members: [", "is no recipe"),
        ("models: {}", "is no recipe"),
        ("members: {a: frobnicate --seed 1}", "member 'a' is trained by 'frobnicate', expected hllm or hatllm"),
        ("members: {a: 'hllm --item-llm {item_llm}'}", "member 'a' reads texts with a pre-trained Item LLM"),
    ],
)
def test_a_recipe_that_is_none_is_refused_in_one_line(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(text)

    def read() -> None:
        recipe = read_recipe(str(tmp_path / "recipe.yaml"))
        member_settings(recipe, data=tmp_path, store="s", item_llm=None, seed=0, max_minutes=None)

    with pytest.raises(InvalidInput, match=message):
        read()


def test_a_recipe_is_trained_once_and_blended(tmp_path: Path) -> None:
    data = write_small_dataset(tmp_path / "data")
    recipe = tmp_path / "two.yaml"
    options = "--preset tiny --epochs 1 --device cpu --text-field title"
    recipe.write_text(
        f"members:\n  clicks: hllm {options} --item-input id\n  again: hllm {options} --item-input id --seed 1\n"
    )
    command = [sys.executable, "-m", "offline.blend", "--data", str(data), "--store", str(tmp_path / "store")]
    command += ["--recipe", str(recipe)]
    lines = []
    for _ in range(2):
        finished = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert finished.returncode == 0, finished.stderr
        lines.append(json.loads(finished.stdout.splitlines()[-1]))
    assert lines[0] == lines[1]
    assert "the store has it" in finished.stderr
    assert len(list((tmp_path / "store" / "models").iterdir())) == 2 + 1
    shutil.rmtree(tmp_path / "store")
