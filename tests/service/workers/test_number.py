"""How many workers a machine can use."""

import os
from pathlib import Path

import pytest

from model_store.artifacts.bundle import EMBEDDINGS_FILE, INDEX_FILE
from model_store.artifacts.bundle import ITEMS_FILE as BUNDLE_ITEMS_FILE
from model_store.artifacts.store import ModelStore
from model_store.catalogue.item_states import STATES_FILE
from service.engine.memory import ITEMS_FILE, MAPPED_FILES
from service.settings import Settings
from service.workers.number import num_workers, usable_cores

GIB = 2**30


def test_cores_are_those_of_the_affinity_and_of_the_control_group(tmp_path: Path) -> None:
    cores = len(os.sched_getaffinity(0))
    assert usable_cores(tmp_path) == cores
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert usable_cores(tmp_path) == cores
    for quota, expected in ((100_000, 1), (20_000, 1), (100_000 * (cores + 1), cores)):
        (tmp_path / "cpu.max").write_text(f"{quota} 100000\n")
        assert usable_cores(tmp_path) == expected


def test_the_first_version_of_control_groups_is_read_too(tmp_path: Path) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000\n")
    for quota, expected in ((-1, len(os.sched_getaffinity(0))), (150_000, 1)):
        (tmp_path / "cpu/cpu.cfs_quota_us").write_text(f"{quota}\n")
        assert usable_cores(tmp_path) == expected


def test_what_is_set_is_what_there_is(tmp_path: Path) -> None:
    assert num_workers(Settings(workers=7), ModelStore(tmp_path)) == 7


def test_an_accelerator_has_one(tmp_path: Path) -> None:
    assert num_workers(Settings(device="cuda"), ModelStore(tmp_path)) == 1


@pytest.mark.parametrize(
    ("available", "expected"), [(None, 16), (GIB // 2, 1), (2 * GIB, 3), (4 * GIB, 9), (1_000 * GIB, 16)]
)
def test_no_more_than_fit_into_memory(shop_root: Path, available: int | None, expected: int) -> None:
    # 384 MiB for all, and a worker of 64 MiB with caches of 320 MiB and a small bundle.
    settings = Settings(store=str(shop_root), memory_reserve_mb=128)
    store, machine = ModelStore(shop_root), {"cores": 16, "available": lambda _: available}
    assert num_workers(settings, store, **machine) == expected
    assert num_workers(settings.model_copy(update={"memory_reserve_mb": -1}), store, **machine) == 16


def test_the_files_that_processes_share_are_known_by_their_names() -> None:
    assert {EMBEDDINGS_FILE, INDEX_FILE, STATES_FILE} == MAPPED_FILES
    assert ITEMS_FILE == BUNDLE_ITEMS_FILE
