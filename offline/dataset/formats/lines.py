"""Lines, CSV records and JSON objects of plain or gzipped files, in bounded memory and with line numbers."""

import codecs
import csv
import gzip
import itertools
import json
import zlib
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, cast

import orjson

from model_store.errors import InvalidInput
from offline.dataset.formats.rows import RowLog

_CHUNK_BYTES = 1 << 20
# far above any honest row; a file without line ends must not fill the memory
_MAX_LINE_BYTES = 16 << 20
_MAX_RECORD_LINES = 1_000
_PEEK_BYTES = 1 << 16
_GZIP_MAGIC = b"\x1f\x8b"
_UTF_16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def text_lines(path: Path, log: RowLog, *, may_be_latin_1: bool = False) -> Iterator[tuple[int, str]]:
    """Yields each line that is not blank with its number, without its line end.

    Args:
        path: UTF-8, or UTF-16 with a byte order mark; lines end with LF, CRLF or CR; plain or gzipped. All of this
            is told by the content.
        log: Is told of lines that are too long or not text.
        may_be_latin_1: Whether a line that is not UTF-8 is Latin-1 instead of bad.

    Raises:
        InvalidInput: The file cannot be read, its compression is damaged, or it is no text.
    """
    for number, raw in _byte_lines(path, log):
        if number == 1:
            raw = raw.removeprefix(codecs.BOM_UTF8)
        try:
            text = raw.decode()
        except UnicodeDecodeError as error:
            if not may_be_latin_1:
                log.add_bad(
                    number,
                    f"not utf-8 text: {error.reason} at byte {error.start}; if the file is in another encoding, such "
                    "as Latin-1, convert it: iconv -f LATIN1 -t UTF-8",
                )
                continue
            text = raw.decode("latin-1")
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
        hint = ""
        for mark, name in (("\t", "tabs"), (";", "semicolons"), ("|", "bars")):
            if len(names) == 1 and mark in names[0]:
                hint = f"; the fields are separated by {name}, expected commas"
        raise InvalidInput(f"{path}, line 1: the header is {names}, expected the columns {list(required)}{hint}")
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


def json_objects(path: Path, log: RowLog, *, unique_keys: bool = False) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields one JSON object a line.

    Args:
        path: The file.
        log: Is told of lines that are no objects.
        unique_keys: Whether an object that has a key twice is bad, instead of its last value counting.
    """
    for number, text in text_lines(path, log):
        try:
            content = orjson.loads(text)
            # more keys than are left may also be those of inner objects, or a text that looks like one
            if unique_keys and isinstance(content, dict) and text.count('":') > len(content):
                json.loads(text, object_pairs_hook=_refuse_repeated_keys)
        except orjson.JSONDecodeError as error:
            log.add_bad(number, f"not JSON: {_json_cause(text) or error}")
            continue
        except _JsonError as error:
            log.add_bad(number, str(error))
            continue
        if isinstance(content, dict):
            yield number, content
        else:
            log.add_bad(number, f"a JSON {type(content).__name__}, expected an object")


class _JsonError(ValueError):
    pass


def _refuse_repeated_keys(pairs: list[tuple[str, Any]]) -> None:
    seen = set()
    for key, _ in pairs:
        if key in seen:
            raise _JsonError(f"the key {key!r} occurs twice in one object, expected once")
        seen.add(key)


def _json_cause(text: str) -> str | None:
    """Names what Python writes as JSON and JSON does not know."""
    try:
        json.loads(text, parse_constant=_refuse_constant)
    except _JsonError as error:
        return str(error)
    except (ValueError, RecursionError):
        pass
    return None


def _refuse_constant(name: str) -> NoReturn:
    raise _JsonError(f"{name} is no number in JSON, expected a number or null")


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
    with _opened(path, log) as file:
        head, line_end = _head(file, path, log)
        beginning = (head[at : at + _CHUNK_BYTES] for at in range(0, len(head), _CHUNK_BYTES))
        for chunk in itertools.chain(beginning, iter(lambda: file.read(_CHUNK_BYTES), b"")):
            *whole, rest = (rest + chunk).split(line_end)
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


def _head(file: BinaryIO, path: Path, log: RowLog) -> tuple[bytes, bytes]:
    """The beginning of a file, and what its lines end with."""
    head = file.read(_PEEK_BYTES)
    if head.count(0) > len(head) // 8:
        raise InvalidInput(
            f"{path} is no UTF-8 text: {head.count(0)} of its first {len(head)} bytes are zero; if the file is UTF-16, "
            "convert it: iconv -f UTF-16LE -t UTF-8"
        )
    # the last byte may be half of a CRLF
    is_bare = b"\r" in head[:-1] and b"\n" not in head
    if is_bare:
        log.add_finding("converted_text", 1, "its lines end with CR alone")
    return head, b"\r" if is_bare else b"\n"


@contextmanager
def _opened(path: Path, log: RowLog) -> Iterator[BinaryIO]:
    try:
        with path.open("rb") as plain:
            is_gzip = plain.read(2) == _GZIP_MAGIC
            plain.seek(0)
            if is_gzip:
                with gzip.open(plain, "rb") as unpacked:
                    # a GzipFile reads like one, but is not declared as one
                    yield _as_utf_8(cast(BinaryIO, unpacked), log)
            else:
                yield _as_utf_8(plain, log)
    except FileNotFoundError as error:
        raise InvalidInput(f"{path} does not exist") from error
    except UnicodeError as error:
        raise InvalidInput(f"{path} begins like UTF-16 text and is none: {error}") from error
    except (OSError, EOFError, zlib.error) as error:
        raise InvalidInput(f"{path} cannot be read: {' '.join(str(error).split())}") from error


def _as_utf_8(file: BinaryIO, log: RowLog) -> BinaryIO:
    is_utf_16 = file.read(2) in _UTF_16_MARKS
    file.seek(0)
    if not is_utf_16:
        return file
    log.add_finding("converted_text", 1, "UTF-16")
    return cast(BinaryIO, codecs.EncodedFile(file, "utf-8", "utf-16"))
