"""What strangers bring: each kind of file is read right, or refused by name, and the report says what was found."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from model_store.errors import InvalidInput
from offline.dataset.dataset import Dataset
from offline.import_data import app
from tests.offline.datasets import write_json_lines

ITEMS: list[dict[str, Any]] = [
    {"item_id": item_id, "title": f"Item {item_id}"} for item_id in ("101", "102", "007", "Abc")
]
HEADER = "user_id,item_id,timestamp\n"
T = 1_700_000_000


class Imported:
    """A finished import: its dataset and what it printed."""

    def __init__(self, out: Path, printed: str) -> None:
        self.dataset = Dataset.open(out)
        self.printed = printed

    def items_of(self, user_id: str) -> list[str]:
        rows = pq.read_table(self.dataset.directory / "interactions.parquet").to_pylist()
        return [row["item_id"] for row in rows if row["user_id"] == user_id]


def run(folder: Path, *options: str, items: list[dict[str, Any]] = ITEMS, log: str | bytes) -> Imported:
    item_file = write_json_lines(folder / "items.jsonl", items)
    log_file = folder / "log.csv"
    log_file.write_bytes(log.encode() if isinstance(log, str) else log)
    arguments = ["canonical", "--items", item_file, "--interactions", log_file, "--out", folder / "out", *options]
    result = CliRunner().invoke(app, list(map(str, arguments)))
    if result.exception:
        raise result.exception
    return Imported(folder / "out", result.stdout)


def rows(*events: tuple[str, str, int]) -> str:
    return HEADER + "".join(f"{user},{item},{time}\n" for user, item, time in events)


def test_the_report_is_printed_in_sentences_saved_and_ends_with_a_json_line(tmp_path: Path) -> None:
    log = rows(("u1", "101", T), ("u1", "102", T + 1), ("u1", "101", T + 2), ("u2", "102", T), ("u2", "x", T))
    items = [*ITEMS, {"item_id": "blank", "title": " "}, {"item_id": "scraped", "title": "<b>A</b> &amp; B"}]

    imported = run(tmp_path, "--max-bad", "0.5", items=items, log=f"{log}u1,101,soon\n")

    *sentences, last = imported.printed.splitlines()
    assert sentences == imported.dataset.report["sentences"]
    assert sentences == [
        "The dataset has 6 items, 2 users and 4 interactions, from 2023-11-14 to 2023-11-14.",
        f"1 item has no title ({tmp_path}/items.jsonl, in line 5: item_id blank).",
        f"1 title had markup, which was taken out ({tmp_path}/items.jsonl, in line 6: '<b>A</b> &amp; B').",
        f"1 of 6 rows of {tmp_path}/log.csv cannot be used and are left out, the first in line 7: timestamp 'soon' is "
        "not a number.",
        "Interactions left out: 1 are of items that are not among the items, such as 'x'.",
        "1 of 2 users have fewer than 3 interactions: models learn from them, but an evaluation by leave-one-out "
        "leaves them out.",
        "A model reads of each item: title (--text-field chooses).",
    ]
    figures = json.loads(last)
    assert (figures["num_interactions"], figures["untitled_items"], figures["bad_rows"]) == (4, 1, 1)


@pytest.mark.parametrize(
    ("unknown", "known", "cause"),
    [
        ("101.0", "101", "added the .0; write the column of ids as text"),
        (" 101", "101", "blanks around ids are part of them"),
        ("102 ", "102", "blanks around ids are part of them"),
        ("7", "007", "zeros at the beginning were lost"),
        ("7.0", "007", "zeros at the beginning were lost"),
        ("ABC", "Abc", "upper and lower case are different ids"),
    ],
)
def test_ids_spoiled_on_the_way_are_shown_with_the_likely_cause(
    tmp_path: Path, unknown: str, known: str, cause: str
) -> None:
    log = rows(("u1", "101", T), ("u2", "102", T), ("u2", unknown, T), ("u2", "p", T), ("u2", "q", T), ("u2", "r", T))

    report = run(tmp_path, log=log).dataset.report

    assert report["interactions_of_unknown_items"] == 4
    assert report["unknown_items"].startswith(
        f"4 are of items that are not among the items, such as {unknown!r}, 'p', 'q'; the items have {known!r} instead "
        f"of {unknown!r}: "
    )
    assert cause in report["unknown_items"]


def test_a_log_of_spoiled_ids_alone_is_refused_with_the_cause(tmp_path: Path) -> None:
    with pytest.raises(
        InvalidInput, match=r"no interactions, .*; 2 are of items .* such as '101\.0', '102\.0'; .* '101'"
    ):
        run(tmp_path, log=rows(("u1", "101.0", T), ("u2", "102.0", T)))


@pytest.mark.parametrize(
    ("options", "kept"), [((), ["101", "102"]), (("--keep-identical",), ["101", "102", "101", "101"])]
)
def test_identical_interactions_are_counted_and_are_one_unless_asked(
    tmp_path: Path, options: tuple[str, ...], kept: list[str]
) -> None:
    log = rows(("u1", "101", T), ("u1", "102", T), ("u2", "101", T), ("u1", "101", T), ("u1", "101", T))

    imported = run(tmp_path, *options, log=log)

    assert imported.items_of("u1") == kept
    assert imported.dataset.report["identical_interactions"] == 4 - len(kept)
    assert imported.dataset.description.num_interactions == 1 + len(kept)
    assert ("2 interactions left out as repetitions" in imported.printed) == (not options)


def test_another_type_is_another_interaction(tmp_path: Path) -> None:
    log = f"user_id,item_id,timestamp,type\nu1,101,{T},view\nu1,101,{T},buy\nu2,101,{T},\nu2,101,{T},\n"

    imported = run(tmp_path, log=log)

    assert (imported.items_of("u1"), imported.items_of("u2")) == (["101", "101"], ["101"])


NEWEST_FIRST = [
    ("u1", "007", T + 9),
    ("u1", "102", T + 5),
    ("u1", "101", T + 5),
    ("u2", "102", T + 4),
    ("u2", "101", T),
]


@pytest.mark.parametrize(
    ("options", "events", "expected", "is_said"),
    [
        ((), NEWEST_FIRST, ["101", "102", "007"], True),
        (("--order", "oldest-first"), NEWEST_FIRST, ["102", "101", "007"], True),
        ((), NEWEST_FIRST[::-1], ["101", "102", "007"], False),
        (("--order", "newest-first"), NEWEST_FIRST[::-1], ["102", "101", "007"], False),
    ],
)
def test_a_log_that_is_newest_first_keeps_the_true_order_of_ties_and_says_so(
    tmp_path: Path, options: tuple[str, ...], events: list[tuple[str, str, int]], expected: list[str], is_said: bool
) -> None:
    imported = run(tmp_path, *options, log=rows(*events))

    assert imported.items_of("u1") == expected
    assert ("The log is newest first" in imported.printed) is is_said


def test_each_user_newest_first_is_noticed_too(tmp_path: Path) -> None:
    log = [
        (f"u{user}", item, T + user * 100 + step)
        for user in range(9)
        for step, item in ((5, "102"), (5, "101"), (1, "007"))
    ]

    imported = run(tmp_path, log=rows(*log))

    assert imported.items_of("u3") == ["007", "101", "102"]
    assert "The log is newest first" in imported.printed


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (rows(("u1", "101", T), ("u2", "102", T)).encode("utf-16"), "UTF-16"),
        (b"\xfe\xff" + rows(("u1", "101", T), ("u2", "102", T)).encode("utf-16-be"), "UTF-16"),
        (b"\xef\xbb\xbf" + rows(("u1", "101", T), ("u2", "102", T)).encode(), None),
        (rows(("u1", "101", T), ("u2", "102", T)).replace("\n", "\r").encode(), "its lines end with CR alone"),
        (rows(("u1", "101", T), ("u2", "102", T)).replace("\n", "\r\n").encode(), None),
    ],
)
def test_other_encodings_and_line_ends_are_read(tmp_path: Path, content: bytes, said: str | None) -> None:
    imported = run(tmp_path, log=content)

    assert imported.dataset.description.num_interactions == 2
    assert ("was converted to UTF-8 lines" in imported.printed) == bool(said)
    assert said is None or said in imported.printed


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (rows(("u1", "101", T)).encode("utf-16-le"), "log.csv is no UTF-8 text: .* if the file is UTF-16, convert it"),
        (rows(("u1", "101", T)).replace(",", ";").encode(), "separated by semicolons, expected commas"),
        (rows(("u1", "101", T)).replace(",", "\t").encode("utf-16"), "separated by tabs, expected commas"),
        (rows(("u1", "101", 20210120)).encode(), r"line 2: timestamp '20210120' is .* \(a date\? write 2021-01-20"),
        (rows(("u1", "101", T * 1000)).encode(), r"line 2: .* \(milliseconds\? use --time-unit milliseconds\)"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_cause(tmp_path: Path, content: bytes, cause: str) -> None:
    with pytest.raises(InvalidInput, match=cause):
        run(tmp_path, log=content)
