"""Writes a dataset from streams of items and interactions, in bounded memory and all or nothing."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.parquet as pq

from model_store.artifacts.durable import sync_directory, sync_tree
from model_store.catalogue.catalogue import Catalogue
from model_store.errors import InvalidInput
from offline.dataset.dataset import (
    DESCRIPTION_FILE,
    INTERACTIONS_FILE,
    ITEMS_FILE,
    DatasetDescription,
    TimeUnit,
)
from offline.dataset.formats.rows import Interaction, Item
from offline.dataset.import_report import report_sentences
from offline.dataset.item_table import ItemTable
from offline.dataset.log_sort import LogSort, Order
from offline.dataset.text_fields import default_text_fields, reading_sentence, same_text_sentence

_MIN_USERS = 2


@dataclass(frozen=True)
class WriteOptions:
    """How to write a dataset.

    Attributes:
        source: Name of the format that it comes from.
        time_unit: Of the timestamps; None = ``rank`` if all are below 100,000,000, else ``seconds``.
        overwrite: Replace a dataset that is there already.
        repeated_items: Whether an item id that occurs twice is an error, or its first row counts.
        only_interacted: Leave out items without interactions.
        order: Which of two interactions of a user with one timestamp came first: the one that is read first
            (``oldest-first``) or the other (``newest-first``); ``auto`` looks at the direction of time in the input.
        keep_identical: Keep all of several interactions of the same user, item, timestamp and type.
    """

    source: str
    time_unit: TimeUnit | None = None
    overwrite: bool = False
    repeated_items: Literal["error", "first"] = "error"
    only_interacted: bool = False
    order: Order = "oldest-first"
    keep_identical: bool = True


def write_dataset(
    out: Path,
    *,
    items: Iterable[Item],
    interactions: Iterable[Interaction],
    options: WriteOptions,
    report: Callable[[], dict[str, Any]] = dict,
) -> DatasetDescription:
    """Writes a dataset directory; nothing is at ``out`` until all of it is.

    Args:
        out: The directory to make.
        items: Checked items, read first and once; their order becomes the item_index.
        interactions: Checked interactions, read once, in input order. Those of unknown items are left out and
            counted.
        options: How.
        report: Called at the end; its entries go into the description.

    Raises:
        InvalidInput: ``out`` is taken, no items, an item id twice, no interactions left, or fewer than two
            users.
    """
    _check_target(out, options.overwrite)
    with _staging(out) as staged:
        table = ItemTable(first_of_repeated=options.repeated_items == "first")
        for item in items:
            table.add(item)
        if not len(table):
            raise InvalidInput("the catalogue is empty: 0 items, expected at least 1")
        log = LogSort(table, staged / "spill")
        log.spill(interactions)
        newest_first = log.is_newest_first if options.order == "auto" else options.order == "newest-first"
        log.write_sorted(staged / INTERACTIONS_FILE, newest_first=newest_first, keep_identical=options.keep_identical)
        if log.num_users < _MIN_USERS:
            raise InvalidInput(f"the dataset has {log.num_users} user, expected at least {_MIN_USERS}")
        is_kept = log.counts > 0 if options.only_interacted else np.ones(len(table), dtype=bool)
        kept = table.to_arrow(is_kept)
        pq.write_table(kept, staged / ITEMS_FILE, compression="zstd")
        description = _describe(options, table, log, Catalogue.from_table(kept), report())
        (staged / DESCRIPTION_FILE).write_text(description.model_dump_json(indent=2) + "\n")
        _replace(out, staged)
    return description


def _describe(
    options: WriteOptions, table: ItemTable, log: LogSort, catalogue: Catalogue, report: dict[str, Any]
) -> DatasetDescription:
    fields = default_text_fields(catalogue)
    description = DatasetDescription(
        source=options.source,
        time_unit=options.time_unit or log.guess_time_unit(),
        num_users=log.num_users,
        num_items=len(catalogue),
        num_interactions=log.num_rows,
        report={
            **report,
            "repeated_items": table.num_repeated,
            "interactions_of_unknown_items": log.unknown.count,
            "unknown_items": log.unknown.sentence(table.item_ids) if log.unknown.count else None,
            "identical_interactions": log.num_identical,
            "is_newest_first": log.is_newest_first,
            "order": options.order,
            "users_too_short_to_evaluate": log.num_short_users,
            "timestamps": [log.earliest, log.latest],
            "reading": reading_sentence(catalogue, fields),
            "same_text": same_text_sentence(catalogue, fields),
        },
    )
    sentences = report_sentences(description)
    return description.model_copy(update={"report": {**description.report, "sentences": sentences}})


def _check_target(out: Path, overwrite: bool) -> None:
    if not out.exists():
        return
    if not out.is_dir():
        raise InvalidInput(f"{out} is a file, expected a directory to make")
    if any(out.iterdir()):
        if not (out / DESCRIPTION_FILE).exists():
            raise InvalidInput(f"{out} has something else than a dataset in it: choose another --out")
        if not overwrite:
            raise InvalidInput(f"{out} has a dataset already: choose another --out, or replace it with --overwrite")


@contextlib.contextmanager
def _staging(out: Path) -> Iterator[Path]:
    """A directory beside ``out``, removed at the end if it is still there."""
    out.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(out)
    staged = Path(tempfile.mkdtemp(prefix=f".{out.name}.{os.getpid()}.", dir=out.parent))
    try:
        yield staged
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _remove_abandoned(out: Path) -> None:
    """Removes what imports to the same place left when they were killed."""
    for path in out.parent.glob(f".{out.name}.*.*"):
        number = path.name.removeprefix(f".{out.name}.").split(".")[0]
        if number.isdigit() and not Path(f"/proc/{number}").exists():
            shutil.rmtree(path, ignore_errors=True)


def _replace(out: Path, staged: Path) -> None:
    sync_tree(staged)
    staged.chmod(0o755)
    if out.exists():
        # two renames, for a directory that is not empty cannot be renamed over
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.{os.getpid()}.", dir=out.parent) as old:
            out.rename(Path(old) / out.name)
            staged.rename(out)
    else:
        staged.rename(out)
    sync_directory(out.parent)
