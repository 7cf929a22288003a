"""Whether a bundle fits into memory beside what is there, before it is loaded.

A process that runs out of memory is killed with every request in it; a bundle that is refused costs nothing. The need
is estimated from the sizes in the manifests, rather too high than too low.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from model_store.artifacts.manifest import BundleManifest, ModelManifest
from model_store.errors import HatstandError

_MIB = 2**20
# A model's item side is for reindexing; the service does not load it.
_NOT_LOADED = ("item_llm/", "adapter/item_llm/", "item_tower/")
# Weights may be stored in half the precision that they are used in.
_WEIGHTS_FACTOR = 2
# The names are written here again, as their homes import torch and faiss; the parent of several workers needs neither.
ITEMS_FILE = "items.parquet"
# Mapped into memory as they are.
MAPPED_FILES = frozenset({"item_embeddings.safetensors", "index.faiss", "item_states.safetensors"})
# Compressed columns become Arrow columns, and ids Python strings in a dictionary.
_TABLE_FACTOR = 5
_BYTES_PER_ITEM = 250
_OTHER_FACTOR = 4

AvailableBytes = Callable[[str], "int | None"]


class InsufficientMemory(HatstandError):
    """A bundle does not fit into memory beside what is there."""


@dataclass(frozen=True)
class MemoryNeed:
    """What a bundle will take.

    Attributes:
        host_bytes: Of the machine's memory.
        mapped_bytes: The part of ``host_bytes`` that processes share.
        device_bytes: Of an accelerator's; 0 where the model runs on the CPU.
    """

    host_bytes: int
    mapped_bytes: int
    device_bytes: int

    def times(self, number: int) -> "MemoryNeed":
        """What so many processes need; mapped files are there once."""
        private = self.host_bytes - self.mapped_bytes
        return MemoryNeed(number * private + self.mapped_bytes, self.mapped_bytes, number * self.device_bytes)


def estimate_need(bundle: BundleManifest, model: ModelManifest, *, device: str) -> MemoryNeed:
    """How much memory a bundle and its model will take, from the sizes of their files.

    Args:
        bundle: Of the bundle.
        model: Of its model.
        device: Where the model will run.
    """
    weights = _WEIGHTS_FACTOR * sum(
        entry.size_bytes for name, entry in model.files.items() if not name.startswith(_NOT_LOADED)
    )
    mapped = sum(entry.size_bytes for name, entry in bundle.files.items() if name in MAPPED_FILES)
    private = bundle.num_items * _BYTES_PER_ITEM + weights
    for name, entry in bundle.files.items():
        if name not in MAPPED_FILES:
            private += entry.size_bytes * (_TABLE_FACTOR if name == ITEMS_FILE else _OTHER_FACTOR)
    return MemoryNeed(private + mapped, mapped, weights if device.startswith("cuda") else 0)


def memory_problem(need: MemoryNeed, *, device: str, reserve_bytes: int, available: AvailableBytes) -> str | None:
    """Why there is not enough memory, or None if there is, or if nobody can say.

    Args:
        need: What is wanted.
        device: Where the model will run.
        reserve_bytes: Must stay free, on either; negative: nobody looks.
        available: What can be had of ``cpu`` or of an accelerator now.
    """
    for where, wanted in (("cpu", need.host_bytes), (device, need.device_bytes)):
        free = available(where) if wanted and reserve_bytes >= 0 else None
        if free is not None and wanted > free - reserve_bytes:
            return (
                f"it needs about {_mib(wanted)} of memory ({where}), but {_mib(free)} are available, "
                f"of which {_mib(reserve_bytes)} are kept in reserve (HATSTAND_MEMORY_RESERVE_MB)"
            )
    return None


def available_bytes(where: str) -> int | None:
    """What can be had without swapping or being killed; None where the system does not say.

    Args:
        where: ``cpu``, ``cuda`` or ``cuda:1``.
    """
    if where.startswith("cuda"):
        import torch  # Only here, so that the parent of several workers does without.

        free, _ = torch.cuda.mem_get_info(where)
        # What torch has reserved and does not use is free for us, too.
        return int(free) + torch.cuda.memory_reserved(where) - torch.cuda.memory_allocated(where)
    limits = [limit for limit in (_of_machine(), left_in_control_group(Path("/sys/fs/cgroup"))) if limit is not None]
    return min(limits) if limits else None


def _of_machine(path: Path = Path("/proc/meminfo")) -> int | None:
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    kib = next((int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)
    return None if kib is None else kib * 1024


def left_in_control_group(root: Path) -> int | None:
    """What the container may still take; its cache of files can be dropped, so it counts as free."""
    for folder, limit, used, inactive in (
        (root, "memory.max", "memory.current", "inactive_file"),
        (root / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            allowed = int((folder / limit).read_text(encoding="ascii"))
            taken = int((folder / used).read_text(encoding="ascii"))
            figures = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines())
        except (OSError, ValueError):  # no such group, or "max": no limit
            continue
        return max(allowed - taken + int(figures.get(inactive, 0)), 0)
    return None


def _mib(num_bytes: int) -> str:
    return f"{max(num_bytes, 0) / _MIB:,.0f} MiB"
