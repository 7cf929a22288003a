"""A real Redis for the jobs that read one."""

from collections.abc import Iterator

import pytest

from tests.processes.redis_processes import RedisProcess


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisProcess]:
    with RedisProcess(tmp_path_factory.mktemp("redis")) as process:
        yield process


@pytest.fixture
def url(server: RedisProcess) -> str:
    with server.client() as client:
        client.flushall()
    return server.url
