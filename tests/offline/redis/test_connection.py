"""A job says in one line what is wrong with a Redis or a Redis Cluster, and shows no part of the url."""

from pathlib import Path

import pytest
from typer import Typer
from typer.testing import CliRunner

from model_store.errors import InvalidInput
from model_store.people.appending import RetentionLimits
from offline import build, export_events
from offline.redis.connection import connect
from offline.redis.event_stream import EventStream
from offline.redis.history_loader import HistoryLoader, PastEvent
from service.decisions import replay
from tests.processes.redis_processes import RedisProcess, start_cluster

TIMEOUT_SECONDS = 0.5


@pytest.mark.parametrize(
    ("app", "arguments"),
    [
        # none of the files exists: the url is read before anything else is done
        (build.app, ["--items", "no.jsonl", "--interactions", "no.csv", "--store", "no"]),
        (export_events.app, ["--out", "no"]),
        (replay.app, ["--store", "no", "--id", "0" * 32]),
    ],
    ids=["build", "export_events", "replay"],
)
@pytest.mark.parametrize("password", ["pw1/pw2", "pw1#pw2", "pw1?pw2", "pw1%pw2", "pw1[pw2"])
def test_each_job_refuses_a_url_with_a_raw_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, app: Typer, arguments: list[str], password: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, [*arguments, "--redis-url", f"redis://:{password}@127.0.0.1:1/0"])
    assert isinstance(result.exception, InvalidInput)
    message = str(result.exception)
    assert "percent-encode" in message
    assert "pw1" not in message + result.output
    assert "pw2" not in message + result.output
    assert "\n" not in message


def test_a_server_that_is_called_a_cluster_is_told(own_redis: RedisProcess) -> None:
    with pytest.raises(InvalidInput, match=r"does not answer: .*[Cc]luster"):
        connect(own_redis.url, cluster=True, timeout_seconds=TIMEOUT_SECONDS)


def test_a_cluster_that_goes_away_is_told_by_whoever_uses_it(tmp_path: Path) -> None:
    nodes = start_cluster(tmp_path)
    try:
        client = connect(nodes[0].url, cluster=True, timeout_seconds=TIMEOUT_SECONDS)
        loader = HistoryLoader(client, RetentionLimits(), load_id="x", has_moments=True)
        with EventStream(nodes[0].url, cluster=True, timeout_seconds=TIMEOUT_SECONDS) as stream:
            assert (loader.position(), stream.count()) == (0, 0)
            for node in nodes:
                node.kill()
            with pytest.raises(InvalidInput, match="Redis did not take the histories"):
                loader.load([("u1", [PastEvent("i1", 1_700_000_000, None, None)])])
            with pytest.raises(InvalidInput, match="Redis did not take the histories"):
                loader.set_position(1)
            with pytest.raises(InvalidInput, match="Redis does not answer"):
                stream.count()
        client.close()
    finally:
        for node in nodes:
            node.kill()
