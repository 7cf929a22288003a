"""Any order of reports, repetitions, merges, erasures and exports: each acknowledged event is in the dataset once."""

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from model_store.people.appending import RetentionLimits
from model_store.people.owner import Owner
from offline.dataset.formats import events as reader
from offline.dataset.formats.rows import RowLog
from offline.export_events import ExportOptions, export_events
from offline.redis.event_stream import EventStream
from service.people.history_store import Event
from service.redis.calls import RedisCalls, connect
from service.redis.histories import RedisHistoryStore
from tests.offline.export.log_writing import exported
from tests.processes.redis_processes import RedisProcess

USERS, SESSIONS = ("u1", "u2", "u3"), ("s1", "s2")
_NAMES = st.integers(0, 7)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    # what is on disk is tested elsewhere, and syncing it takes most of the time
    with RedisProcess(tmp_path_factory.mktemp("redis"), "--appendfsync", "no") as process:
        yield process.url


class EventLoop(RuleBasedStateMachine):
    """The store and the export, beside what they promise written the long way.

    Attributes:
        histories: Per owner the event ids that its history must have.
        remembered: Per owner the event ids that are duplicates.
        rows: Owner and id of each event that was accepted and not erased, and the user that it counts for in a dataset.
        merged: Per user the sessions that are erased with them.
    """

    url = ""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = Path(tempfile.mkdtemp())
        client = connect(self.url, cluster=False, timeout_seconds=10)
        self.loop.run_until_complete(client.flushall())
        self.store = RedisHistoryStore(RedisCalls(client, timeout_seconds=30), limits=RetentionLimits())
        self.histories: dict[str, set[str]] = {owner: set() for owner in (*USERS, *SESSIONS)}
        self.remembered: dict[str, set[str]] = {owner: set() for owner in (*USERS, *SESSIONS)}
        self.rows: dict[tuple[str, str], str | None] = {}
        self.merged: dict[str, set[str]] = {user: set() for user in USERS}

    @rule(owner=st.sampled_from((*USERS, *SESSIONS)), names=st.lists(_NAMES, min_size=1, max_size=4))
    def report(self, owner: str, names: list[int]) -> None:
        is_session = owner in SESSIONS
        events = [Event(f"e{name}", Owner(owner, is_session), f"i{name}", name) for name in names]
        outcome = self.loop.run_until_complete(self.store.append(events))
        new = {event.event_id for event in events} - self.remembered[owner]
        assert {event.event_id for event in outcome.new} == new
        assert outcome.accepted + outcome.duplicates == len(events)
        self.histories[owner] |= new
        self.remembered[owner] |= new
        self.rows |= {(owner, name): None if is_session else owner for name in new}

    @rule(session=st.sampled_from(SESSIONS), user=st.sampled_from(USERS))
    def merge(self, session: str, user: str) -> None:
        outcome = self.loop.run_until_complete(self.store.merge(Owner(session, is_session=True), Owner(user)))
        moved = self.histories[session] - self.remembered[user]
        assert (outcome.moved, outcome.duplicates) == (len(moved), len(self.histories[session]) - len(moved))
        if self.histories[session]:
            for owner, name in self.rows:
                if owner == session:
                    self.rows[owner, name] = self.rows[owner, name] or user
            self.merged[user].add(session)
        self.remembered[user] |= self.histories[session]
        self.histories[user] |= moved
        self.histories[session] = set()

    @rule(user=st.sampled_from(USERS))
    def erase(self, user: str) -> None:
        self.loop.run_until_complete(self.store.erase(Owner(user)))
        for owner in (user, *self.merged[user]):
            self._forget(owner)
        self.merged[user] = set()

    @rule(session=st.sampled_from(SESSIONS))
    def erase_session(self, session: str) -> None:
        """What it did before it was merged stays in the user's history; it is gone from the log, and from datasets."""
        self.loop.run_until_complete(self.store.erase(Owner(session, is_session=True)))
        self._forget(session)

    def _forget(self, owner: str) -> None:
        self.histories[owner] = set()
        self.remembered[owner] = set()
        self.rows = {row: user for row, user in self.rows.items() if row[0] != owner}

    @rule(trim=st.booleans())
    def export(self, trim: bool) -> None:
        with EventStream(self.url) as stream:
            export_events(stream, self.folder / "events", ExportOptions(trim=trim))

    @invariant()
    def histories_are_as_promised(self) -> None:
        for owner, expected in self.histories.items():
            stored = self.loop.run_until_complete(self.store.events(Owner(owner, owner in SESSIONS)))
            assert {event.event_id for event in stored} == expected
            assert len(stored) == len(expected)

    def teardown(self) -> None:
        try:
            self.export(trim=True)
            self._check_dataset()
        finally:
            self.loop.run_until_complete(self.store.aclose())
            self.loop.close()
            shutil.rmtree(self.folder)

    def _check_dataset(self) -> None:
        out = self.folder / "events"
        positions = [(row["shard"], row["log_id"]) for row in exported(out)]
        assert len(positions) == len(set(positions))
        expected = {(user or f"session:{owner}", f"i{name[1:]}") for (owner, name), user in self.rows.items()}
        found: list[tuple[Any, Any]] = []
        if (out / "export.json").exists():
            for path, read in reader.source(self.folder / "items.jsonl", out).interaction_files:
                found += [(row.user_id, row.item_id) for row in read(path, RowLog(path, 0.0))]
        assert sorted(found) == sorted(expected)


def test_every_acknowledged_event_is_in_the_dataset_once(url: str) -> None:
    EventLoop.url = url
    run_state_machine_as_test(
        EventLoop,
        settings=settings(
            max_examples=40,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )
