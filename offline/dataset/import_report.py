"""What an import found, in sentences for the person who ran it."""

import datetime
from collections.abc import Iterator
from typing import Any

from offline.dataset.dataset import DatasetDescription
from offline.dataset.formats.rows import FindingKind

# one and several of them
_FINDINGS: dict[FindingKind, tuple[str, str]] = {
    "untitled_items": ("item has no title", "items have no title"),
    "cleaned_titles": ("title had markup, which was taken out", "titles had markup, which was taken out"),
    "cleaned_descriptions": (
        "description had markup, which was taken out",
        "descriptions had markup, which was taken out",
    ),
    "missing_numbers": (
        "value is no number where the header says float; it is missing now",
        "values are no numbers where the header says float; they are missing now",
    ),
}


def report_sentences(description: DatasetDescription) -> list[str]:
    """The report of an import, one sentence each; the totals first.

    Args:
        description: Of a dataset that was just written.
    """
    return [*_totals(description), *_files(description.report), *_log(description), *_texts(description.report)]


def _totals(description: DatasetDescription) -> Iterator[str]:
    earliest, latest = description.report["timestamps"]
    if description.time_unit == "seconds":
        span = f", from {_date(earliest)} to {_date(latest)}"
    else:
        span = f", whose timestamps are ranks from {earliest} to {latest}"
    yield (
        f"The dataset has {_count(description.num_items, 'item')}, {_count(description.num_users, 'user')} and "
        f"{_count(description.num_interactions, 'interaction')}{span}."
    )


def _files(report: dict[str, Any]) -> Iterator[str]:
    for file in report.get("files", ()):
        if file["bad_rows"]:
            first = file["samples"][0]
            yield (
                f"{file['bad_rows']:,} of {_count(file['rows'], 'row')} of {file['file']} cannot be used and are left "
                f"out, the first in line {first['line']}: {first['reason']}."
            )
        for kind, finding in file["findings"].items():
            yield _finding(file["file"], kind, finding)


def _finding(file: str, kind: FindingKind, finding: dict[str, Any]) -> str:
    first = finding["samples"][0]
    if kind == "converted_text":
        return f"{file} was converted to UTF-8 lines: {first['detail']}."
    one, several = _FINDINGS[kind]
    detail = f": {first['detail']}" if first["detail"] else ""
    where = "" if finding["count"] == 1 else "the first "
    return (
        f"{finding['count']:,} {one if finding['count'] == 1 else several} ({file}, {where}in line {first['line']}"
        f"{detail})."
    )


def _log(description: DatasetDescription) -> Iterator[str]:
    report = description.report
    if report["repeated_items"]:
        yield f"{_count(report['repeated_items'], 'row')} of items whose id came before: the first of each id counts."
    if report["unknown_items"]:
        yield f"Interactions left out: {report['unknown_items']}."
    if report["identical_interactions"]:
        yield (
            f"{_count(report['identical_interactions'], 'interaction')} left out as repetitions: there is one with the "
            "same user, item, timestamp and type (--keep-identical keeps them)."
        )
    if report["is_newest_first"]:
        yield _newest_first(report["order"])
    short = report["users_too_short_to_evaluate"]
    if short:
        yield (
            f"{short:,} of {_count(description.num_users, 'user')} have fewer than 3 interactions: models learn from "
            "them, but an evaluation by leave-one-out leaves them out."
        )


def _texts(report: dict[str, Any]) -> Iterator[str]:
    if report["same_text"]:
        yield _sentence(report["same_text"])
    yield _sentence(report["reading"])


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _newest_first(order: str) -> str:
    if order == "oldest-first":
        return "The log is newest first; interactions of one user with one timestamp are kept as the file has them."
    return (
        "The log is newest first: of a user's interactions with one timestamp, the last one in the file is taken as "
        "the first that happened (--order oldest-first takes the file's order)."
    )


def _count(number: int, name: str) -> str:
    return f"{number:,} {name}{'' if number == 1 else 's'}"


def _date(seconds: int) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).date().isoformat()
