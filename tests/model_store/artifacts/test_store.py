import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from model_store.artifacts.store import LivePointer, ModelStore
from model_store.errors import ArtifactCorrupt, ArtifactIncompatible, ArtifactNotFound, InvalidInput
from tests.model_store.made_artifacts import add_bundle, add_model, write_bundle_files


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ModelStore]:
    if request.param == "local":
        yield ModelStore(tmp_path / "store")
    else:
        url = f"memory://{uuid.uuid4().hex}"
        yield ModelStore(url, cache_directory=tmp_path / "cache")
        with contextlib.suppress(FileNotFoundError):
            fsspec.filesystem("memory").rm(url.removeprefix("memory:/"), recursive=True)


@pytest.fixture
def local(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "store")


def test_a_fresh_store_is_empty_and_is_not_even_made(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "store")

    assert store.models() == []
    assert store.bundles() == []
    assert store.live() == LivePointer(bundles={}, default=None)
    assert not (tmp_path / "store").exists()


def test_a_file_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("")
    with pytest.raises(InvalidInput, match="is a file"):
        ModelStore(tmp_path / "store")


@pytest.mark.parametrize("url", ["nosuch://bucket/store"])
def test_a_url_that_cannot_be_opened_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput, match="nosuch"):
        ModelStore(url)


def test_a_model_comes_back_as_it_was_added(store: ModelStore) -> None:
    model = add_model(store, 3)

    assert model.model_id == f"hllm-{model.weights_hash[:12]}"
    assert sorted(model.files) == ["config.json", "item_llm/model.safetensors"]
    assert store.models() == [model]
    directory = store.model_directory(model.model_id)
    assert json.loads((directory / "config.json").read_text()) == {"kind": "hllm", "seed": 3}


def test_adding_the_same_again_changes_nothing(store: ModelStore) -> None:
    model = add_model(store)
    bundle = add_bundle(store, model)

    assert add_model(store) == model
    # the report differs in its timing, but that does not make another bundle
    assert add_bundle(store, model) == bundle
    assert len(store.bundles()) == len(store.models()) == 1


def test_newest_come_first(store: ModelStore) -> None:
    models = [add_model(store, seed) for seed in range(3)]
    bundles = [add_bundle(store, models[0], seed) for seed in range(3)]

    assert store.models() == models[::-1]
    assert store.bundles() == bundles[::-1]


def test_publish_and_roll_back(store: ModelStore) -> None:
    model = add_model(store)
    first, second, third = (add_bundle(store, model, seed).bundle_id for seed in range(3))

    assert store.publish(first) == LivePointer(bundles={"hllm": first}, default="hllm")
    store.publish(second)
    store.publish(third)
    assert store.rollback() == second
    assert store.live().bundles == {"hllm": second}
    assert store.rollback("hllm") == first
    with pytest.raises(ArtifactNotFound, match=f"before {first}"):
        store.rollback()
    assert store.live().bundles == {"hllm": first}


def test_what_was_rolled_back_is_not_a_rollback_target(store: ModelStore) -> None:
    model = add_model(store)
    first, bad, third = (add_bundle(store, model, seed).bundle_id for seed in range(3))
    store.publish(first)
    store.publish(bad)
    store.rollback()
    store.publish(third)

    assert store.rollback() == first


def test_publishing_the_live_bundle_again_keeps_its_rollback_target(store: ModelStore) -> None:
    model = add_model(store)
    first, second = (add_bundle(store, model, seed).bundle_id for seed in range(2))
    store.publish(first)
    store.publish(second)
    store.publish(second)

    assert store.rollback() == first


def test_kinds_are_live_side_by_side(store: ModelStore) -> None:
    hllm = add_bundle(store, add_model(store, 0)).bundle_id
    other_model = add_model(store, 1, kind="other")
    other, other_newer = (add_bundle(store, other_model, seed).bundle_id for seed in (1, 2))

    store.publish(hllm)
    assert store.publish(other) == LivePointer(bundles={"hllm": hllm, "other": other}, default="hllm")
    assert store.publish(other_newer, make_default=True).default == "other"
    assert store.rollback() == other
    assert store.live() == LivePointer(bundles={"hllm": hllm, "other": other}, default="other")
    with pytest.raises(ArtifactNotFound):
        store.rollback("hllm")


