"""The model store: models, bundles, and the pointer to what is live.

::

    STORE/models/<model_id>/     immutable, with a manifest
    STORE/bundles/<bundle_id>/   immutable, with a manifest
    STORE/live.json              {"hllm": bundle_id, "default": "hllm"}
    STORE/history.json           what was live before, per kind, oldest first
    STORE/staging/, STORE/work/  artifacts being made; scratch of jobs that can be resumed

Artifacts are made in ``staging`` and renamed into place, so a job that is killed leaves nothing that anyone
lists; ``collect_garbage`` sweeps what it left. Writers of a local store take turns by a file lock. A remote
store (an fsspec URL) is mirrored into a local cache, artifact by artifact; there the last publisher wins.
"""

import contextlib
import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from model_store.artifacts.folder import ArtifactFolder
from model_store.artifacts.live_pointer import LivePointer, earlier_bundles, recorded
from model_store.artifacts.manifest import (
    MANIFEST_NAME,
    BundleManifest,
    FileEntry,
    ModelManifest,
    describe_files,
    hash_files,
    hash_value,
    parse_manifest,
    read_bundle_manifest,
    read_model_manifest,
    verify_files,
)
from model_store.artifacts.remote import RemoteFiles
from model_store.errors import ArtifactCorrupt, ArtifactError, ArtifactNotFound, InvalidInput

__all__ = ["LivePointer", "ModelStore"]

LOGGER = logging.getLogger(__name__)

MODELS = "models"
BUNDLES = "bundles"
REPORT_NAME = "report.json"
REQUIRED_BUNDLE_FILES = ("items.parquet", "item_embeddings.safetensors", "index.faiss")
_LIVE = "live.json"
_HISTORY = "history.json"
_DEFAULT = "default"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_ID_DIGITS = 12

M = TypeVar("M", ModelManifest, BundleManifest)


