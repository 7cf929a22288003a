import contextlib
import gzip
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_store.errors import InvalidInput
from offline.dataset.formats import lines
from offline.dataset.formats.lines import csv_records, json_objects, text_lines
from offline.dataset.formats.rows import RowLog


def _log(path: Path) -> RowLog:
    return RowLog(path, max_bad=1.0)


@pytest.mark.parametrize("chunk_bytes", [1, 2, 3, 1000])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_lines_keep_their_numbers_whatever_the_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk_bytes: int, pack: Callable[[bytes], bytes]
) -> None:
    monkeypatch.setattr(lines, "_CHUNK_BYTES", chunk_bytes)
    path = tmp_path / "file"
    path.write_bytes(pack(b"\xef\xbb\xbfone\r\n\n  \nf\xc3\xbcnf\nlast"))

    assert list(text_lines(path, _log(path))) == [(1, "one"), (4, "fünf"), (5, "last")]


def test_lines_that_are_not_text_or_far_too_long_are_bad_and_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "_CHUNK_BYTES", 4)
    monkeypatch.setattr(lines, "_MAX_LINE_BYTES", 10)
    path, log = tmp_path / "file", _log(tmp_path / "file")
    path.write_bytes(b"one\n\xff\n" + b"x" * 100 + b"\nfour\n")

    assert list(text_lines(path, log)) == [(1, "one"), (4, "four")]
    assert [sample["line"] for sample in log.samples] == [2, 3]
    assert "not utf-8 text" in log.samples[0]["reason"]
    assert "a line of more than 10 bytes" in log.samples[1]["reason"]


def test_quoted_fields_may_hold_delimiters_quotes_and_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "file.csv"
    path.write_text('a,"b, ""c""\nd",e\nf,g,h\n')

    assert list(csv_records(path, _log(path))) == [(1, ["a", 'b, "c"\nd', "e"]), (3, ["f", "g", "h"])]


def test_an_unclosed_quote_spoils_its_own_line_only(tmp_path: Path) -> None:
    path, log = tmp_path / "file.csv", _log(tmp_path / "file.csv")
    path.write_text('a,1\n"b,2\nc,3\nd,"4"\n7" pipe,5\n')

    assert list(csv_records(path, log)) == [
        (1, ["a", "1"]),
        (3, ["c", "3"]),
        (4, ["d", "4"]),
        (5, ['7" pipe', "5"]),
    ]
    assert [sample["line"] for sample in log.samples] == [2]


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_reported(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("bytes") / "file"
    path.write_bytes(content)
    for read in (csv_records, json_objects):
        # a file that begins like gzip and is none is refused as a whole
        with contextlib.suppress(InvalidInput):
            assert all(number >= 1 for number, _ in read(path, _log(path)))
