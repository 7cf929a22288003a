"""Events in batches from a thread: nothing is lost, nothing counts twice, and what cannot be delivered is told."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hatstand_client import Client, Event, EventCounts, EventSender, HatstandError, QueueFull, UndeliveredEvent
from hatstand_client.spool import Spool
from tests.clients.conftest import KEYS
from tests.processes.redis_processes import RedisProcess
from tests.processes.service_process import ServiceProcess, service_process

NOBODY = "http://127.0.0.1:1"


@pytest.fixture
def client(shop_service: ServiceProcess) -> Iterator[Client]:
    with Client(shop_service.url, api_key=KEYS["operator"]) as client:
        yield client


def _events(user_id: str, number: int, **more: object) -> list[Event]:
    events = [{"user_id": user_id, "item_id": f"i{at % 60 + 1}", "event_id": f"{user_id}-{at}"} for at in range(number)]
    return [Event.model_validate({**event, "timestamp": 1_700_000_000 + at, **more}) for at, event in enumerate(events)]


def _stored(client: Client, user_id: str) -> list[str]:
    return [event.event_id for event in client.user_history(user_id).history]


def test_everything_that_was_sent_is_stored_when_the_block_ends(client: Client) -> None:
    events = _events("sender-all", 450)
    with EventSender(client, max_batch=100) as sender:
        for event in events:
            sender.send(event)
    assert sender.counts == EventCounts(accepted=450)
    assert _stored(client, "sender-all") == [event.event_id for event in events]


def test_an_event_alone_is_delivered_soon(client: Client) -> None:
    with EventSender(client, flush_seconds=0.05) as sender:
        sender.send(Event(user_id="sender-one", item_id="i1"))
        ends_at = time.monotonic() + 30
        while sender.counts.waiting:
            assert time.monotonic() < ends_at
            time.sleep(0.02)
        assert len(_stored(client, "sender-one")) == 1


def test_threads_share_a_sender(client: Client) -> None:
    with EventSender(client, max_batch=50) as sender:

        def send(number: int) -> None:
            for event in _events(f"sender-thread-{number}", 60):
                sender.send(event)

        threads = [threading.Thread(target=send, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sender.counts == EventCounts(accepted=480)
    assert all(len(_stored(client, f"sender-thread-{number}")) == 60 for number in range(8))


def test_a_refused_event_is_told_and_the_others_arrive(client: Client) -> None:
    told: list[UndeliveredEvent] = []
    good, bad = Event(user_id="sender-bad", item_id="i1"), Event(item_id="i2")
    with EventSender(client, on_undelivered=told.extend) as sender:
        for event in (bad, good, bad, good):
            sender.send(event)
    assert sender.counts == EventCounts(accepted=1, duplicates=1, undelivered=2)
    assert [one.event for one in told] == [bad, bad]
    assert told[0].reason.startswith("missing_field")


def test_a_batch_that_is_too_large_for_the_service_is_sent_in_parts(client: Client) -> None:
    with EventSender(client, max_batch=1_000) as sender:
        for event in _events("sender-large", 600, properties={"text": "x" * 4_000}):
            sender.send(event)
    assert sender.counts == EventCounts(accepted=600)


def test_without_the_right_to_report_every_event_is_told(shop_service: ServiceProcess) -> None:
    told: list[UndeliveredEvent] = []
    with (
        Client(shop_service.url, api_key=KEYS["reader"]) as client,
        EventSender(client, on_undelivered=told.extend) as sender,
    ):
        sender.send(Event(user_id="u", item_id="i1"))
    assert sender.counts == EventCounts(undelivered=1)
    assert "forbidden" in told[0].reason


def test_a_callback_that_fails_does_not_end_the_sender(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    def fail(_: object) -> None:
        raise RuntimeError("not my day")

    with EventSender(client, max_batch=1, on_undelivered=fail) as sender:
        sender.send(Event(item_id="i1"))
        sender.send(Event(user_id="sender-callback", item_id="i1"))
    assert sender.counts == EventCounts(accepted=1, undelivered=1)
    assert "not my day" in caplog.text


def test_more_than_may_wait_is_refused_and_closing_ends_in_time() -> None:
    told: list[UndeliveredEvent] = []
    with Client(NOBODY) as client:
        sender = EventSender(client, max_waiting=3, on_undelivered=told.extend)
        for event in _events("u", 3):
            sender.send(event)
        with pytest.raises(QueueFull):
            sender.send(Event(user_id="u", item_id="i1"))
        begun = time.monotonic()
        sender.close(timeout_seconds=0.3)
        assert time.monotonic() - begun < 10
        with pytest.raises(HatstandError, match="closed"):
            sender.send(Event(user_id="u", item_id="i1"))
    assert [one.event.event_id for one in told] == ["u-0", "u-1", "u-2"]
    assert sender.counts == EventCounts(undelivered=3)


def test_what_is_not_delivered_waits_in_the_spool_file_for_the_next_sender(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with Client(NOBODY) as nobody:
        for part in (slice(0, 30), slice(30, 50)):
            sender = EventSender(nobody, max_batch=20, spool=path)
            for event in _events("sender-spool", 50)[part]:
                sender.send(event)
            sender.close(timeout_seconds=0.1)
    assert sender.counts == EventCounts(spooled=20)
    with path.open("ab") as file:
        file.write(b'\n{"item_id": "cut o')
    with EventSender(client, max_batch=20, spool=path) as sender:
        sender.send(Event(user_id="sender-spool", item_id="i1", event_id="new"))
    assert sender.counts == EventCounts(accepted=51)
    assert sorted(_stored(client, "sender-spool")) == sorted(["new", *(f"sender-spool-{at}" for at in range(50))])
    assert not path.exists()


def test_a_spool_file_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    told: list[UndeliveredEvent] = []
    with Client(NOBODY) as client:
        sender = EventSender(client, spool=tmp_path / "missing/events.jsonl", on_undelivered=told.extend)
        sender.send(Event(user_id="u", item_id="i1"))
        sender.close(timeout_seconds=0.1)
    assert "spool file cannot be written" in told[0].reason


_SCRIPT = """
import sys
from hatstand_client import Client, Event, EventSender

