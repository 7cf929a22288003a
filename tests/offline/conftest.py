"""A real Redis for the jobs that read one."""

from collections.abc import Iterator

import pytest

from tests.service.redis_processes import RedisProcess


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisProcess]:
    process = RedisProcess(tmp_path_factory.mktemp("redis"))
    process.start()
    yield process
    process.kill()


@pytest.fixture
def url(server: RedisProcess) -> str:
    with server.client() as client:
        client.flushall()
    return server.url
