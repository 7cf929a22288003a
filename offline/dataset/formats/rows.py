"""What every format yields, and the log of what was found in a file.

A bad row is skipped, counted, and sampled with its file and line; more than ``max_bad`` of a file's rows end
the job. A finding is about a row that is kept.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from model_store.errors import InvalidInput

_MAX_SAMPLES = 20
_MAX_SHOWN = 60
_HOPELESS_ROWS = 1_000

FileTimeUnit = Literal["auto", "seconds", "milliseconds", "microseconds", "rank"]
FindingKind = Literal["untitled_items", "cleaned_titles", "cleaned_descriptions", "missing_numbers", "converted_text"]


class BadRow(Exception):
    """Why a row cannot be used."""


class RawInteraction(NamedTuple):
    """An interaction as its file has it. ``timestamp`` and ``rating`` are numbers or texts of numbers."""

    line: int
    user_id: Any
    item_id: Any
    timestamp: Any
    type: Any = None
    rating: Any = None


class RawItem(NamedTuple):
    """An item as its file has it."""

    line: int
    item_id: Any
    title: Any
    attributes: dict[str, Any]


class Interaction(NamedTuple):
    """A checked interaction; ``timestamp`` in seconds since 1970 or a rank."""

    user_id: str
    item_id: str
    timestamp: int
    type: str | None = None
    rating: float | None = None


class Item(NamedTuple):
    """A checked item. Attributes are bool, int, float, str or list[str]; absent ones are left out.

    ``origin`` names file and line for messages.
    """

    item_id: str
    title: str
    attributes: dict[str, Any]
    origin: str = ""


@dataclass
class Finding:
    """Something worth telling about rows that are kept.

    Attributes:
        count: Of such rows.
        samples: The first ones: line and detail.
    """

    count: int = 0
    samples: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class RowLog:
    """Counts the rows of one file.

    Attributes:
        path: The file.
        max_bad: Which fraction of its rows may be bad, in 0..1.
        rows: Rows seen, bad ones included.
        bad_rows: Bad ones.
        samples: The first bad ones: line and reason.
        findings: What was found in rows that are kept, by kind.
    """

    path: Path
    max_bad: float
    rows: int = 0
    bad_rows: int = 0
    samples: list[dict[str, Any]] = field(default_factory=list)
    findings: dict[FindingKind, Finding] = field(default_factory=dict)

    def add_finding(self, kind: FindingKind, line: int, detail: str = "") -> None:
        """Counts a row that is kept."""
        finding = self.findings.setdefault(kind, Finding())
        finding.count += 1
        if len(finding.samples) < _MAX_SAMPLES:
            finding.samples.append({"line": line, "detail": detail})

    def add_bad(self, line: int, reason: str) -> None:
        """Counts a row as seen and bad.

        Raises:
            InvalidInput: No bad row is allowed, or most rows of the file so far are bad.
        """
        self.rows += 1
        self.bad_rows += 1
        if len(self.samples) < _MAX_SAMPLES:
            self.samples.append({"line": line, "reason": reason})
        if self.max_bad == 0 or (self.bad_rows > _HOPELESS_ROWS and self._is_past_limit(max(self.max_bad, 0.5))):
            self._fail()

    def finish(self) -> None:
        """Judges the file as a whole.

        Raises:
            InvalidInput: More than ``max_bad`` of its rows are bad.
        """
        if self._is_past_limit(self.max_bad):
            self._fail()

    def report(self) -> dict[str, Any]:
        """For ``dataset.json``."""
        return {
            "file": str(self.path),
            "rows": self.rows,
            "bad_rows": self.bad_rows,
            "samples": self.samples,
            "findings": {kind: asdict(finding) for kind, finding in self.findings.items()},
        }

    def _is_past_limit(self, limit: float) -> bool:
        return self.bad_rows > limit * self.rows

    def _fail(self) -> None:
        first = self.samples[0]
        message = f"{self.path}, line {first['line']}: {first['reason']}"
        if self.max_bad:
            message += f"; {self.bad_rows} of {self.rows} rows are bad, more than --max-bad {self.max_bad:g} allows"
        raise InvalidInput(message)


ItemReader = Callable[[Path, RowLog], Iterator[RawItem]]
InteractionReader = Callable[[Path, RowLog], Iterator[RawInteraction]]


@dataclass(frozen=True)
class Source:
    """Where a dataset comes from.

    Attributes:
        format: Name of the format.
        item_files: With the reader of each.
        interaction_files: With the reader of each; their order is the input order.
        time_unit: Of the timestamps in the files; ``auto`` if the files may have seconds or ranks.
        checked_files: Interaction files whose timestamps are known to be seconds, whatever the year.
        repeated_items: Whether an item id that occurs twice is an error, or its first row counts.
    """

    format: str
    item_files: tuple[tuple[Path, ItemReader], ...]
    interaction_files: tuple[tuple[Path, InteractionReader], ...]
    time_unit: FileTimeUnit = "auto"
    checked_files: frozenset[Path] = frozenset()
    repeated_items: Literal["error", "first"] = "error"


def shown(value: Any) -> str:
    """A value in a message: cut if it is long."""
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."
