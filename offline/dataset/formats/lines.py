"""Lines, CSV records and JSON objects of plain or gzipped files, in bounded memory and with line numbers."""

import csv
import gzip
import zlib
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import orjson

from model_store.errors import InvalidInput
from offline.dataset.formats.rows import RowLog

_CHUNK_BYTES = 1 << 20
# far above any honest row; a file without line ends must not fill the memory
_MAX_LINE_BYTES = 16 << 20
_MAX_RECORD_LINES = 1_000
_GZIP_MAGIC = b"\x1f\x8b"


def text_lines(path: Path, log: RowLog, *, encoding: str = "utf-8") -> Iterator[tuple[int, str]]:
    """Yields each line that is not blank with its number, without its line end.

    Args:
        path: Plain or gzipped (told by its content).
        log: Is told of lines that are too long or not text.
        encoding: Of the text; a byte order mark is dropped.

    Raises:
        InvalidInput: The file cannot be read, or its compression is damaged.
    """
    for number, raw in _byte_lines(path, log):
        if number == 1 and raw.startswith(b"\xef\xbb\xbf"):
            raw = raw[3:]
        try:
            text = raw.decode(encoding)
        except UnicodeDecodeError as error:
            log.add_bad(number, f"not {encoding} text: {error.reason} at byte {error.start}")
            continue
        text = text.rstrip("\r")
        if text and not text.isspace():
            yield number, text


def csv_records(path: Path, log: RowLog, *, delimiter: str = ",") -> Iterator[tuple[int, list[str]]]:
    """Yields CSV records with the number of their first line.

    Quoted fields may hold line ends. A quote that is never closed spoils its own line, not the rest of the
    file.
    """
    lines = text_lines(path, log)
    pending: deque[tuple[int, str]] = deque()
    while True:
        number, text = pending.popleft() if pending else next(lines, (0, ""))
        if not number:
            return
        if '"' not in text:
            yield number, text.split(delimiter)
            continue
        taken: list[tuple[int, str]] = []
        following = _following(text, pending, lines, taken)
        try:
            record = next(csv.reader(following, delimiter=delimiter, strict=True))
        except csv.Error as error:
            log.add_bad(number, f"not CSV: {error}")
            pending.extendleft(reversed(taken))
        else:
            yield number, record


def header_of(records: Iterator[tuple[int, list[str]]], path: Path, required: tuple[str, ...]) -> list[str]:
    """Takes the header record.

    Raises:
        InvalidInput: There is none, or it lacks a required column.
    """
    _, names = next(records, (0, []))
    names = [name.strip() for name in names]
    missing = [name for name in required if name not in names]
    if missing:
        raise InvalidInput(f"{path}, line 1: the header is {names}, expected the columns {list(required)}")
    return names


def records_as_dicts(path: Path, log: RowLog, *, required: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yields CSV records by column name; one with another number of fields than the header is bad.

    Raises:
        InvalidInput: The header lacks a required column.
    """
    records = csv_records(path, log)
    names = header_of(records, path, required)
    for number, fields in records:
        if len(fields) != len(names):
            log.add_bad(number, f"{len(fields)} fields, expected {len(names)}: {', '.join(names)}")
        else:
            yield number, dict(zip(names, fields, strict=True))


def json_objects(path: Path, log: RowLog) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields one JSON object a line."""
    for number, text in text_lines(path, log):
        try:
            content = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            log.add_bad(number, f"not JSON: {error}")
            continue
        if isinstance(content, dict):
            yield number, content
        else:
            log.add_bad(number, f"a JSON {type(content).__name__}, expected an object")


def _following(
    text: str, pending: deque[tuple[int, str]], lines: Iterator[tuple[int, str]], taken: list[tuple[int, str]]
) -> Iterator[str]:
    """The first line of a record and then as many more as the CSV parser asks for, noted in ``taken``."""
    yield f"{text}\n"
    while len(taken) < _MAX_RECORD_LINES:
        line = pending.popleft() if pending else next(lines, None)
        if line is None:
            return
        taken.append(line)
        yield f"{line[1]}\n"


def _byte_lines(path: Path, log: RowLog) -> Iterator[tuple[int, bytes]]:
    number, rest, is_skipping = 0, b"", False
    with _opened(path) as file:
        while chunk := file.read(_CHUNK_BYTES):
            *whole, rest = (rest + chunk).split(b"\n")
            for line in whole:
                number += 1
                if is_skipping:
                    is_skipping = False
                    continue
                yield number, line
            if len(rest) > _MAX_LINE_BYTES:
                if not is_skipping:
                    log.add_bad(number + 1, f"a line of more than {_MAX_LINE_BYTES} bytes")
                rest, is_skipping = b"", True
        if rest and not is_skipping:
            yield number + 1, rest


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        with path.open("rb") as plain:
            is_gzip = plain.read(2) == _GZIP_MAGIC
            plain.seek(0)
            if is_gzip:
                with gzip.open(plain, "rb") as unpacked:
                    yield cast(BinaryIO, unpacked)  # a GzipFile reads like one, but is not declared as one
            else:
                yield plain
    except FileNotFoundError as error:
        raise InvalidInput(f"{path} does not exist") from error
    except (OSError, EOFError, zlib.error) as error:
        raise InvalidInput(f"{path} cannot be read: {' '.join(str(error).split())}") from error