def test_the_live_pointer_is_a_flat_object(local: ModelStore) -> None:
    bundle = add_bundle(local, add_model(local)).bundle_id
    local.publish(bundle)

    assert json.loads(Path(local.root, "live.json").read_text()) == {"hllm": bundle, "default": "hllm"}


@pytest.mark.parametrize("content", ["", "[]", "nonsense", '{"hllm": 3}'])
def test_a_live_pointer_that_makes_no_sense_is_named(local: ModelStore, content: str) -> None:
    add_model(local)
    Path(local.root, "live.json").write_text(content)
    with pytest.raises(ArtifactCorrupt, match=r"live\.json"):
        local.live()


@pytest.mark.parametrize("name", ["nope", "hllm-000000000000"])
def test_what_is_not_there_is_named(store: ModelStore, name: str) -> None:
    for call in (store.model_directory, store.bundle_directory, store.publish):
        with pytest.raises(ArtifactNotFound, match=name):
            call(name)
    with pytest.raises(ArtifactNotFound):
        store.rollback()


@pytest.mark.parametrize("name", ["../models", "a/b", "", ".", "..", ".hidden"])
def test_names_that_leave_the_store_are_refused(store: ModelStore, name: str) -> None:
    for call in (store.model_directory, store.bundle_directory, store.publish, store.work_directory):
        with pytest.raises(InvalidInput, match="name"):
            call(name)


def test_work_directories_stay(store: ModelStore) -> None:
    (store.work_directory("embed-1") / "shard").write_text("x")
    assert (store.work_directory("embed-1") / "shard").read_text() == "x"


def test_staging_is_removed_unless_it_was_added(store: ModelStore) -> None:
    with store.staging() as staged:
        (staged / "half").write_text("x")
    assert not staged.exists()
    with pytest.raises(RuntimeError), store.staging() as failed:
        raise RuntimeError
    assert not failed.exists()
    assert store.models() == []


