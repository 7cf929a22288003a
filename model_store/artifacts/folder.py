"""Where a model store keeps its files: a local directory, or a remote one mirrored into a local cache.

Knows names and bytes, locks and renames; what a model, a bundle or "live" is, ``store`` knows.
"""

import contextlib
import errno
import json
import logging
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from model_store.artifacts import durable as durable_files
from model_store.artifacts.manifest import MANIFEST_NAME, FileEntry, verify_files
from model_store.artifacts.remote import RemoteFiles
from model_store.errors import ArtifactCorrupt, ArtifactError, ArtifactNotFound

LOGGER = logging.getLogger(__name__)

# a half-written artifact may still be on its way from another machine; a day later it is not
_ABANDONED_SECONDS = 24 * 3600.0


class ArtifactFolder:
    """Artifacts, each a directory ``<group>/<id>`` with a manifest, and small JSON files beside them.

    Args:
        local: The store itself, or the cache of a remote one.
        remote: The remote store, or None.
        name: What messages call the store.
    """

    def __init__(self, local: Path, remote: RemoteFiles | None, *, name: str) -> None:
        self.local = local
        self.name = name
        self._remote = remote
        self._staging = local / "staging"

    def lock(self) -> contextlib.AbstractContextManager[None]:
        """Makes writers take turns; not to be entered twice by one thread."""
        return durable_files.exclusive_lock(self.local / ".lock")

    @contextlib.contextmanager
    def staging(self) -> Iterator[Path]:
        """A fresh local directory, removed on exit unless it was adopted."""
        directory = self._staging / uuid.uuid4().hex
        with contextlib.ExitStack() as stack:
            # under a lock, so that a sweep never sees the marker before it is held
            with self._staging_lock():
                self._staging.mkdir(parents=True, exist_ok=True)
                stack.enter_context(durable_files.hold(_marker(directory)))
                directory.mkdir()
            stack.callback(durable_files.remove_directory, directory)
            yield directory

    def sweep(self) -> None:
        """Removes what dead processes left: staging directories, half-written files. Call it inside ``lock``."""
        for path in self.local.glob(durable_files.TEMPORARY_PATTERN):
            path.unlink(missing_ok=True)
        with self._staging_lock():
            for path in self._staging.iterdir() if self._staging.is_dir() else ():
                if path.is_dir() and not durable_files.is_held(_marker(path)):
                    durable_files.remove_directory(path)
                elif path.is_file() and not durable_files.is_held(path):
                    path.unlink(missing_ok=True)

    def adopt(self, staged: Path, artifact: str, *, manifest: bytes) -> Path:
        """Moves a directory to its place, manifest included, and uploads it; call it inside ``lock``.

        An artifact that is there already and whole stays as it is; a damaged one is replaced.

        Args:
            staged: The directory; it is gone afterwards if it was moved.
            artifact: ``<group>/<id>``.
            manifest: The content of the manifest.

        Returns:
            The local directory of the artifact.
        """
        target = self.local / artifact
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists() and not _is_whole(target):
            LOGGER.warning("%s is damaged and is replaced", artifact)
            self._remove_local(artifact)
        if not target.exists():
            durable_files.sync_tree(staged)
            durable_files.write_atomically(staged / MANIFEST_NAME, manifest)
            self._move(staged, target)
        if self._remote and not self._remote.has(artifact):
            self._remote.upload(target, artifact)
        return target

    def has(self, artifact: str) -> bool:
        """Whether the whole artifact is in the store (for a remote one: whatever the cache holds)."""
        if self._remote:
            return self._remote.has(artifact)
        return (self.local / artifact / MANIFEST_NAME).is_file()

    def directory(self, artifact: str) -> Path:
        """The local directory of an artifact, downloaded first if it is not there.

        Raises:
            ArtifactNotFound: It is not in the store.
        """
        directory = self.local / artifact
        # an artifact never changes, so a cached one is served even while the remote store is away
        if (directory / MANIFEST_NAME).is_file():
            return directory
        if not self._remote or not self._remote.has(artifact):
            raise ArtifactNotFound(f"{artifact} is not in {self.name}")
        with self.staging() as staged:
            self._remote.download(artifact, staged)
            durable_files.sync_tree(staged)
            directory.parent.mkdir(parents=True, exist_ok=True)
            # another process may have fetched the same artifact meanwhile; its copy is as good
            with contextlib.suppress(FileExistsError):
                durable_files.move_directory(staged, directory)
        return directory

    def fetch_again(self, artifact: str) -> bool:
        """Replaces the cached copy of a remote artifact; False if there is no remote one to fetch."""
        if not self._remote or not self._remote.has(artifact):
            return False
        LOGGER.warning("the cached copy of %s is damaged and is fetched again", artifact)
        self._remove_local(artifact)
        self.directory(artifact)
        return True

    def names(self, group: str) -> list[str]:
        """Names of the directories of a group, whole or not."""
        if self._remote:
            return self._remote.names(group)
        directory = self.local / group
        return sorted(path.name for path in directory.iterdir()) if directory.is_dir() else []

    def remove(self, artifact: str) -> None:
        """Removes an artifact; nobody ever sees a part of it. Call it inside ``lock``."""
        LOGGER.info("removing %s", artifact)
        if self._remote:
            self._remote.remove(artifact)
        self._remove_local(artifact)

    def abandoned(self, group: str) -> list[str]:
        """Artifacts of a group that have no manifest and that nobody has written to for a day."""
        artifacts = [f"{group}/{name}" for name in self.names(group)]
        halves = [artifact for artifact in artifacts if not self.has(artifact)]
        return [artifact for artifact in halves if self._idle_seconds(artifact) > _ABANDONED_SECONDS]

    def read(self, name: str) -> bytes | None:
        """The content of a file, or None if it does not exist."""
        if self._remote:
            return self._remote.read(name)
        try:
            return (self.local / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def read_json(self, name: str) -> dict[str, Any]:
        """The JSON object in a file, empty if there is no such file.

        Raises:
            ArtifactCorrupt: It holds something else.
        """
        content = self.read(name)
        if content is None:
            return {}
        try:
            value = json.loads(content)
        except ValueError as error:
            raise ArtifactCorrupt(f"{name} in {self.name} is not JSON: {error}") from error
        if not isinstance(value, dict):
            raise ArtifactCorrupt(f"{name} in {self.name} holds {value!r}, expected an object")
        return value

    def write_json(self, name: str, value: dict[str, Any]) -> None:
        """Replaces a file by a JSON object, atomically."""
        content = (json.dumps(value, indent=2) + "\n").encode()
        if self._remote:
            self._remote.write(name, content)
        else:
            durable_files.write_atomically(self.local / name, content)

    def _staging_lock(self) -> contextlib.AbstractContextManager[None]:
        return durable_files.exclusive_lock(self.local / ".staging.lock")

    def _move(self, staged: Path, target: Path) -> None:
        try:
            durable_files.move_directory(staged, target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            # made outside of the store, on another file system: copy next to the target, then rename
            with self.staging() as near:
                shutil.copytree(staged, near, dirs_exist_ok=True)
                durable_files.sync_tree(near)
                durable_files.move_directory(near, target)

    def _remove_local(self, artifact: str) -> None:
        directory = self.local / artifact
        if not directory.exists():
            return
        # renamed away first, so that it is never seen half removed; if we are killed, a sweep finishes it
        with self.staging() as trash:
            durable_files.move_directory(directory, trash / "removed")
            durable_files.sync_directory(directory.parent)

    def _idle_seconds(self, artifact: str) -> float:
        if self._remote:
            return self._remote.idle_seconds(artifact)
        return time.time() - (self.local / artifact).stat().st_mtime


def _marker(directory: Path) -> Path:
    return directory.with_name(directory.name + ".in-use")


def _is_whole(directory: Path) -> bool:
    """Whether an artifact agrees with its own manifest, of either type."""
    try:
        files = json.loads((directory / MANIFEST_NAME).read_bytes())["files"]
        verify_files(directory, {name: FileEntry.model_validate(entry) for name, entry in files.items()})
    except (ArtifactError, OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    return True
