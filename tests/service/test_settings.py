"""Settings come from HATSTAND_* variables, and a misspelt one is never silently the default."""

import json
from pathlib import Path

import pytest

from model_store.errors import InvalidInput
from service.recommend.experiment import Experiment
from service.settings import Settings, load_settings
from tests.words import RAW_WORDS


def test_settings_are_read_from_the_environment() -> None:
    key = {"name": "shop", "sha256": "0" * 64, "scopes": ["recommend"]}
    settings = load_settings(
        {
            "HATSTAND_STORE": "s3://bucket/store",
            "HATSTAND_PORT": "9000",
            "HATSTAND_API_KEYS": json.dumps([key]),
            "HATSTAND_REDIS_DIRECTORY": "/var/lib/redis",
            "HATSTAND_COUNTED_EVENT_TYPES": '["view", "hide"]',
        }
    )
    assert (settings.store, settings.port) == ("s3://bucket/store", 9_000)
    assert settings.api_keys[0].scopes == {"recommend"}
    assert settings.redis_directory == Path("/var/lib/redis")
    assert settings.counted_event_types == ("view", "hide")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HATSTAND_PORT", "http"),
        ("HATSTAND_PORT", "70000"),
        ("HATSTAND_REDIS_URL", "localhost:6379"),
        ("HATSTAND_DEVICE", "tpu"),
        ("HATSTAND_BATCH_MAX_USERS", "0"),
        ("HATSTAND_API_KEYS", '[{"name": "a", "sha256": "plain", "scopes": []}]'),
        ("HATSTAND_API_KEYS", "secret"),
        ("HATSTAND_LOG_LEVEL", "loud"),
        ("HATSTAND_LOG_FORMAT", "xml"),
        ("HATSTAND_CORS_ORIGINS", "https://shop.example"),
        ("HATSTAND_CORS_ORIGINS", '["shop.example"]'),
        ("HATSTAND_CORS_ORIGINS", '["https://shop.example/page"]'),
        ("HATSTAND_TRUSTED_PROXIES", "10.0.0.0/8, nginx"),
        ("HATSTAND_RATE_LIMIT_PER_MINUTE", "-1"),
        ("HATSTAND_STORE_POLL_SECONDS", "-1"),
        ("HATSTAND_MAX_JSON_DEPTH", "1000"),
        ("HATSTAND_API_KEYS", '[{"name": "a", "sha256": "%s", "scopes": [], "requests_per_minute": -1}]' % ("0" * 64)),
        ("HATSTAND_STATE_CACHE_MB", "-1"),
        ("HATSTAND_HATLLM_MODE", "guess"),
        ("HATSTAND_EXPERIMENT", "hllm"),
        ("HATSTAND_EXPERIMENT", "[]"),
        ("HATSTAND_EXPERIMENT", '{"arms": {"hllm": 1, "hatllm": 1}}'),
        ("HATSTAND_EXPERIMENT", '{"name": "", "arms": {"hllm": 1, "hatllm": 1}}'),
        ("HATSTAND_EXPERIMENT", '{"name": "a", "arms": {"hllm": 1}}'),
        ("HATSTAND_EXPERIMENT", '{"name": "a", "arms": {"hllm": 1, "sasrec": 1}}'),
        ("HATSTAND_EXPERIMENT", '{"name": "a", "arms": {"hllm": 1, "hatllm": 0}}'),
        ("HATSTAND_EXPERIMENT", '{"name": "a", "arms": {"hllm": 1, "hatllm": -5}}'),
        ("HATSTAND_EXPERIMENT", '{"name": "a", "arms": {"hllm": 1, "hatllm": 0.5}}'),
        ("HATSTAND_EXPERIMENT", '{"name": "a", "arms": {"hllm": 1, "hatllm": true}}'),
        ("HATSTAND_EXPERIMENT", '{"name": "a", "arms": {"hllm": 1, "hatllm": 1}, "from": 5}'),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_its_name(name: str, value: str) -> None:
    with pytest.raises(InvalidInput, match=name) as refusal:
        load_settings({name: value})
    assert not RAW_WORDS.search(str(refusal.value)), refusal.value


def test_an_experiment_is_read_and_an_empty_one_is_off() -> None:
    settings = load_settings({"HATSTAND_EXPERIMENT": '{"name": "hat-vs-hllm", "arms": {"hllm": 50, "hatllm": 50}}'})
    assert settings.experiment == Experiment(name="hat-vs-hllm", arms={"hllm": 50, "hatllm": 50})
    assert load_settings({"HATSTAND_EXPERIMENT": ""}).experiment is None


def test_origins_and_proxies_are_read() -> None:
    settings = load_settings(
        {
            "HATSTAND_CORS_ORIGINS": '["https://shop.example", "http://localhost:3000"]',
            "HATSTAND_TRUSTED_PROXIES": "10.0.0.0/8, 127.0.0.1,::1",
        }
    )
    assert settings.cors_origins == ("https://shop.example", "http://localhost:3000")
    assert settings.trusted_proxies == "10.0.0.0/8, 127.0.0.1,::1"


def test_an_unknown_variable_with_our_prefix_is_refused() -> None:
    with pytest.raises(InvalidInput, match="unknown setting HATSTAND_STOER; did you mean HATSTAND_STORE"):
        load_settings({"HATSTAND_STOER": "x"})


def test_variables_of_the_tests_and_of_others_are_left_alone() -> None:
    load_settings({"HATSTAND_TEST_DATA": "/data", "PATH": "/bin"})


def test_the_password_of_redis_is_not_shown() -> None:
    assert "secret" not in repr(Settings(redis_url="redis://:secret@host:6379/0"))


@pytest.mark.parametrize(
    ("host", "is_loopback"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("shop", False)],
)
def test_only_loopback_counts_as_this_machine(host: str, is_loopback: bool) -> None:
    assert Settings(host=host).is_loopback is is_loopback