def test_something_staged_elsewhere_can_be_added(store: ModelStore, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/config.json").write_text("{}")

    model = store.add_model(tmp_path / "mine", kind="hllm", embedding_dim=2, item_tower_hash="t")

    assert store.models() == [model]


def test_nothing_cannot_be_added(store: ModelStore, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for staged, message in ((tmp_path / "empty", "no files"), (tmp_path / "missing", "not a directory")):
        with pytest.raises(InvalidInput, match=message):
            store.add_model(staged, kind="hllm", embedding_dim=2, item_tower_hash="t")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked/weights").symlink_to(__file__)
    with pytest.raises(InvalidInput, match="weights is a link"):
        store.add_model(tmp_path / "linked", kind="hllm", embedding_dim=2, item_tower_hash="t")
    with pytest.raises(InvalidInput, match="'default' is taken"):
        add_model(store, kind="default")


def test_a_bundle_without_an_index_is_refused(store: ModelStore) -> None:
    model = add_model(store)
    with store.staging() as staged:
        write_bundle_files(staged, 0)
        (staged / "index.faiss").unlink()
        with pytest.raises(InvalidInput, match=r"index\.faiss"):
            store.add_bundle(
                staged,
                model=model,
                num_items=6,
                index_factory="Flat",
                index_parameters={},
                index_recall=1.0,
                parent=None,
            )


@pytest.mark.parametrize("name", ["index.faiss", "items.parquet", "item_embeddings.safetensors"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_file_is_named_and_not_published(local: ModelStore, name: str, damage: str) -> None:
    model = add_model(local)
    good, bad = (add_bundle(local, model, seed).bundle_id for seed in range(2))
    local.publish(good)
    path = local.bundle_directory(bad) / name
    content = path.read_bytes()
    path.unlink()
    if damage == "flip":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "cut":
        path.write_bytes(content[:-1])

    for call in (local.bundle_directory, local.publish):
        with pytest.raises(ArtifactCorrupt, match=name.replace(".", r"\.")):
            call(bad)

    assert local.live().bundles == {"hllm": good}
    assert local.bundle_directory(bad, verify=False).is_dir()
    # making it again mends it
    assert add_bundle(local, model, 1).bundle_id == bad
    local.publish(bad)


def test_a_bundle_whose_model_is_damaged_is_not_published(local: ModelStore) -> None:
    model = add_model(local)
    bundle = add_bundle(local, model).bundle_id
    (local.model_directory(model.model_id) / "config.json").write_text("{}")
    with pytest.raises(ArtifactCorrupt, match=r"config\.json"):
        local.publish(bundle)


def test_rollback_to_a_damaged_bundle_leaves_the_live_one(local: ModelStore) -> None:
    model = add_model(local)
    first, second = (add_bundle(local, model, seed).bundle_id for seed in range(2))
    local.publish(first)
    local.publish(second)
    (local.bundle_directory(first) / "items.parquet").write_bytes(b"")
    with pytest.raises(ArtifactCorrupt):
        local.rollback()
    assert local.live().bundles == {"hllm": second}


def test_unreadable_manifests_are_not_listed(local: ModelStore, caplog: pytest.LogCaptureFixture) -> None:
    kept, newer, broken = (add_model(local, seed) for seed in range(3))
    path = local.model_directory(newer.model_id) / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": 99, "unheard_of": 1}))
    (local.model_directory(broken.model_id) / "manifest.json").write_text("{")

    assert local.models() == [kept]
    assert "schema 99" in caplog.text
    with pytest.raises(ArtifactIncompatible, match="schema 99"):
        local.model_directory(newer.model_id)
    with pytest.raises(ArtifactCorrupt, match="not JSON"):
        local.model_directory(broken.model_id)


def test_garbage_collection_keeps_what_is_needed(store: ModelStore) -> None:
    models = [add_model(store, seed) for seed in range(6)]
    bundles = [add_bundle(store, model, seed).bundle_id for seed, model in enumerate(models)]
    store.publish(bundles[0])
    store.publish(bundles[2])

    removed = store.collect_garbage(keep=1)

    # 2 is live, 0 the rollback target, 5 the newest
    assert {one.bundle_id for one in store.bundles()} == {bundles[0], bundles[2], bundles[5]}
    assert {one.model_id for one in store.models()} == {models[row].model_id for row in (0, 2, 5)}
    assert set(removed) == {bundles[1], bundles[3], bundles[4], *(models[row].model_id for row in (1, 3, 4))}
    assert store.collect_garbage(keep=1) == []
    assert store.rollback() == bundles[0]
    with pytest.raises(InvalidInput, match="keep is -1"):
        store.collect_garbage(keep=-1)


def test_garbage_collection_spares_staging_in_use_and_sweeps_the_rest(local: ModelStore) -> None:
    with local.staging() as staged:
        (staged / "file").write_text("x")
        dead = staged.parent / "dead"
        dead.mkdir()
        (dead / "file").write_text("x")
        temporary = Path(local.root, ".live.json.1.ab.tmp")
        temporary.write_text("{")

        local.collect_garbage()

        assert (staged / "file").exists()
        assert not dead.exists()
        assert not temporary.exists()
    assert list(staged.parent.iterdir()) == []


def test_directories_without_a_manifest_go_after_a_day(local: ModelStore) -> None:
    model = add_model(local)
    fresh, old = Path(local.root, "models/fresh"), Path(local.root, "models/old")
    for directory in (fresh, old):
        directory.mkdir()
    os.utime(old, (0, 0))

    assert local.models() == [model]
    local.collect_garbage()

    assert fresh.exists()
    assert not old.exists()


def test_a_remote_store_is_read_through_another_cache(tmp_path: Path) -> None:
    url = f"memory://{uuid.uuid4().hex}/nested"
    writer = ModelStore(url, cache_directory=tmp_path / "writer")
    bundle = add_bundle(writer, add_model(writer))
    writer.publish(bundle.bundle_id)

    reader = ModelStore(url, cache_directory=tmp_path / "reader")

    assert reader.live() == writer.live()
    assert reader.bundles() == [bundle]
    directory = reader.bundle_directory(bundle.bundle_id)
    assert directory.is_relative_to(tmp_path / "reader")
    assert (directory / "index.faiss").is_file()


def test_a_half_uploaded_artifact_is_not_there(tmp_path: Path) -> None:
    url = f"memory://{uuid.uuid4().hex}"
    writer = ModelStore(url, cache_directory=tmp_path / "writer")
    bundle = add_bundle(writer, add_model(writer)).bundle_id
    # the manifest goes up last, so this is what an interrupted upload looks like
    fsspec.filesystem("memory").rm_file(f"{url.removeprefix('memory:/')}/bundles/{bundle}/manifest.json")

    reader = ModelStore(url, cache_directory=tmp_path / "reader")
    assert reader.bundles() == []
    with pytest.raises(ArtifactNotFound):
        reader.bundle_directory(bundle)
    with pytest.raises(ArtifactNotFound):
        writer.publish(bundle)
    # doing it again finishes it
    assert add_bundle(writer, writer.models()[0]).bundle_id == bundle
    writer.publish(bundle)
    assert reader.live().bundles == {"hllm": bundle}


def test_a_damaged_download_is_named(tmp_path: Path) -> None:
    url = f"memory://{uuid.uuid4().hex}"
    writer = ModelStore(url, cache_directory=tmp_path / "writer")
    model = add_model(writer).model_id
    fsspec.filesystem("memory").pipe_file(f"{url.removeprefix('memory:/')}/models/{model}/config.json", b"{}")

    with pytest.raises(ArtifactCorrupt, match=r"config\.json"):
        ModelStore(url, cache_directory=tmp_path / "reader").model_directory(model)


def test_a_damaged_cache_is_filled_again(tmp_path: Path) -> None:
    store = ModelStore(f"memory://{uuid.uuid4().hex}", cache_directory=tmp_path / "cache")
    model = add_model(store).model_id
    path = store.model_directory(model) / "config.json"
    content = path.read_text()
    path.write_text("{}")

    assert store.model_directory(model) == path.parent
    assert path.read_text() == content


def _publish_many(root: str, seeds: list[int]) -> None:
    store = ModelStore(root)
    model = add_model(store)
    for seed in seeds:
        store.publish(add_bundle(store, model, seed).bundle_id)


def test_two_publishers_lose_nothing(local: ModelStore) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_publish_many, args=(local.root, [n, n + 1, n + 2, 9])) for n in (0, 3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()

    assert [worker.exitcode for worker in workers] == [0, 0]
    assert len(local.models()) == 1
    assert len(local.bundles()) == 7
    history = json.loads(Path(local.root, "history.json").read_text())["hllm"]
    assert sorted(history) == sorted(one.bundle_id for one in local.bundles())
    assert local.live().bundles["hllm"] == history[-1]


_ENDLESS_PUBLISHER = """
import itertools, sys
from model_store.artifacts.store import ModelStore
from tests.model_store.made_artifacts import add_bundle, add_model
store = ModelStore(sys.argv[1])
for seed in itertools.count(int(sys.argv[2])):
    store.publish(add_bundle(store, add_model(store, seed), seed).bundle_id)
    store.collect_garbage(keep=1)
    sys.stdout.write(".")
    sys.stdout.flush()
"""


@pytest.mark.parametrize("delay_ms", [0, 17])
def test_a_killed_publisher_leaves_a_whole_store(local: ModelStore, delay_ms: int) -> None:
    for start in (0, 1000):
        worker = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", _ENDLESS_PUBLISHER, local.root, str(start)],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[3],
        )
        assert worker.stdout is not None
        assert worker.stdout.read(3) == b"..."
        with pytest.raises(subprocess.TimeoutExpired):
            worker.wait(delay_ms / 1000)
        worker.send_signal(signal.SIGKILL)
        worker.communicate()

    live = local.live()
    for bundle in local.bundles():
        local.bundle_directory(bundle.bundle_id)
        local.model_directory(bundle.model_id)
    assert live.bundles["hllm"] in {one.bundle_id for one in local.bundles()}
    assert local.rollback() != live.bundles["hllm"]
    # no lock outlives its holder, and a sweep leaves nothing half-made
    local.collect_garbage(keep=1)
    assert list(Path(local.root, "staging").iterdir()) == []