class ModelStore:
    """A folder, or an object store, of models and bundles. Safe to use from several threads and processes."""

    def __init__(self, root: str | Path, *, cache_directory: Path | None = None) -> None:
        """Opens a store; nothing is written before something is stored.

        Args:
            root: A local directory (made when first written to) or an fsspec URL.
            cache_directory: Where a remote store is mirrored; by default below ``~/.cache``.

        Raises:
            InvalidInput: ``root`` is a file, or a URL that cannot be opened.
        """
        self.root = str(root)
        is_remote = "://" in self.root and not self.root.startswith("file://")
        if is_remote:
            local = cache_directory or _default_cache(self.root)
        else:
            local = Path(self.root.removeprefix("file://")).expanduser().absolute()
        if local.exists() and not local.is_dir():
            raise InvalidInput(f"store {local} is a file, expected a directory")
        self._folder = ArtifactFolder(local, RemoteFiles(self.root) if is_remote else None, name=self.root)

    def staging(self) -> contextlib.AbstractContextManager[Path]:
        """A fresh local directory to make an artifact in; it is removed on exit unless it was added."""
        return self._folder.staging()

    def work_directory(self, name: str) -> Path:
        """A local directory for a job's checkpoints and shards; it stays until the job removes it.

        Args:
            name: Letters, digits, ``_``, ``-`` and ``.``.
        """
        directory = self._folder.local / "work" / _checked(name, "work directory")
        directory.mkdir(parents=True, exist_ok=True)
        return directory

    def add_model(
        self,
        staged: Path,
        *,
        kind: str,
        embedding_dim: int,
        item_tower_hash: str,
        parents: Sequence[str] = (),
        metrics: Mapping[str, float] | None = None,
        training: Mapping[str, Any] | None = None,
    ) -> ModelManifest:
        """Adds a model to the store, by moving ``staged``; the same files again change nothing.

        Args:
            staged: Directory with all files of the model, usually from ``staging``.
            kind: Such as ``hllm``.
            embedding_dim: D.
            item_tower_hash: Hash of what item embeddings depend on.
            parents: Ids of the models it was trained from.
            metrics: Quality figures by name.
            training: How it was made.

        Raises:
            InvalidInput: ``staged`` has no files, or ``kind`` is not a name.
        """
        files = _described(staged)
        weights_hash = hash_files(files)
        manifest = ModelManifest(
            model_id=f"{_checked_kind(kind)}-{weights_hash[:_ID_DIGITS]}",
            kind=kind,
            created_at=datetime.now(UTC),
            embedding_dim=embedding_dim,
            weights_hash=weights_hash,
            item_tower_hash=item_tower_hash,
            parents=list(parents),
            metrics=dict(metrics or {}),
            training=dict(training or {}),
            files=files,
        )
        return read_model_manifest(self._adopt(staged, f"{MODELS}/{manifest.model_id}", manifest))

    def add_bundle(
        self,
        staged: Path,
        *,
        model: ModelManifest,
        num_items: int,
        index_factory: str,
        index_parameters: Mapping[str, Any],
        index_recall: float,
        parent: str | None,
    ) -> BundleManifest:
        """Adds a bundle to the store, by moving ``staged``; the same content again changes nothing.

        Args:
            staged: Directory with all files of the bundle, usually from ``staging``.
            model: The model that made the item embeddings.
            num_items: N.
            index_factory: FAISS factory string of the index.
            index_parameters: Search-time parameters.
            index_recall: Measured recall@10 in [0, 1].
            parent: The bundle that was live before, or None.

        Raises:
            InvalidInput: A file that every bundle needs is missing.
            ArtifactNotFound: The model is not in the store.
        """
        files = _described(staged)
        missing = [name for name in REQUIRED_BUNDLE_FILES if name not in files]
        if missing:
            raise InvalidInput(f"bundle in {staged} has no {missing[0]}; it needs {REQUIRED_BUNDLE_FILES}")
        self.model_directory(model.model_id, verify=False)
        # the report holds timings, which differ between two equal bundles
        content = {name: entry.sha256 for name, entry in files.items() if name != REPORT_NAME}
        content_hash = hash_value([content, model.weights_hash, index_factory, dict(index_parameters)])
        manifest = BundleManifest(
            bundle_id=f"{model.kind}-{content_hash[:_ID_DIGITS]}",
            kind=model.kind,
            model_id=model.model_id,
            model_weights_hash=model.weights_hash,
            item_tower_hash=model.item_tower_hash,
            created_at=datetime.now(UTC),
            num_items=num_items,
            embedding_dim=model.embedding_dim,
            index_factory=index_factory,
            index_parameters=dict(index_parameters),
            index_recall=index_recall,
            parent=parent,
            files=files,
        )
        return read_bundle_manifest(self._adopt(staged, f"{BUNDLES}/{manifest.bundle_id}", manifest))

    def model_directory(self, model_id: str, *, verify: bool = True) -> Path:
        """The local directory of a model, downloaded first if the store is remote.

        Args:
            model_id: Id of a model in the store.
            verify: Read all files and compare their checksums.

        Raises:
            ArtifactNotFound: It is not in the store.
            ArtifactCorrupt: A file is missing or differs (the message names it).
            ArtifactIncompatible: Its schema is newer.
        """
        artifact = f"{MODELS}/{_checked(model_id, 'model id')}"
        return self._open(artifact, read_model_manifest, verify=verify)

    def bundle_directory(self, bundle_id: str, *, verify: bool = True) -> Path:
        """The local directory of a bundle; arguments and errors as ``model_directory``."""
        artifact = f"{BUNDLES}/{_checked(bundle_id, 'bundle id')}"
        return self._open(artifact, read_bundle_manifest, verify=verify)

    def models(self) -> list[ModelManifest]:
        """All whole models, newest first."""
        return self._manifests(MODELS, ModelManifest)

    def bundles(self) -> list[BundleManifest]:
        """All whole bundles, newest first."""
        return self._manifests(BUNDLES, BundleManifest)

    def live(self) -> LivePointer:
        """What is live now; an empty pointer if nothing is.

        Raises:
            ArtifactCorrupt: ``live.json`` cannot be parsed.
        """
        value = self._folder.read_json(_LIVE)
        default = value.pop(_DEFAULT, None)
        if not all(isinstance(item, str) for item in [*value.values(), default or ""]):
            raise ArtifactCorrupt(f"{_LIVE} in {self.root} holds {value}, expected kind -> bundle_id")
        return LivePointer(bundles=value, default=default)

    def publish(self, bundle_id: str, *, make_default: bool = False) -> LivePointer:
        """Makes a bundle live, in one step, after checking it and its model.

        Args:
            bundle_id: A bundle in the store.
            make_default: Let its kind answer requests that name none; the first kind published does anyway.

        Raises:
            ArtifactNotFound, ArtifactCorrupt, ArtifactIncompatible: The bundle or its model cannot be served.
        """
        with self._folder.lock():
            manifest = read_bundle_manifest(self.bundle_directory(bundle_id))
            self.model_directory(manifest.model_id)
            if not self._folder.has(f"{BUNDLES}/{bundle_id}"):
                raise ArtifactNotFound(f"bundle {bundle_id!r} is in the cache but no longer in {self.root}")
            live = self.live()
            # the history first: the other way round, dying in between would lose the rollback target
            self._record(manifest.kind, before=live.bundles.get(manifest.kind), after=bundle_id)
            default = manifest.kind if make_default or live.default is None else live.default
            pointer = LivePointer(bundles={**live.bundles, manifest.kind: bundle_id}, default=default)
            self._write_live(pointer)
        LOGGER.info("published %s", bundle_id)
        return pointer

    def rollback(self, kind: str | None = None) -> str:
        """Makes the bundle live that was live before the present one.

        Args:
            kind: Which kind to roll back; the default kind if None.

        Returns:
            The id of the bundle that is live now.

        Raises:
            ArtifactNotFound: Nothing of that kind was live before.
            ArtifactCorrupt: The earlier bundle is damaged; the live one stays.
        """
        with self._folder.lock():
            live = self.live()
            kind = kind or live.default
            if kind is None or kind not in live.bundles:
                raise ArtifactNotFound(f"nothing of kind {kind!r} is live in {self.root}, so it cannot be rolled back")
            target = self._rollback_target(kind, live)
            if target is None:
                raise ArtifactNotFound(f"no bundle of kind {kind!r} was live before {live.bundles[kind]}")
            manifest = read_bundle_manifest(self.bundle_directory(target))
            self.model_directory(manifest.model_id)
            self._write_live(LivePointer(bundles={**live.bundles, kind: target}, default=live.default))
        LOGGER.warning("rolled back %s from %s to %s", kind, live.bundles[kind], target)
        return target

    def collect_garbage(self, *, keep: int = 3) -> list[str]:
        """Removes old artifacts and whatever killed jobs left behind.

        Never removed: live bundles, their rollback targets, the newest ``keep`` bundles and models of each
        kind, and models that a kept bundle needs.

        Args:
            keep: At least 0.

        Returns:
            The ids of the removed bundles and models.

        Raises:
            InvalidInput: ``keep`` is negative.
        """
        if keep < 0:
            raise InvalidInput(f"keep is {keep}, expected at least 0")
        with self._folder.lock():
            self._folder.sweep()
            bundles, models = self.bundles(), self.models()
            kept = _newest_ids(bundles, keep) | self._untouchable()
            needed = {one.model_id for one in bundles if one.bundle_id in kept} | _newest_ids(models, keep)
            # bundles before their models, so that being killed here leaves no bundle without its model
            doomed = [f"{BUNDLES}/{one.bundle_id}" for one in bundles if one.bundle_id not in kept]
            doomed += [f"{MODELS}/{one.model_id}" for one in models if one.model_id not in needed]
            for artifact in [*doomed, *self._folder.abandoned(BUNDLES), *self._folder.abandoned(MODELS)]:
                self._folder.remove(artifact)
        return [artifact.split("/")[1] for artifact in doomed]

    def _untouchable(self) -> set[str]:
        live = self.live()
        targets = {self._rollback_target(kind, live) for kind in live.bundles}
        return set(live.bundles.values()) | {target for target in targets if target}

    def _adopt(self, staged: Path, artifact: str, manifest: ModelManifest | BundleManifest) -> Path:
        content = json.dumps(manifest.model_dump(mode="json"), indent=2, sort_keys=True).encode()
        with self._folder.lock():
            return self._folder.adopt(staged, artifact, manifest=content)

    def _open(self, artifact: str, read: Callable[[Path], M], *, verify: bool) -> Path:
        directory = self._folder.directory(artifact)
        try:
            manifest = read(directory)
            if verify:
                verify_files(directory, manifest.files)
        except ArtifactCorrupt:
            # a cache may rot; if the store itself is damaged, the second look says so
            if not self._folder.fetch_again(artifact):
                raise
            verify_files(directory, read(directory).files)
        return directory

    def _manifests(self, group: str, manifest_type: type[M]) -> list[M]:
        manifests: list[M] = []
        for name in self._folder.names(group):
            path = f"{group}/{name}/{MANIFEST_NAME}"
            content = self._folder.read(path)
            if content is None:
                continue
            try:
                manifests.append(parse_manifest(content, manifest_type, source=f"{self.root}/{path}"))
            except ArtifactError as error:
                LOGGER.warning("not listed: %s", error)
        return sorted(manifests, key=lambda one: (one.created_at, one.artifact_id), reverse=True)

    def _rollback_target(self, kind: str, live: LivePointer) -> str | None:
        earlier = earlier_bundles(self._history(kind), live.bundles[kind])
        return next((one for one in earlier if self._folder.has(f"{BUNDLES}/{one}")), None)

    def _history(self, kind: str) -> list[str]:
        return [one for one in self._folder.read_json(_HISTORY).get(kind, []) if isinstance(one, str)]

    def _record(self, kind: str, *, before: str | None, after: str) -> None:
        history = recorded(self._history(kind), before=before, after=after)
        self._folder.write_json(_HISTORY, {**self._folder.read_json(_HISTORY), kind: history})

    def _write_live(self, pointer: LivePointer) -> None:
        self._folder.write_json(_LIVE, {**pointer.bundles, _DEFAULT: pointer.default})


