"""Imports a catalogue and an interaction log of a known format into a dataset.

Broken rows are skipped, counted, and sampled in the report (``dataset.json``) with file and line; more of
them than ``--max-bad`` end the job. What was found in rows that are kept is told at the end, and saved there too.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from model_store.errors import InvalidInput
from offline.dataset.dataset import DatasetDescription, TimeUnit
from offline.dataset.formats import amazon, canonical, events, movielens, pixelrec, recbole
from offline.dataset.formats.checks import check_interaction, check_item
from offline.dataset.formats.clock import Clock
from offline.dataset.formats.rows import BadRow, FileTimeUnit, FindingKind, Interaction, Item, RowLog, Source
from offline.dataset.log_sort import Order
from offline.dataset.writer import WriteOptions, write_dataset
from offline.job import job

app = typer.Typer(add_completion=False, help=__doc__, no_args_is_help=True)


@dataclass(frozen=True)
class ImportOptions:
    """How to import.

    Attributes:
        max_bad: Which fraction of a file's rows may be bad, in 0..1.
        overwrite: Replace a dataset that is there already.
        time_unit: Of the timestamps in the dataset; None = as the source says, or as they look.
        only_interacted: Leave out items without interactions.
        any_time: Take every moment from 1970 to 2100, instead of those from 1990 to tomorrow.
        order: Which of two interactions of a user with one timestamp came first.
        keep_identical: Keep all of several interactions of the same user, item, timestamp and type.
    """

    max_bad: float = 0.01
    overwrite: bool = False
    time_unit: TimeUnit | None = None
    only_interacted: bool = False
    any_time: bool = False
    order: Order = "auto"
    keep_identical: bool = False


def import_source(source: Source, out: Path, options: ImportOptions) -> DatasetDescription:
    """Imports a source into a dataset directory, all or nothing.

    Args:
        source: Files and how to read them.
        out: The dataset directory to make.
        options: How.

    Raises:
        InvalidInput: A file cannot be read or has too many bad rows, the result would be no dataset, or
            ``out`` is taken.
    """
    if not 0 <= options.max_bad <= 1:
        raise InvalidInput(f"--max-bad is {options.max_bad}, expected a fraction in 0..1")
    item_logs = [RowLog(path, options.max_bad) for path, _ in source.item_files]
    interaction_logs = [RowLog(path, options.max_bad) for path, _ in source.interaction_files]

    def report() -> dict[str, Any]:
        return {"files": [log.report() for log in (*item_logs, *interaction_logs)]}

    return write_dataset(
        out,
        items=_items(source, item_logs),
        interactions=_interactions(source, interaction_logs, any_time=options.any_time),
        options=WriteOptions(
            source=source.format,
            time_unit=options.time_unit or _time_unit(source.time_unit),
            overwrite=options.overwrite,
            repeated_items=source.repeated_items,
            only_interacted=options.only_interacted,
            order=options.order,
            keep_identical=options.keep_identical,
        ),
        report=report,
    )


def echo_report(description: DatasetDescription) -> None:
    """Prints what an import found, a sentence a line."""
    for sentence in description.report["sentences"]:
        typer.echo(sentence)


def _items(source: Source, logs: list[RowLog]) -> Iterator[Item]:
    for (path, read), log in zip(source.item_files, logs, strict=True):
        for row in job.progress(read(path, log), description=f"items of {path.name}", unit="row"):
            try:
                item = check_item(row, log)
            except BadRow as error:
                log.add_bad(row.line, str(error))
                continue
            log.rows += 1
            yield item
        log.finish()


def _interactions(source: Source, logs: list[RowLog], *, any_time: bool) -> Iterator[Interaction]:
    common = Clock(source.time_unit, any_time=any_time)
    for (path, read), log in zip(source.interaction_files, logs, strict=True):
        clock = Clock("seconds", any_time=True) if path in source.checked_files else common
        for row in job.progress(read(path, log), description=f"interactions of {path.name}", unit="row"):
            try:
                interaction = check_interaction(row, clock)
            except BadRow as error:
                log.add_bad(row.line, str(error))
                continue
            log.rows += 1
            yield interaction
        log.finish()


class TimeUnitOption(StrEnum):
    """What the timestamps of a source are."""

    AUTO = "auto"
    SECONDS = "seconds"
    MILLISECONDS = "milliseconds"
    MICROSECONDS = "microseconds"
    RANK = "rank"


class OrderOption(StrEnum):
    """Which of two interactions of a user with one timestamp came first."""

    AUTO = "auto"
    OLDEST_FIRST = "oldest-first"
    NEWEST_FIRST = "newest-first"


OUT = Annotated[Path, typer.Option(help="The dataset directory to make.")]
MAX_BAD = Annotated[float, typer.Option(help="Fraction of a file's rows that may be bad.", min=0.0, max=1.0)]
OVERWRITE = Annotated[bool, typer.Option("--overwrite", help="Replace the dataset at --out.")]
ONLY_INTERACTED = Annotated[bool, typer.Option("--only-interacted", help="Leave out items without interactions.")]
TIME_UNIT = Annotated[TimeUnitOption, typer.Option(help="Of the timestamps; ISO 8601 is taken whatever the unit.")]
ANY_TIME = Annotated[bool, typer.Option("--any-time", help="Take moments before 1990 and after tomorrow too.")]
ORDER = Annotated[
    OrderOption, typer.Option(help="Of the rows of one user with one timestamp: which of them came first.")
]
KEEP_IDENTICAL = Annotated[
    bool,
    typer.Option("--keep-identical", help="Keep repetitions of one user, item, timestamp and type."),
]


@app.callback()
def _commands() -> None:
    """Import a catalogue and an interaction log into a dataset."""


@app.command("canonical")
def import_canonical(
    items: Annotated[Path, typer.Option(help="items.jsonl[.gz]: item_id, title, any attributes.")],
    interactions: Annotated[
        Path, typer.Option(help="interactions.csv[.gz]: user_id,item_id,timestamp[,type][,rating].")
    ],
    out: OUT,
    max_bad: MAX_BAD = 0.01,
    overwrite: OVERWRITE = False,
    time_unit: TIME_UNIT = TimeUnitOption.AUTO,
    only_interacted: ONLY_INTERACTED = False,
    any_time: ANY_TIME = False,
    order: ORDER = OrderOption.AUTO,
    keep_identical: KEEP_IDENTICAL = False,
) -> None:
    """JSON lines of items and a CSV of interactions: the form for your own data."""
    source = canonical.source(items, interactions, time_unit=time_unit.value)
    _run(source, out, ImportOptions(max_bad, overwrite, None, only_interacted, any_time, order.value, keep_identical))


@app.command("events")
def import_events(
    items: Annotated[Path, typer.Option(help="items.jsonl[.gz]: item_id, title, any attributes.")],
    exported: Annotated[Path, typer.Option("--events", help="The directory of offline.export_events.")],
    out: OUT,
    event_type: Annotated[
        list[str] | None,
        typer.Option("--type", help="Of events that count; may be given several times. All if absent."),
    ] = None,
    interactions: Annotated[
        Path | None, typer.Option(help="interactions.csv[.gz] of the time before the service.")
    ] = None,
    max_bad: MAX_BAD = 0.01,
    overwrite: OVERWRITE = False,
    only_interacted: ONLY_INTERACTED = False,
    any_time: ANY_TIME = False,
) -> None:
    """What the service was told (offline.export_events), with what was known before if you like."""
    source = events.source(items, exported, types=event_type or (), interactions=interactions)
    # the service tells repeated events by their ids, and logs events in the order in which they came
    order: Order = "oldest-first"
    _run(source, out, ImportOptions(max_bad, overwrite, None, only_interacted, any_time, order, keep_identical=True))


@app.command("amazon")
def import_amazon(
    reviews: Annotated[list[Path], typer.Option(help="Review file; may be given several times.")],
    metadata: Annotated[list[Path], typer.Option(help="Metadata file; may be given several times.")],
    out: OUT,
    max_bad: MAX_BAD = 0.01,
    overwrite: OVERWRITE = False,
    only_interacted: ONLY_INTERACTED = False,
    any_time: ANY_TIME = False,
    order: ORDER = OrderOption.AUTO,
    keep_identical: KEEP_IDENTICAL = False,
) -> None:
    """Amazon Reviews of 2014, 2018 or 2023, or their ratings alone (told by the first review)."""
    source = amazon.source(reviews, metadata)
    _run(source, out, ImportOptions(max_bad, overwrite, None, only_interacted, any_time, order.value, keep_identical))


@app.command("movielens")
def import_movielens(
    path: Annotated[Path, typer.Option(help="The directory of u.data, ratings.dat or ratings.csv.")],
    out: OUT,
    max_bad: MAX_BAD = 0.01,
    overwrite: OVERWRITE = False,
    only_interacted: ONLY_INTERACTED = False,
    any_time: ANY_TIME = False,
    order: ORDER = OrderOption.AUTO,
    keep_identical: KEEP_IDENTICAL = False,
) -> None:
    """MovieLens: 100K, 1M, 10M, and later ones."""
    source = movielens.source(path)
    _run(source, out, ImportOptions(max_bad, overwrite, None, only_interacted, any_time, order.value, keep_identical))


@app.command("pixelrec")
def import_pixelrec(
    items: Annotated[Path, typer.Option(help="CSV: item_id, title, tag, description.")],
    interactions: Annotated[Path, typer.Option(help="CSV: item_id, user_id, timestamp.")],
    out: OUT,
    max_bad: MAX_BAD = 0.01,
    overwrite: OVERWRITE = False,
    time_unit: TIME_UNIT = TimeUnitOption.AUTO,
    only_interacted: ONLY_INTERACTED = False,
    any_time: ANY_TIME = False,
    order: ORDER = OrderOption.AUTO,
    keep_identical: KEEP_IDENTICAL = False,
) -> None:
    """PixelRec: CSV files of interactions and item information."""
    source = pixelrec.source(items, interactions, time_unit=time_unit.value)
    _run(source, out, ImportOptions(max_bad, overwrite, None, only_interacted, any_time, order.value, keep_identical))


@app.command("recbole")
def import_recbole(
    items: Annotated[Path, typer.Option(help="NAME.item[.gz]")],
    interactions: Annotated[Path, typer.Option(help="NAME.inter[.gz]")],
    out: OUT,
    max_bad: MAX_BAD = 0.01,
    overwrite: OVERWRITE = False,
    time_unit: TIME_UNIT = TimeUnitOption.AUTO,
    only_interacted: ONLY_INTERACTED = False,
    any_time: ANY_TIME = False,
    order: ORDER = OrderOption.AUTO,
    keep_identical: KEEP_IDENTICAL = False,
) -> None:
    """RecBole atomic files, with typed headers."""
    source = recbole.source(items, interactions, time_unit=time_unit.value)
    _run(source, out, ImportOptions(max_bad, overwrite, None, only_interacted, any_time, order.value, keep_identical))


def _time_unit(unit: FileTimeUnit) -> TimeUnit | None:
    if unit == "auto":
        return None
    return "rank" if unit == "rank" else "seconds"


def _run(source: Source, out: Path, options: ImportOptions) -> None:
    description = import_source(source, out, options)
    echo_report(description)
    report = description.report
    job.report(
        {
            "dataset": out,
            "source": description.source,
            "time_unit": description.time_unit,
            "num_users": description.num_users,
            "num_items": description.num_items,
            "num_interactions": description.num_interactions,
            "bad_rows": sum(file["bad_rows"] for file in report["files"]),
            "interactions_of_unknown_items": report["interactions_of_unknown_items"],
            "identical_interactions": report["identical_interactions"],
            "untitled_items": _count_findings(report, "untitled_items"),
        }
    )


def _count_findings(report: dict[str, Any], kind: FindingKind) -> int:
    return sum(file["findings"].get(kind, {"count": 0})["count"] for file in report["files"])


if __name__ == "__main__":
    job.run(app)
