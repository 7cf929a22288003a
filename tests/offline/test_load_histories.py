"""Histories that are loaded are those that the service would have stored itself, whatever happens meanwhile."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis import Redis
from typer.testing import CliRunner

from model_store.errors import InvalidInput
from model_store.people.appending import RetentionLimits, derived_event_id
from model_store.people.owner import Owner
from model_store.people.owner_keys import owner_key
from offline.dataset.formats.rows import Interaction, Item
from offline.dataset.writer import WriteOptions, write_dataset
from offline.load_histories import LoadSettings, app, load_histories
from offline.redis.history_loader import newest
from service.people.history_store import Event
from service.redis.histories import RedisHistoryStore
from tests.offline.export.log_writing import append, with_store
from tests.processes.redis_processes import start_cluster

T = 1_700_000_000
LOG = [
    Interaction("u1", "a", T + 1, "view", 4.5),
    Interaction("u1", "b", T + 2),
    Interaction("u1", "a", T + 2, "purchase"),
    Interaction("u2", "b", T + 3),
    Interaction("ü 3", "c", T + 4, "click"),
]


def _dataset(out: Path, log: Sequence[Interaction] = LOG) -> Path:
    items = [Item(item_id, item_id.upper(), {}) for item_id in sorted({row.item_id for row in log})]
    write_dataset(out, items=items, interactions=log, options=WriteOptions(source="test"))
    return out


def _event(row: Interaction) -> Event:
    kind = row.type or "click"
    event_id = derived_event_id(Owner(row.user_id), row.item_id, kind, row.timestamp)
    properties = {} if row.rating is None else {"rating": row.rating}
    return Event(event_id, Owner(row.user_id), row.item_id, row.timestamp, kind, properties=properties)


def _load(data: Path, url: str, *, cluster: bool = False, **limits: int) -> dict[str, Any]:
    return load_histories(LoadSettings(data, url, cluster, RetentionLimits(**limits)))


def _content(client: Any) -> dict[bytes, Any]:
    """All that Redis holds, but batch tokens, which are drawn by chance."""
    found = {}
    for key in client.scan_iter("*"):
        rows = client.zrange(key, 0, -1, withscores=True)
        found[key] = [tuple(row) for row in rows if not row[0].startswith(b"t")]
    return found


def _items(url: str, user_id: str) -> list[str]:
    with Redis.from_url(url) as client:
        members = client.zrange(owner_key(Owner(user_id), "history"), 0, -1)
    return [json.loads(member[16:])[0] for member in members]


def test_a_loaded_history_is_what_the_service_itself_would_have_stored(url: str, tmp_path: Path) -> None:
    with_store(url, lambda store: store.append([_event(row) for row in LOG]), max_logged=0)
    with Redis.from_url(url) as client:
        expected = _content(client)
        ttl = {key: client.ttl(key) for key in expected}
        client.flushall()

        figures = _load(_dataset(tmp_path / "data"), url)

        assert _content(client) == expected
        assert all(abs(client.ttl(key) - ttl[key]) <= 10 for key in expected)
    assert {name: figures[name] for name in ("users", "events_added", "events_known", "events_not_kept")} == {
        "users": 3,
        "events_added": 5,
        "events_known": 0,
        "events_not_kept": 0,
    }


def test_twice_is_once(url: str, tmp_path: Path) -> None:
    data = _dataset(tmp_path / "data")
    _load(data, url)
    with Redis.from_url(url) as client:
        once = _content(client)

        figures = _load(data, url)

        assert _content(client) == once
    assert (figures["events_added"], figures["events_known"]) == (0, 5)


def test_live_events_stay_in_their_place_and_are_not_repeated(url: str, tmp_path: Path) -> None:
    live = [
        Event("e1", Owner("u1"), "z", T + 9),
        Event("e2", Owner("u1"), "y", T),
        Event("own id", Owner("u1"), "b", T + 2, "click"),  # the same interaction, under the caller's id
    ]
    append(url, live)

    figures = _load(_dataset(tmp_path / "data"), url)

    assert _items(url, "u1") == ["y", "a", "b", "a", "z"]
    assert (figures["events_added"], figures["events_known"]) == (4, 1)


@pytest.mark.parametrize("num_events", [19, 20, 21, 22, 45, 60, 61, 99, 250])
@pytest.mark.parametrize(("max_events", "max_remembered"), [(20, 50), (20, 5), (7, 100)])
def test_limits_leave_what_the_service_leaves(
    url: str, tmp_path: Path, num_events: int, max_events: int, max_remembered: int
) -> None:
    log = [Interaction("u", f"i{number}", T + number) for number in range(num_events)]
    with_store(
        url,
        lambda store: store.append([_event(row) for row in log]),
        max_events=max_events,
        max_remembered=max_remembered,
        max_logged=0,
    )
    expected = _items(url, "u")
    with Redis.from_url(url) as client:
        client.flushall()
    data = _dataset(tmp_path / "data", [*log, Interaction("other", "i1", T)])

    _load(data, url, max_events=max_events, max_remembered=max_remembered)
    assert _items(url, "u") == expected
    _load(data, url, max_events=max_events, max_remembered=max_remembered)
    assert _items(url, "u") == expected


@given(num_events=st.integers(0, 400), limit=st.integers(1, 90), step=st.integers(1, 30))
def test_as_many_events_are_sent_as_leave_the_same_number(num_events: int, limit: int, step: int) -> None:
    if limit < step:
        return
    kept = list(range(num_events))[-limit:]

    sent = newest(kept, num_events, limit, step)  # type: ignore[arg-type]

    assert (num_events - len(sent)) % step == 0
    assert len(sent) == num_events or limit - step < len(sent) <= limit
    assert list(sent) == list(range(num_events))[num_events - len(sent) :]


def test_a_full_history_of_live_events_is_left_alone(url: str, tmp_path: Path) -> None:
    live = [Event(f"e{number}", Owner("u1"), f"l{number}", T + 100 + number) for number in range(20)]
    with_store(url, lambda store: store.append(live), max_events=20)

    figures = _load(_dataset(tmp_path / "data"), url, max_events=20)

    assert _items(url, "u1") == [event.item_id for event in live]
    assert figures["events_not_kept"] == 3


def test_what_somebody_did_before_they_were_erased_does_not_come_back(url: str, tmp_path: Path) -> None:
    data = _dataset(tmp_path / "data", [*LOG, Interaction("u1", "later", int(time.time()) + 3_600)])
    _load(data, url)
    with_store(url, lambda store: store.erase(Owner("u1")))

    figures = _load(data, url)

    assert _items(url, "u1") == ["later"]
    assert _items(url, "u2") == ["b"]
    assert figures["events_not_kept"] == 3


def test_ranks_of_an_erased_user_are_not_loaded(url: str, tmp_path: Path) -> None:
    data = _dataset(
        tmp_path / "data", [Interaction("u1", "a", 0), Interaction("u1", "b", 1), Interaction("u2", "a", 0)]
    )
    _load(data, url)
    assert _items(url, "u1") == ["a", "b"]
    with_store(url, lambda store: store.erase(Owner("u1")))

    _load(data, url)

    assert (_items(url, "u1"), _items(url, "u2")) == ([], ["a"])


def test_sessions_of_an_export_are_no_users(url: str, tmp_path: Path) -> None:
    figures = _load(_dataset(tmp_path / "data", [*LOG, Interaction("session:s", "a", T)]), url)

    assert (figures["users"], figures["sessions_left_out"]) == (4, 1)
    assert _items(url, "session:s") == []


def test_the_service_reads_what_was_loaded(url: str, tmp_path: Path) -> None:
    _load(_dataset(tmp_path / "data"), url)

    async def read(store: RedisHistoryStore) -> Any:
        return await store.events(Owner("ü 3"))

    assert "c" in repr(with_store(url, read))


def test_a_cluster_takes_them_too(tmp_path: Path) -> None:
    nodes = start_cluster(tmp_path / "cluster")
    try:
        log = [Interaction(f"u{number % 50}", f"i{number}", T + number) for number in range(300)]
        data = _dataset(tmp_path / "data", log)

        first = _load(data, nodes[0].url, cluster=True)
        second = _load(data, nodes[1].url, cluster=True)

        async def count(store: RedisHistoryStore) -> int:
            return sum([f"i{number + 250}" in repr(await store.events(Owner(f"u{number}"))) for number in range(50)])

        assert with_store(nodes[2].url, count, cluster=True) == 50
        assert (first["events_added"], second["events_added"], second["events_known"]) == (300, 0, 300)
    finally:
        for node in nodes:
            node.kill()


def test_a_killed_load_goes_on_where_it_was(url: str, tmp_path: Path) -> None:
    log = [Interaction(f"u{number // 4:05d}", f"i{number % 50}", T + number) for number in range(40_000)]
    data = _dataset(tmp_path / "data", log)
    command = [sys.executable, "-m", "offline.load_histories", "--data", str(data), "--redis-url", url]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with Redis.from_url(url) as client:
        while not list(client.scan_iter("hatstand:load:*")):
            assert process.poll() is None, "the load was over before it could be killed"
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()

        done = subprocess.run(command, capture_output=True, text=True, check=True)

        figures = json.loads(done.stdout.splitlines()[-1])
        assert 0 < figures["users_done_before"] <= 10_000
        assert figures["users"] == 10_000
        assert not list(client.scan_iter("hatstand:load:*"))
        histories = [client.zcard(owner_key(Owner(f"u{number:05d}"), "history")) for number in range(0, 10_000, 7)]
    assert set(histories) == {4}


@pytest.mark.parametrize(
    ("redis_url", "message"),
    [
        ("redis://:se/cret@127.0.0.1:1/0", "percent-encode"),
        ("http://:secret@127.0.0.1", "begins with none of redis://"),
        ("redis://:secret@127.0.0.1:1/0", "does not answer"),
    ],
)
def test_a_redis_that_is_not_there_is_told_without_its_password(tmp_path: Path, redis_url: str, message: str) -> None:
    data = _dataset(tmp_path / "data")

    result = CliRunner().invoke(app, ["--data", str(data), "--redis-url", redis_url])

    assert isinstance(result.exception, InvalidInput)
    assert message in str(result.exception)
    assert "cret" not in str(result.exception)