def _described(staged: Path) -> dict[str, FileEntry]:
    if not staged.is_dir():
        raise InvalidInput(f"{staged} is not a directory, so it cannot be added to a store")
    link = next((path for path in staged.rglob("*") if path.is_symlink()), None)
    if link is not None:
        raise InvalidInput(f"{link} is a link; an artifact holds its own files, or they could change later")
    files = describe_files(staged)
    if not files:
        raise InvalidInput(f"{staged} has no files, so it cannot be added to a store")
    return files


def _checked(name: str, what: str) -> str:
    if not _NAME.fullmatch(name):
        raise InvalidInput(f"{what} {name!r} is not a name: expected letters, digits, '_', '-' and '.'")
    return name


def _checked_kind(kind: str) -> str:
    if kind == _DEFAULT:
        raise InvalidInput(f"kind {kind!r} is taken: live.json uses it for the default kind")
    return _checked(kind, "kind")


def _newest_ids(manifests: Sequence[ModelManifest] | Sequence[BundleManifest], keep: int) -> set[str]:
    """Ids of the first ``keep`` of each kind in a list that is sorted newest first."""
    by_kind: dict[str, list[str]] = {}
    for one in manifests:
        by_kind.setdefault(one.kind, []).append(one.artifact_id)
    return {artifact_id for ids in by_kind.values() for artifact_id in ids[:keep]}


def _default_cache(url: str) -> Path:
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "hatstand" / hashlib.sha256(url.encode()).hexdigest()[:_ID_DIGITS]
