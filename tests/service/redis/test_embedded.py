"""The embedded Redis is a real one, keeps what it acknowledged, and never outlives its service."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from redis import Redis

from model_store.errors import InvalidInput
from service.redis import embedded
from service.redis.embedded import EmbeddedRedis, find_redis_server
from tests.processes.redis_processes import wait_until


def test_what_was_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    server = EmbeddedRedis(tmp_path / "data")
    server.start()
    with Redis.from_url(server.url) as client:
        client.set("key", "value")
    assert server.process_id is not None
    os.kill(server.process_id, signal.SIGKILL)
    server.stop()
    server.start()
    with Redis.from_url(server.url) as client:
        assert client.get("key") == b"value"
    server.stop()


def test_a_server_that_ended_is_started_again_where_it_was_with_what_it_had(tmp_path: Path) -> None:
    server = EmbeddedRedis(tmp_path)
    server.start()
    url, process_ids = server.url, []
    for number in range(2):
        with Redis.from_url(url) as client:
            client.set(f"key-{number}", "value")
        process_ids.append(server.process_id)
        os.kill(server.process_id or 0, signal.SIGKILL)
        with Redis.from_url(url) as client:
            wait_until(lambda client=client, number=number: client.get(f"key-{number}") == b"value")
    last = server.process_id
    assert (server.url, last not in process_ids) == (url, True)
    server.stop()
    assert last is not None
    assert not _is_alive(last)


def test_stopping_ends_the_process_and_its_socket(tmp_path: Path) -> None:
    server = EmbeddedRedis(tmp_path)
    server.start()
    process_id, url = server.process_id, server.url
    assert process_id is not None
    server.stop()
    server.stop()
    assert not _is_alive(process_id)
    assert not Path(url.removeprefix("unix://")).exists()


def test_a_second_service_may_not_use_the_same_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "_LOCK_SECONDS", 0.1)
    first, second = EmbeddedRedis(tmp_path), EmbeddedRedis(tmp_path)
    first.start()
    try:
        with pytest.raises(InvalidInput, match="another service already keeps its embedded Redis in"):
            second.start()
    finally:
        first.stop()


def test_it_ends_when_the_service_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from service.redis.embedded import EmbeddedRedis\n"
        "server = EmbeddedRedis(Path(sys.argv[1])); server.start(); print(server.process_id, flush=True)\n"
        "time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as service:
        assert service.stdout is not None
        process_id = int(service.stdout.readline())
        assert _is_alive(process_id)
        service.kill()
        wait_until(lambda: not _is_alive(process_id))


def test_a_file_in_place_of_the_directory_is_said(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    with pytest.raises(InvalidInput, match=str(path)):
        EmbeddedRedis(path).start()


def test_a_log_that_cannot_be_read_keeps_it_from_starting_with_the_servers_own_words(tmp_path: Path) -> None:
    (tmp_path / "appendonly.aof").write_bytes(b"this is no append-only file")
    server = EmbeddedRedis(tmp_path)
    with pytest.raises(InvalidInput, match="did not start in"):
        server.start()
    assert server.process_id is None


def test_without_any_redis_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "find_spec", lambda _: None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InvalidInput, match=r"hatstand\[embedded\]"):
        find_redis_server()


def _is_alive(process_id: int) -> bool:
    try:
        state = Path(f"/proc/{process_id}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
