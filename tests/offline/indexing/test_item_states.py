"""Tokens and states of a catalogue: as the model computes them, resumed, reused, and served from a bundle."""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from model_store.artifacts.bundle import Bundle, open_bundle
from model_store.artifacts.store import ModelStore
from model_store.catalogue.item_segments import ItemSegments
from model_store.catalogue.item_states import STATES_FILE
from model_store.catalogue.item_text import TokenBatch
from model_store.errors import ArtifactCorrupt, InvalidInput
from model_store.hatllm.network import HatLLM
from model_store.kinds import make_user_encoder
from model_store.people.histories import History
from offline.indexing import item_states
from offline.indexing.item_states import KnownStates, StatedCatalogue, compute_states
from offline.reindex import ReindexSettings, run_reindex
from tests.model_store.hat_models import make_hatllm
from tests.offline.small_models import add_hatllm, add_small_model, shop_catalogue, shop_table, small_hllm

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> HatLLM:
    return make_hatllm(tmp_path_factory.mktemp("model"), max_item_tokens=24)


def states_of(model: HatLLM, stated: StatedCatalogue, row: int) -> torch.Tensor:
    """What the model says of one item alone."""
    with torch.no_grad():
        return model.item_states(model.item_tokenizer.collate(stated.tokens.of_rows(np.array([row]))))[0]


def assert_right(model: HatLLM, stated: StatedCatalogue) -> None:
    assert stated.states is not None
    offsets = stated.tokens.offsets
    for row in range(len(offsets) - 1):
        kept = stated.states[offsets[row] : offsets[row + 1]]
        torch.testing.assert_close(kept, states_of(model, stated, row), atol=1e-5, rtol=0)


def test_states_are_those_of_each_item_alone_and_in_the_models_dtype(model: HatLLM, tmp_path: Path) -> None:
    stated = compute_states(model, shop_catalogue(50), directory=tmp_path)
    assert_right(model, stated)
    assert (stated.num_computed, stated.num_reused) == (50, 0)
    assert stated.states is not None
    assert stated.report() == {
        "tokens": int(stated.tokens.offsets[-1]),
        "bytes": stated.states.numel() * 4,
        "dtype": "float32",
    }


