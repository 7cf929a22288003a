"""The event log to Parquet: each event exactly once, whatever is killed, erased, merged or trimmed."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from redis import Redis

from model_store.errors import InvalidInput
from model_store.people.event_log import stream_key
from model_store.people.owner import Owner
from offline.export.files import EVENT_SCHEMA, read_manifest
from service.people.history_store import Event
from tests.offline.export.log_writing import append, clicks, export, exported, names, with_store
from tests.processes.redis_processes import start_cluster

ROOT = Path(__file__).parents[2]


def test_an_event_is_exported_as_it_was_reported(url: str, tmp_path: Path) -> None:
    event = Event(
        event_id="é1",
        owner=Owner("ü"),
        item_id="i1",
        timestamp=1_700_000_000,
        type="purchase",
        recommendation_id="r1",
        properties={"price": 3.5, "rating": 4, "nested": [{"a": None}]},
    )
    append(url, [event])
    result = export(url, tmp_path)
    assert (result.run, result.events, result.duplicates) == (1, 1, 0)
    (row,) = exported(tmp_path)
    log_id = row.pop("log_id")
    assert row.pop("shard") == Owner("ü").shard
    assert json.loads(row.pop("properties")) == event.properties
    assert row == {
        "user_id": "ü",
        "item_id": "i1",
        "timestamp": 1_700_000_000,
        "type": "purchase",
        "rating": 4.0,
        "event_id": "é1",
        "session_id": None,
        "recommendation_id": "r1",
    }
    assert int(log_id.split("-")[0]) / 1_000 == pytest.approx(time.time(), abs=60)
    assert pq.read_schema(tmp_path / "events-000001.parquet").equals(EVENT_SCHEMA)


def test_a_run_goes_on_where_the_last_one_stopped_with_and_without_trimming(url: str, tmp_path: Path) -> None:
    expected = []
    for number in range(6):
        events = [event for user in range(5) for event in clicks(f"u{user}", [number])]
        append(url, [*events, *events])  # each twice: a duplicate is not logged
        expected += [(event.owner.id, event.event_id) for event in events]
        result = export(url, tmp_path, trim=number % 2 == 1)
        assert (result.events, result.duplicates) == (5, 0)
        assert names(tmp_path) == sorted(expected)
        assert result.trimmed == (10 if number % 2 else 0)
    assert export(url, tmp_path).run is None
    assert names(tmp_path) == sorted(expected)


@pytest.mark.parametrize("with_console", [False, True])
def test_what_an_operator_tried_in_the_console_is_left_out(url: str, tmp_path: Path, with_console: bool) -> None:
    def event(event_id: str, **properties: str) -> Event:
        return Event(event_id, Owner("u1"), "i1", 1_700_000_000, "click", None, properties)

    append(url, [event("shop"), event("tried", origin="console"), event("agent", origin="mcp")])
    result = export(url, tmp_path, trim=True, with_console=with_console)
    expected = ["agent", "shop", "tried"] if with_console else ["agent", "shop"]
    assert names(tmp_path) == [("u1", event_id) for event_id in expected]
    assert (result.events, result.console, result.trimmed) == (len(expected), 3 - len(expected), 3)
    # nothing but the console's: the log goes on all the same, and is trimmed
    append(url, [event("tried again", origin="console")])
    result = export(url, tmp_path, trim=True)
    assert (result.events, result.console, result.trimmed) == (0, 1, 1)
    assert export(url, tmp_path).run is None


def test_an_empty_log_is_no_error(url: str, tmp_path: Path) -> None:
    assert export(url, tmp_path / "new" / "directory", trim=True).run is None
    assert exported(tmp_path / "new" / "directory") == []


def test_it_works_in_a_cluster(tmp_path: Path) -> None:
    nodes = start_cluster(tmp_path / "cluster")
    try:
        events = [event for user in range(100) for event in clicks(f"u{user}", [1, 2])]
        append(nodes[0].url, events, cluster=True)
        result = export(nodes[1].url, tmp_path / "out", cluster=True, trim=True)
        assert (result.events, result.trimmed) == (200, 200)
        assert names(tmp_path / "out") == sorted((event.owner.id, event.event_id) for event in events)
        assert all(any(node.client().scan_iter("*:log")) for node in nodes)
    finally:
        for node in nodes:
            node.kill()


def test_what_comes_again_is_recognised_whatever_the_reason(url: str, tmp_path: Path) -> None:
    events = clicks("u1", range(10))
    append(url, events)
    export(url, tmp_path, trim=True)
    # The service has forgotten the ids, as after long silence, and logs the events again; one is new.
    with Redis.from_url(url) as client:
        client.delete(*client.keys("*:event_ids"))
    assert append(url, [*events, *clicks("u1", [10])]) == 11
    result = export(url, tmp_path)
    assert (result.events, result.duplicates) == (1, 10)
    assert names(tmp_path) == sorted(("u1", f"e{number}") for number in range(11))


def test_a_redis_that_was_set_back_is_compared_from_its_beginning(url: str, tmp_path: Path) -> None:
    append(url, clicks("u1", range(5)))
    key = stream_key(Owner("u1").shard)
    with Redis.from_url(url) as client:
        copy = client.dump(key)
        append(url, clicks("u1", range(5, 8)))
        export(url, tmp_path)
        client.restore(key, 0, copy, replace=True)  # as after a restart from an older file
    assert export(url, tmp_path).events == 0
    append(url, clicks("u1", range(8, 10)))
    assert export(url, tmp_path, trim=True).events == 2
    assert names(tmp_path) == sorted(("u1", f"e{number}") for number in range(10))


def test_what_another_export_has_trimmed_is_a_gap_and_not_silently_missing(url: str, tmp_path: Path) -> None:
    append(url, clicks("u1", range(3)))
    export(url, tmp_path / "one", trim=True)
    append(url, clicks("u1", range(3, 5)))
    with pytest.raises(InvalidInput, match="trimmed up to .* by an export to another directory"):
        export(url, tmp_path / "other")
    assert export(url, tmp_path / "other", skip_trimmed=True).events == 2
    assert export(url, tmp_path / "one").events == 2


def test_an_erased_user_is_left_out_and_may_come_back(url: str, tmp_path: Path) -> None:
    append(url, [*clicks("gone", range(3)), *clicks("stays", range(2))])
    export(url, tmp_path)
    append(url, [*clicks("gone", range(3, 6)), *clicks("stays", range(2, 4))])
    receipt = with_store(url, lambda store: store.erase(Owner("gone")))
    assert {line.store: line.records for line in receipt}["redis:event_log"] == 6
    append(url, clicks("gone", [1, 7]))  # event e1 again: after the erasure it is a new one
    result = export(url, tmp_path)
    assert (result.events, result.erasures, result.duplicates) == (4, 1, 0)
    rows = [(row["user_id"], row["event_id"]) for row in exported(tmp_path)]
    assert rows.count(("gone", "e1")) == 2  # once in the file from before the erasure, which is not touched
    assert ("gone", "e4") not in rows
    for path in tmp_path.glob("notes-*.parquet"):
        assert "gone" not in path.read_bytes().decode("latin-1")


def test_an_erasure_that_was_killed_half_way_holds_for_the_export(url: str, tmp_path: Path) -> None:
    append(url, clicks("gone", range(3)))
    owner = Owner("gone")
    with Redis.from_url(url) as client:  # the note is in the log, the entries were not removed yet
        client.xadd(stream_key(owner.shard), {"x": owner.hash})
    append(url, clicks("gone", [3]))
    result = export(url, tmp_path)
    assert (result.events, result.erased) == (1, 3)
    assert names(tmp_path) == [("gone", "e3")]


def test_a_session_that_was_merged_is_exported_as_its_user(url: str, tmp_path: Path) -> None:
    append(url, [*clicks("s", [1, 2], session=True), *clicks("other", [1], session=True), *clicks("u", [3])])
    with_store(url, lambda store: store.merge(Owner("s", is_session=True), Owner("u")))
    result = export(url, tmp_path)
    assert (result.events, result.merges) == (4, 1)
    assert names(tmp_path) == [("session:other", "e1"), ("u", "e1"), ("u", "e2"), ("u", "e3")]
    assert {row["session_id"] for row in exported(tmp_path)} == {"s", "other", None}


def test_two_exports_do_not_write_to_one_directory(url: str, tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    holder = subprocess.Popen(
        [sys.executable, "-c", f"import fcntl,time;f=open({str(tmp_path / '.lock')!r},'ab');"
         "fcntl.flock(f,fcntl.LOCK_EX);print(1,flush=True);time.sleep(60)"],
        stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(InvalidInput, match="another export writes"):
            export(url, tmp_path)
    finally:
        holder.kill()
        holder.communicate()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("no json", "cannot be read"),
        ('{"schema_version": 9}', "schema_version 9"),
        ('{"positions": {"1": "x"}}', "read"),
    ],
)
def test_a_damaged_manifest_is_refused(url: str, tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "export.json").write_text(content)
    with pytest.raises(InvalidInput, match=message):
        export(url, tmp_path)


def test_files_that_tell_old_events_from_new_ones_are_missed(url: str, tmp_path: Path) -> None:
    append(url, clicks("u1", [1]))
    export(url, tmp_path)
    (tmp_path / "ids-000001.npy").unlink()
    with pytest.raises(InvalidInput, match=r"lacks ids-000001\.npy"):
        export(url, tmp_path)


def test_an_entry_of_a_newer_version_stops_the_export_and_is_not_skipped(url: str, tmp_path: Path) -> None:
    append(url, clicks("u1", [1]))
    with Redis.from_url(url) as client:
        client.xadd(stream_key(3), {"new": "kind"})
    with pytest.raises(InvalidInput, match="shard 3 cannot be read"):
        export(url, tmp_path)
    assert exported(tmp_path) == []


def test_the_files_of_hashes_stay_few(url: str, tmp_path: Path) -> None:
    for number in range(20):
        append(url, clicks("u1", [number]))
        export(url, tmp_path, trim=True)
    manifest = read_manifest(tmp_path)
    assert len(manifest.ids) <= 3
    assert sum(one.num_ids for one in manifest.ids) == 20
    assert {path.name for path in tmp_path.glob("ids-*")} == {one.file for one in manifest.ids}


def test_the_command_prints_one_line_of_json_and_says_what_is_wrong(url: str, tmp_path: Path) -> None:
    append(url, clicks("u1", range(3)))
    done = _command("--redis-url", url, "--out", str(tmp_path), "--trim")
    figures = json.loads(done.stdout.strip().splitlines()[-1])
    assert (figures["events"], figures["trimmed"], figures["in_log"], figures["run"]) == (3, 3, 0, 1)
    assert "events" in done.stderr  # the progress bar
    failed = _command("--redis-url", "redis://127.0.0.1:1/0", "--out", str(tmp_path), "--timeout", "0.2")
    assert failed.returncode == 2
    assert failed.stderr.strip().splitlines()[-1].startswith("error: Redis at --redis-url does not answer")


def _command(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "offline.export_events", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
