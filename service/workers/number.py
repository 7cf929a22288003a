"""How many workers a machine can use: one per core that the service may have, and no more than fit into memory."""

import os
from pathlib import Path

from model_store.artifacts.manifest import read_bundle_manifest, read_model_manifest
from model_store.artifacts.store import ModelStore
from model_store.errors import HatstandError
from service.engine.memory import AvailableBytes, available_bytes, estimate_need
from service.settings import Settings

_MIB = 2**20
# What workers share before they load anything: mostly the libraries of the model. Measured: 330 MiB.
_SHARED_BYTES = 384 * _MIB
# What a worker has for itself then. Measured: 45 MiB.
_WORKER_BYTES = 64 * _MIB
_CONTROL_GROUP = Path("/sys/fs/cgroup")


def num_workers(
    settings: Settings, store: ModelStore, *, cores: int | None = None, available: AvailableBytes = available_bytes
) -> int:
    """Workers that the settings ask for, or, where that is 0, as many as the machine can use.

    Weights on an accelerator are not shared between processes, so there it is one.

    Args:
        settings: Checked values.
        store: Whose live bundles each worker loads.
        cores: That there are to use; by default those of this machine.
        available: How much memory there is.
    """
    if settings.workers:
        return settings.workers
    if settings.device != "cpu":
        return 1
    cores = cores or usable_cores()
    free = available("cpu")
    if free is None or settings.memory_reserve_mb < 0:
        return cores
    return max(min(cores, _fitting(settings, store, free)), 1)


def usable_cores(control_group: Path = _CONTROL_GROUP) -> int:
    """Cores that this process may use: by its affinity, and by the quota of its control group, rounded down."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(control_group)
    return max(min(affinity, int(quota)) if quota else affinity, 1)


def _quota(root: Path) -> float | None:
    """Cores by the second version of control groups, or by the first; None = no limit."""
    try:
        allowed, period = (root / "cpu.max").read_text(encoding="ascii").split()
        return None if allowed == "max" else int(allowed) / int(period)
    except (OSError, ValueError):
        pass
    try:
        allowed = (root / "cpu/cpu.cfs_quota_us").read_text(encoding="ascii")
        period = (root / "cpu/cpu.cfs_period_us").read_text(encoding="ascii")
        return int(allowed) / int(period) if int(allowed) > 0 else None
    except (OSError, ValueError):
        return None


def _fitting(settings: Settings, store: ModelStore, available: int) -> int:
    """Workers that have room with full caches, while one of them holds a second bundle."""
    private, shared = _bundle_bytes(settings, store)
    caches = (settings.state_cache_mb + settings.last_known_mb) * _MIB
    free = available - settings.memory_reserve_mb * _MIB - _SHARED_BYTES - 2 * shared - private
    return free // (_WORKER_BYTES + caches + private)


def _bundle_bytes(settings: Settings, store: ModelStore) -> tuple[int, int]:
    """What the live bundles take of each worker, and what all workers share, as mapped files."""
    private = shared = 0
    try:
        for bundle_id in store.live().bundles.values():
            bundle = read_bundle_manifest(store.bundle_directory(bundle_id, verify=False))
            model = read_model_manifest(store.model_directory(bundle.model_id, verify=False))
            need = estimate_need(bundle, model, device=settings.device)
            private += need.host_bytes - need.mapped_bytes
            shared += need.mapped_bytes
    except (HatstandError, OSError):
        pass  # The workers say what is wrong with the store when they load it.
    return private, shared
