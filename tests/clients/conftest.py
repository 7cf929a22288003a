"""A real service for the clients: a process of its own, that wants API keys."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes.redis_processes import RedisProcess
from tests.processes.service_process import ServiceProcess, service_process

# name -> key; each has the scopes of SCOPES
KEYS = {"shop": "shop-key-0123456789", "operator": "operator-key-0123456789", "reader": "reader-key-0123456789"}
SCOPES = {"shop": ["recommend", "events"], "operator": ["recommend", "events", "admin"], "reader": ["recommend"]}
SCENARIOS = "scenarios: {home: {description: the front page, diversity: 0.1}}"


def api_keys() -> str:
    """The setting ``HATSTAND_API_KEYS``."""
    return json.dumps(
        [
            {"name": name, "sha256": hashlib.sha256(key.encode()).hexdigest(), "scopes": SCOPES[name]}
            for name, key in KEYS.items()
        ]
    )


@pytest.fixture(scope="module")
def shop_service(shop_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """The small shop of tests/shop.py, for a module's tests; they use users of their own."""
    directory = tmp_path_factory.mktemp("clients")
    scenarios = directory / "scenarios.yaml"
    scenarios.write_text(SCENARIOS)
    with (
        RedisProcess(directory / "redis") as redis,
        service_process(
            directory / "service.log",
            store=str(shop_root),
            redis_url=redis.url,
            api_keys=api_keys(),
            scenarios=str(scenarios),
        ) as service,
    ):
        yield service
        assert "Traceback" not in service.log()