sender = EventSender(Client(sys.argv[1], api_key=sys.argv[2]), flush_seconds=60)
for number in range(120):
    sender.send(Event(user_id=sys.argv[3], item_id="i1", event_id=str(number)))
if sys.argv[4] == "fails":
    raise RuntimeError("the shop is broken")
"""


@pytest.mark.parametrize("end", ["ends", "fails"])
def test_a_script_that_just_ends_loses_nothing(client: Client, shop_service: ServiceProcess, end: str) -> None:
    arguments = [shop_service.url, KEYS["operator"], f"sender-script-{end}", end]
    subprocess.run([sys.executable, "-c", _SCRIPT, *arguments], check=end == "ends", capture_output=True, timeout=60)
    assert len(_stored(client, f"sender-script-{end}")) == 120


def test_a_forked_process_is_told_to_make_its_own(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    with EventSender(client) as sender, monkeypatch.context() as child:
        # as in a child: forking beside the threads of this test is not safe
        child.setattr(os, "getpid", os.getppid)
        with pytest.raises(HatstandError, match="after the fork"):
            sender.send(Event(user_id="u", item_id="i1"))


def test_nothing_is_lost_and_nothing_counts_twice_while_the_service_is_killed(shop_root: Path, tmp_path: Path) -> None:
    events = {f"killed-{user}": _events(f"killed-{user}", 150) for user in range(10)}
    with (
        RedisProcess(tmp_path / "redis") as redis,
        service_process(tmp_path / "service.log", store=str(shop_root), redis_url=redis.url) as service,
        Client(service.url, timeout_seconds=5) as client,
    ):
        sender = EventSender(client, max_batch=20, flush_seconds=0.02, close_seconds=120)
        for turn in range(3):
            for user_events in events.values():
                for event in user_events[turn * 50 : (turn + 1) * 50]:
                    sender.send(event)
                    time.sleep(0.001)
            if turn < 2:
                service.kill()
                service.start_again_at_the_same_port()
        sender.close()
        counts = sender.counts
        assert counts.accepted + counts.duplicates == 1_500
        assert counts == EventCounts(accepted=counts.accepted, duplicates=counts.duplicates)
        for user_id, user_events in events.items():
            assert _stored(client, user_id) == [event.event_id for event in user_events]


@given(
    st.lists(
        st.builds(
            Event,
            item_id=st.text(min_size=1),
            user_id=st.none() | st.text(),
            properties=st.dictionaries(
                st.text(), st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
            ),
        )
    )
)
def test_a_spool_file_gives_back_what_was_put_in(tmp_path_factory: pytest.TempPathFactory, events: list[Event]) -> None:
    spool = Spool(tmp_path_factory.mktemp("spool") / "events")
    for event in events:
        spool.keep([event])
    assert [event for batch in spool.batches(2) for event in batch] == events
    spool.clear()
    assert list(spool.batches(2)) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), b"bytes", "\ud800", {"deep": [float("nan")]}])
def test_properties_that_are_no_json_are_refused_where_they_are_made(value: object) -> None:
    with pytest.raises(ValidationError):
        Event.model_validate({"user_id": "u", "item_id": "i", "properties": {"value": value}})
    assert json.dumps(Event(item_id="i").body())
