import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from model_store.artifacts.bundle import open_bundle
from model_store.artifacts.store import ModelStore
from model_store.errors import ArtifactCorrupt, ArtifactNotFound, InvalidInput
from offline.indexing.embed_items import EmbedOptions
from offline.indexing.item_shards import read_shards
from offline.reindex import ReindexSettings, app, reindex, run_reindex
from tests.offline.small_models import add_small_model, shop_table, small_hllm


def write_items(path: Path, table: pa.Table) -> Path:
    pq.write_table(table, path)
    return path


def settings_for(tmp_path: Path, items: Path, model: str, **changes: object) -> ReindexSettings:
    values = {"model": model, "items": items, "store": str(tmp_path / "store")} | changes
    return ReindexSettings(**values)  # type: ignore[arg-type]


@pytest.fixture
def model_id(tmp_path: Path) -> str:
    return add_small_model(ModelStore(tmp_path / "store"), small_hllm()).model_id


def test_reindex_publishes_a_bundle_that_opens_and_finds_its_items(tmp_path: Path, model_id: str) -> None:
    items = write_items(tmp_path / "items.parquet", shop_table(120).append_column("price", pa.array([1.5] * 120)))

    result = run_reindex(settings_for(tmp_path, items, model_id))

    store = ModelStore(tmp_path / "store")
    assert store.live().bundles == {"hllm": result.bundle.bundle_id}
    bundle = open_bundle(store, result.bundle.bundle_id)
    assert bundle.catalogue.fields(3) == {"title": "blue scarf no 2", "price": 1.5}
    _, found = bundle.index.search(np.array(bundle.embeddings[[0, 5, 119]]), 1)
    assert found[:, 0].tolist() == [1, 6, 120]
    assert (result.num_embedded, result.num_reused) == (120, 0)
    assert result.bundle.index_recall == 1.0
    report = json.loads((store.bundle_directory(result.bundle.bundle_id) / "report.json").read_text())
    assert report["index"]["recall"] == 1.0
    assert not list((tmp_path / "store/work").glob("*/shards/*"))


def test_a_rerun_embeds_changed_and_new_items_only(tmp_path: Path, model_id: str) -> None:
    run_reindex(settings_for(tmp_path, write_items(tmp_path / "a.parquet", shop_table(100)), model_id))
    changed = write_items(tmp_path / "b.parquet", shop_table(103, changed=[10, 20]))

    result = run_reindex(settings_for(tmp_path, changed, model_id))

    assert (result.num_embedded, result.num_reused) == (5, 98)


def test_the_same_catalogue_again_is_the_same_bundle(tmp_path: Path, model_id: str) -> None:
    items = write_items(tmp_path / "items.parquet", shop_table(50))

    first = reindex(settings_for(tmp_path, items, model_id))
    second = reindex(settings_for(tmp_path, items, model_id))

    assert first.bundle_id == second.bundle_id


def test_another_item_tower_embeds_everything_again(tmp_path: Path, model_id: str) -> None:
    items = write_items(tmp_path / "items.parquet", shop_table(30))
    run_reindex(settings_for(tmp_path, items, model_id))
    other = add_small_model(ModelStore(tmp_path / "store"), small_hllm(seed=1))

    assert run_reindex(settings_for(tmp_path, items, other.model_id)).num_embedded == 30


def test_json_lines_are_read_and_numbers_become_ids(tmp_path: Path, model_id: str) -> None:
    items = tmp_path / "items.jsonl"
    items.write_text('{"item_id": 7, "title": "red hat", "tags": ["a", "b"]}\n{"item_id": 8, "title": "blue hat"}\n')

    bundle = reindex(settings_for(tmp_path, items, model_id))

    catalogue = open_bundle(ModelStore(tmp_path / "store"), bundle.bundle_id).catalogue
    assert list(catalogue.item_ids) == ["7", "8"]
    assert catalogue.fields(1)["tags"] == ["a", "b"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "empty"),
        ('{"item_id": "a"\n', "cannot be read"),
        ('{"title": "a"}\n', "expected item_id"),
        ('{"item_id": "a", "title": "x"}\n{"item_id": "a", "title": "y"}\n', "'a'"),
        ('{"item_id": "", "title": "x"}\n', "empty"),
    ],
)
def test_bad_items_are_refused_in_one_line(tmp_path: Path, model_id: str, content: str, message: str) -> None:
    items = tmp_path / "items.jsonl"
    items.write_text(content)

    with pytest.raises(InvalidInput, match=message) as caught:
        reindex(settings_for(tmp_path, items, model_id))

    assert "\n" not in str(caught.value)
    assert not ModelStore(tmp_path / "store").bundles()


