"""What the service says once it listens."""

import logging

import pytest

from service.settings import Settings
from service.workers.announcement import announce


def test_it_names_the_console_and_an_example(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        announce(Settings(store="shop"), "http://127.0.0.1:8000", '{"history": ["i1"], "k": 5}')
    assert "the console: http://127.0.0.1:8000/" in caplog.text
    assert "curl -s http://127.0.0.1:8000/recommend" in caplog.text
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


def test_a_store_without_a_bundle_is_a_warning_that_names_the_store(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        announce(Settings(store="nope"), "http://127.0.0.1:8000", None)
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert "no bundle is live in nope" in warning
    assert "HATSTAND_STORE" in warning
