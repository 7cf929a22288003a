"""Writing files so that a reader, a second writer or a power cut never meets half of one.

The order is always: write beside the target, flush the file, rename over the target, flush the directory.
Flushing the directory is what makes the rename itself survive a power cut.
"""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

# what write_atomically leaves beside a file if it is killed half-way
TEMPORARY_PATTERN = ".*.tmp"


def sync_directory(directory: Path) -> None:
    """Flushes a directory's entries (names and renames) to disk."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(directory: Path) -> None:
    """Flushes every file and directory below ``directory``, and itself, to disk."""
    for parent, _, names in os.walk(directory, topdown=False):
        for name in names:
            with (Path(parent) / name).open("rb") as file:
                os.fsync(file.fileno())
        sync_directory(Path(parent))


def write_atomically(path: Path, content: bytes) -> None:
    """Replaces the file at ``path``: readers see the old content or the new, never a mixture.

    Args:
        path: The file; its directory exists.
        content: All of its new bytes.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_directory(path.parent)


def move_directory(source: Path, target: Path) -> None:
    """Moves a directory to a name that does not exist yet, in one step on the same file system.

    Args:
        source: An existing directory, already flushed to disk.
        target: Its new name; its parent exists.

    Raises:
        FileExistsError: ``target`` is there already.
    """
    if target.exists():
        raise FileExistsError(target)
    source.rename(target)
    sync_directory(target.parent)


@contextlib.contextmanager
def exclusive_lock(path: Path) -> Iterator[None]:
    """Holds a lock shared by all threads and processes that use the same file; waits for it.

    The kernel frees it when the holder dies, also by SIGKILL, so there are no stale locks to clean.

    Args:
        path: The lock file; made if missing, never removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def hold(path: Path) -> Iterator[None]:
    """Marks ``path`` (a new file) as in use for as long as this process lives in the block."""
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def is_held(path: Path) -> bool:
    """Whether a living process is inside ``hold(path)``."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def remove_directory(directory: Path) -> None:
    """Removes a directory and all that is in it; one that is gone already is fine."""
    shutil.rmtree(directory, ignore_errors=True)