def test_a_title_of_two_megabytes_is_cut_and_indexed(tmp_path: Path, model_id: str) -> None:
    items = tmp_path / "items.jsonl"
    lines = [{"item_id": "a", "title": "hat " * 500_000}, {"item_id": "b", "title": "coat"}]
    items.write_text("".join(json.dumps(line) + "\n" for line in lines))

    assert reindex(settings_for(tmp_path, items, model_id)).num_items == 2


def test_gates_refuse_and_leave_the_live_bundle(tmp_path: Path, model_id: str) -> None:
    store = ModelStore(tmp_path / "store")
    items = write_items(tmp_path / "items.parquet", shop_table(20))
    live = reindex(settings_for(tmp_path, items, model_id)).bundle_id
    broken = small_hllm(known_item_ids=["i0", "i4"])
    assert broken.item_vectors is not None
    broken.item_vectors.weight.data[1] = float("nan")
    broken_id = add_small_model(store, broken).model_id

    with pytest.raises(ArtifactCorrupt, match=r"item_vectors\.weight has values that are not finite"):
        reindex(settings_for(tmp_path, items, broken_id))

    assert store.live().bundles == {"hllm": live}
    assert [bundle.bundle_id for bundle in store.bundles()] == [live]


def test_an_item_without_text_or_vector_is_refused_by_name(tmp_path: Path) -> None:
    model = small_hllm(known_item_ids=["i0", "i1"], item_input="id")
    twin = add_small_model(ModelStore(tmp_path / "store"), model).model_id
    items = write_items(tmp_path / "items.parquet", shop_table(3))

    with pytest.raises(InvalidInput, match="'i2' has norm 0"):
        reindex(settings_for(tmp_path, items, twin))


def test_a_poor_index_is_refused(tmp_path: Path, model_id: str) -> None:
    items = write_items(tmp_path / "items.parquet", shop_table(400))

    with pytest.raises(InvalidInput, match="of the exact top 10"):
        reindex(settings_for(tmp_path, items, model_id, index="SQ4", min_recall=0.9999))

    assert not ModelStore(tmp_path / "store").bundles()


def test_unknown_models_and_factories_are_refused(tmp_path: Path, model_id: str) -> None:
    items = write_items(tmp_path / "items.parquet", shop_table(5))
    with pytest.raises(ArtifactNotFound, match="hllm-none"):
        reindex(settings_for(tmp_path, items, "hllm-none"))
    with pytest.raises(InvalidInput, match="Nonsense"):
        reindex(settings_for(tmp_path, items, model_id, index="Nonsense"))
    with pytest.raises(InvalidInput, match="no items"):
        reindex(settings_for(tmp_path, tmp_path / "absent", model_id))
    with pytest.raises(InvalidInput, match="min_recall"):
        reindex(settings_for(tmp_path, items, model_id, min_recall=2.0))


def test_a_model_directory_elsewhere_is_taken_into_the_store(tmp_path: Path) -> None:
    other_store = ModelStore(tmp_path / "other")
    model = add_small_model(other_store, small_hllm())
    items = write_items(tmp_path / "items.parquet", shop_table(5))

    bundle = reindex(settings_for(tmp_path, items, str(other_store.model_directory(model.model_id))))

    assert bundle.model_id == model.model_id
    assert [one.model_id for one in ModelStore(tmp_path / "store").models()] == [model.model_id]


def test_an_altered_bundle_is_not_reused(tmp_path: Path, model_id: str) -> None:
    store = ModelStore(tmp_path / "store")
    items = write_items(tmp_path / "items.parquet", shop_table(10))
    bundle_id = reindex(settings_for(tmp_path, items, model_id)).bundle_id
    embeddings = store.bundle_directory(bundle_id) / "item_embeddings.safetensors"
    content = bytearray(embeddings.read_bytes())
    content[-1] ^= 1
    embeddings.write_bytes(content)

    more = write_items(tmp_path / "more.parquet", shop_table(11))
    result = run_reindex(settings_for(tmp_path, more, model_id))

    assert result.num_embedded == 11
    with pytest.raises(ArtifactCorrupt, match=r"item_embeddings\.safetensors"):
        open_bundle(store, bundle_id)


