"""Which checkpoints are whole.

The Trainer writes a checkpoint file by file; a process killed meanwhile leaves a part of one, and one killed
while old checkpoints are removed leaves another. So each checkpoint gets, last, a list of its files and their
sizes, and only those that match their list are resumed from.
"""

import json
import logging
import shutil
from pathlib import Path

LOGGER = logging.getLogger(__name__)
_MARKER = "complete.json"
_PREFIX = "checkpoint-"


def mark_complete(checkpoint: Path) -> None:
    """Writes the list of files, atomically; call it when all of them are there."""
    temporary = checkpoint / f"{_MARKER}.partial"
    temporary.write_text(json.dumps(_sizes(checkpoint)), encoding="utf-8")
    temporary.replace(checkpoint / _MARKER)


def latest_complete(directory: Path) -> Path | None:
    """The newest whole checkpoint, if any."""
    complete = [path for path in _checkpoints(directory) if is_complete(path)]
    return max(complete, key=_step, default=None)


def remove_incomplete(directory: Path) -> None:
    """Removes what killed processes left; the Trainer would count such remains among its checkpoints."""
    for path in _checkpoints(directory):
        if not is_complete(path):
            LOGGER.warning("%s was not written to its end, and is removed", path.name)
            shutil.rmtree(path)


def is_complete(checkpoint: Path) -> bool:
    """Whether all files of the list are there in full."""
    try:
        expected = json.loads((checkpoint / _MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(expected == _sizes(checkpoint))


def _sizes(checkpoint: Path) -> dict[str, int]:
    files = (path for path in checkpoint.rglob("*") if path.is_file() and not path.name.startswith(_MARKER))
    return {path.relative_to(checkpoint).as_posix(): path.stat().st_size for path in files}


def _checkpoints(directory: Path) -> list[Path]:
    return [path for path in directory.glob(f"{_PREFIX}*") if path.name.removeprefix(_PREFIX).isdigit()]


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix(_PREFIX))
