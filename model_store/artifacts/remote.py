"""The part of a model store that lies behind an fsspec URL (``s3://``, ``gs://``, ``memory://``).

Object stores have no rename, so an artifact counts as present once its manifest is there, and the manifest
is uploaded last. Single objects are replaced atomically, so ``live.json`` needs nothing else.
"""

import contextlib
import logging
import posixpath
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import fsspec

from model_store.artifacts.manifest import MANIFEST_NAME
from model_store.errors import ArtifactNotFound, InvalidInput

LOGGER = logging.getLogger(__name__)


class RemoteFiles:
    """Artifacts and small files below one fsspec URL."""

    def __init__(self, url: str) -> None:
        try:
            self._files, self._root = fsspec.core.url_to_fs(url)
        except ImportError as error:
            raise InvalidInput(f"store {url!r} needs another package: {error}") from error
        except ValueError as error:
            raise InvalidInput(f"store {url!r} is not a path or URL that can be opened: {error}") from error
        # listings would otherwise hide what other machines wrote since
        self._files.use_listings_cache = False

    def names(self, group: str) -> list[str]:
        """Names of the directories in ``group``, whole or not."""
        self._files.invalidate_cache()
        try:
            entries = self._files.ls(self._path(group), detail=False)
        except FileNotFoundError:
            return []
        return sorted(name for entry in entries if (name := posixpath.basename(entry.rstrip("/"))))

    def read(self, name: str) -> bytes | None:
        """The content of a small file, or None if it does not exist."""
        try:
            return self._files.cat_file(self._path(name))
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        """Replaces a small file."""
        path = self._path(name)
        self._files.makedirs(posixpath.dirname(path), exist_ok=True)
        self._files.pipe_file(path, content)

    def has(self, artifact: str) -> bool:
        """Whether the artifact was uploaded to its end."""
        self._files.invalidate_cache()
        return bool(self._files.exists(self._path(artifact, MANIFEST_NAME)))

    def upload(self, directory: Path, artifact: str) -> None:
        """Uploads a directory, its manifest last.

        Args:
            directory: The local artifact.
            artifact: ``<group>/<id>``.
        """
        names = [path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()]
        for name in sorted(names, key=lambda name: (name == MANIFEST_NAME, name)):
            target = self._path(artifact, name)
            self._files.makedirs(posixpath.dirname(target), exist_ok=True)
            self._files.put_file(str(directory / name), target)

    def download(self, artifact: str, directory: Path) -> None:
        """Downloads an artifact into an empty local directory.

        Args:
            artifact: ``<group>/<id>``.
            directory: Where its files go.

        Raises:
            ArtifactNotFound: There is no such artifact, or it was removed meanwhile.
        """
        root = self._path(artifact)
        try:
            for path in self._files.find(root):
                target = directory / posixpath.relpath(path, root)
                target.parent.mkdir(parents=True, exist_ok=True)
                self._files.get_file(path, str(target))
        except FileNotFoundError as error:
            raise ArtifactNotFound(f"{artifact} is not whole in {self._root}: {error}") from error

    def remove(self, artifact: str) -> None:
        """Removes an artifact, its manifest first, so that it is never listed half removed."""
        self._files.invalidate_cache()
        with contextlib.suppress(FileNotFoundError):
            self._files.rm_file(self._path(artifact, MANIFEST_NAME))
        with contextlib.suppress(FileNotFoundError):
            self._files.rm(self._path(artifact), recursive=True)

    def idle_seconds(self, artifact: str) -> float:
        """Seconds since the newest file of a half-uploaded artifact was written."""
        newest = max(self._modified(artifact), default=0.0)
        return time.time() - newest

    def _modified(self, artifact: str) -> Iterator[float]:
        for path in self._files.find(self._path(artifact)):
            modified: datetime = self._files.modified(path)
            yield modified.timestamp()

    def _path(self, *parts: str) -> str:
        return posixpath.join(self._root, *parts)