def test_the_command_indexes_lists_rolls_back_and_cleans_up(tmp_path: Path, model_id: str) -> None:
    store = str(tmp_path / "store")
    runner = CliRunner()

    def call(*arguments: str) -> dict[str, object]:
        outcome = runner.invoke(app, ["--store", store, *arguments], catch_exceptions=False)
        figures: dict[str, object] = json.loads(outcome.stdout.splitlines()[-1])
        return figures

    ids = []
    for size in (5, 6, 7):
        items = write_items(tmp_path / f"{size}.parquet", shop_table(size))
        ids.append(call("--model", model_id, "--items", str(items))["bundle_id"])
    unpublished = call(
        "--model",
        model_id,
        "--items",
        str(write_items(tmp_path / "8.parquet", shop_table(8))),
        "--no-publish",
    )
    assert unpublished["published"] is False
    listed = call("--list")["bundles"]
    assert isinstance(listed, list)
    assert [one["bundle_id"] for one in listed if one["live"]] == [ids[2]]
    assert call("--rollback")["bundle_id"] == ids[1]
    removed = call("--gc", "--keep", "0")["removed"]
    assert isinstance(removed, list)
    assert ids[1] not in removed
    assert unpublished["bundle_id"] in removed


def test_the_command_asks_for_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="--model and --items"):
        CliRunner().invoke(app, ["--store", str(tmp_path)], catch_exceptions=False)


def kill_and_resume(tmp_path: Path, model_id: str, *, moments: list[float]) -> None:
    """Kills a reindex after each of the delays (seconds after its first shard), then lets one finish."""
    store = ModelStore(tmp_path / "store")
    first = reindex(settings_for(tmp_path, write_items(tmp_path / "old.parquet", shop_table(20)), model_id))
    items = write_items(tmp_path / "items.parquet", shop_table(8_000))
    command = [sys.executable, "-m", "offline.reindex", "--model", model_id, "--items", str(items)]
    command += ["--store", store.root, "--shard-seconds", "0.05", "--token-budget", "1000", "--device", "cpu"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HATSTAND_LOG_LEVEL": "INFO"}
    shards = tmp_path / "store/work"
    for moment in moments:
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert process.stdout is not None
        for line in process.stdout:
            if b"to embed" in line:
                break
        time.sleep(moment)
        process.send_signal(signal.SIGKILL)
        process.stdout.close()
        process.wait()
        # whole, whichever it is: a kill may also come after the new one went live
        live = open_bundle(store, store.live().bundles["hllm"]).manifest
        assert live.bundle_id == first.bundle_id or live.num_items == 8_000
    saved = sum(len(shard.content_hashes) for path in shards.glob("*/shards") for shard in read_shards(path))
    result = run_reindex(settings_for(tmp_path, items, model_id, embed=EmbedOptions(token_budget=20_000)))
    assert result.num_reused >= saved
    assert open_bundle(store, store.live().bundles["hllm"]).manifest.num_items == 8_000
    fresh = ReindexSettings(model=str(store.model_directory(model_id)), items=items, store=str(tmp_path / "fresh"))
    expected = open_bundle(ModelStore(tmp_path / "fresh"), reindex(fresh).bundle_id).embeddings
    resumed = open_bundle(store, result.bundle.bundle_id).embeddings
    assert np.abs(resumed - expected).max() < 1e-4


def test_a_killed_run_resumes_and_never_leaves_a_broken_live_bundle(tmp_path: Path, model_id: str) -> None:
    chance = random.Random()
    kill_and_resume(tmp_path, model_id, moments=[chance.uniform(0.2, 2.0) for _ in range(2)])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_killed_at_ten_moments_resumes(tmp_path: Path, model_id: str) -> None:
    chance = random.Random()
    kill_and_resume(tmp_path, model_id, moments=[chance.uniform(0.0, 3.0) for _ in range(10)])


def test_a_catalogue_of_one_text_is_refused_and_what_was_live_stays_live(
    tmp_path: Path, model_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    items = write_items(tmp_path / "items.parquet", shop_table(60))
    before = reindex(settings_for(tmp_path, items, model_id)).bundle_id
    same = shop_table(60).set_column(1, "title", pa.array(["Hat"] * 60))

    with pytest.raises(InvalidInput, match="5 nearest items are the same for each of 60 items"):
        reindex(settings_for(tmp_path, write_items(tmp_path / "same.parquet", same), model_id))

    assert "60 of 60 items have the same text, 'Hat'" in caplog.text
    assert ModelStore(tmp_path / "store").live().bundles == {"hllm": before}