def test_a_killed_run_goes_on_after_its_last_block(
    model: HatLLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(item_states, "_BLOCK_ITEMS", 16)
    catalogue = shop_catalogue(50)
    original, ran = item_states.run_block, []

    def dies_in_the_third_block(*arguments: object, **options: object) -> None:
        ran.append(1)
        if len(ran) == 3:
            raise KeyboardInterrupt
        original(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(item_states, "run_block", dies_in_the_third_block)
    with pytest.raises(KeyboardInterrupt):
        compute_states(model, catalogue, directory=tmp_path)
    stated = compute_states(model, catalogue, directory=tmp_path)
    assert stated.num_computed == 50 - 32
    assert_right(model, stated)
    # another catalogue in the same place begins anew
    assert compute_states(model, shop_catalogue(49), directory=tmp_path).num_computed == 49


def test_unchanged_items_are_copied(model: HatLLM, tmp_path: Path) -> None:
    before = compute_states(model, shop_catalogue(40), directory=tmp_path / "a")
    assert before.states is not None
    known = KnownStates(before.tokens, before.states)
    after = compute_states(model, shop_catalogue(43, changed=[3, 30]), directory=tmp_path / "b", known=known)
    assert (after.num_computed, after.num_reused) == (5, 38)
    assert_right(model, after)


def reindex(tmp_path: Path, model_id: str, *, num_items: int = 60, changed: tuple[int, ...] = ()) -> Bundle:
    path = tmp_path / "items.parquet"
    pq.write_table(shop_table(num_items, changed=changed), path)
    result = run_reindex(ReindexSettings(model=model_id, items=path, store=str(tmp_path / "store")))
    return open_bundle(ModelStore(tmp_path / "store"), result.bundle.bundle_id)


def test_a_bundle_of_a_hatllm_serves_the_dense_answer(model: HatLLM, tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "store")
    bundle = reindex(tmp_path, add_hatllm(store, model).model_id)
    assert store.live().bundles == {"hatllm": bundle.manifest.bundle_id}
    assert bundle.item_tokens is not None
    history = [5, 60, 1]
    user = make_user_encoder(bundle).encode([History(np.array(history), np.zeros(3, dtype=np.int64))])[0]
    with torch.no_grad():
        tokens = model.item_tokenizer.collate(bundle.item_tokens.tokens_of(np.array(history)))
        dense = model.dense_queries(tokens, torch.tensor([[0, 1, 2]]))[0, -1]
        item = model.encode_item_tokens(model.item_tokenizer.collate(bundle.item_tokens.tokens_of(np.array([7]))))[0]
    np.testing.assert_allclose(user, torch.nn.functional.normalize(dense, dim=0), atol=1e-4)
    np.testing.assert_allclose(bundle.embeddings[6], item, atol=1e-4)
    assert bundle.item_states is not None
    states_bytes = bundle.item_states.numel() * 4
    report = json.loads((bundle.directory / "report.json").read_text())
    assert report["item_states"] == {
        "tokens": len(bundle.item_tokens.token_ids),
        "bytes": states_bytes,
        "dtype": "float32",
    }
    # the same items again: nothing is computed, the bundle is the same but for one changed item
    again = reindex(tmp_path, bundle.manifest.model_id, changed=(4,))
    assert again.item_states is not None
    assert bundle.item_states is not None
    torch.testing.assert_close(again.item_states[-5:], bundle.item_states[-5:])
    assert not list((tmp_path / "store/work").glob("*/states.bin"))


def test_both_kinds_are_live_at_once_and_an_hllm_may_be_the_item_tower(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "store")
    hllm = small_hllm(known_item_ids=("i1", "i2"))
    tower = add_small_model(store, hllm)
    hllm_bundle = reindex(tmp_path, tower.model_id)
    model = make_hatllm(tmp_path, item_tower=hllm)
    manifest = add_hatllm(store, model, tower=store.model_directory(tower.model_id))
    assert manifest.item_tower_hash == tower.item_tower_hash
    bundle = reindex(tmp_path, manifest.model_id)
    assert store.live().bundles == {"hllm": hllm_bundle.manifest.bundle_id, "hatllm": bundle.manifest.bundle_id}
    np.testing.assert_array_equal(bundle.embeddings, hllm_bundle.embeddings)  # reused, not embedded again
    user = make_user_encoder(bundle).encode([History(np.array([5, 60]), np.zeros(2, dtype=np.int64))])
    assert user.shape == (1, 16)


def test_altered_states_are_refused_by_name(model: HatLLM, tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "store")
    bundle = reindex(tmp_path, add_hatllm(store, model).model_id)
    path = bundle.directory / STATES_FILE
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)
    with pytest.raises(ArtifactCorrupt, match=r"item_states\.safetensors"):
        open_bundle(store, bundle.manifest.bundle_id)


def test_titles_that_cannot_be_told_apart_are_refused_before_anything_is_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_hatllm(tmp_path, max_item_tokens=24)
    store = ModelStore(tmp_path / "store")
    manifest = add_hatllm(store, model)
    tokenizer = type(model.item_tokenizer)
    # a tokenizer that does not end its titles: what item_end 'title' would give
    monkeypatch.setattr(tokenizer, "borders", lambda *_: ([], []))
    path = tmp_path / "items.parquet"
    pq.write_table(shop_table(2).set_column(1, "title", [["red hat", "red hat no 2"]]), path)
    settings = ReindexSettings(model=manifest.model_id, items=path, store=str(tmp_path / "store"))
    with pytest.raises(InvalidInput, match="begin"):
        run_reindex(settings)
    assert store.live().bundles == {}


def test_a_killed_reindex_goes_on_and_publishes_right_states(model: HatLLM, tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "store")
    manifest = add_hatllm(store, model)
    path = tmp_path / "items.parquet"
    pq.write_table(shop_table(3_000), path)
    arguments = ["--model", manifest.model_id, "--items", str(path), "--store", str(tmp_path / "store")]
    command = [sys.executable, "-m", "offline.reindex", *arguments, "--shard-seconds", "0.1"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        process.stderr.readline()  # the imports are behind it
        time.sleep(0.5)
        process.kill()
    assert store.live().bundles == {}
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    bundle = open_bundle(store, json.loads(finished.stdout.splitlines()[-1])["bundle_id"])
    assert bundle.item_tokens is not None
    assert bundle.item_states is not None
    chosen = np.arange(1, 3_001, 97)
    for item_index in chosen:
        rows = bundle.item_tokens.rows(np.array([item_index]))
        with torch.no_grad():
            alone = model.item_states(
                model.item_tokenizer.collate(bundle.item_tokens.tokens_of(np.array([item_index])))
            )[0]
        torch.testing.assert_close(bundle.item_states[torch.from_numpy(rows)], alone, atol=1e-5, rtol=0)


def test_a_reindex_tokenises_each_title_and_runs_it_through_in_once(
    model: HatLLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenised, ran = [], []
    encode, item_states_of = type(model.item_tokenizer).encode, HatLLM.item_states

    def counted_encode(self: ItemSegments, texts: Sequence[str]) -> list[list[int]]:
        tokenised.extend(texts)
        return encode(self, texts)

    def counted_states(self: HatLLM, tokens: TokenBatch) -> torch.Tensor:
        ran.append(len(tokens.input_ids))
        return item_states_of(self, tokens)

    monkeypatch.setattr(ItemSegments, "encode", counted_encode)
    monkeypatch.setattr(HatLLM, "item_states", counted_states)
    manifest = add_hatllm(ModelStore(tmp_path / "store"), model)

    reindex(tmp_path, manifest.model_id, num_items=60)
    assert (len(tokenised), sum(ran)) == (60, 60)

    reindex(tmp_path, manifest.model_id, num_items=61, changed=(4,))
    assert (len(tokenised), sum(ran)) == (62, 62)
