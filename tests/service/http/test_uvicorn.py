"""The protocol that service/http/connections.py extends is the one that it was written for."""

import tomllib
from importlib.metadata import version
from pathlib import Path

import uvicorn.protocols.http.httptools_impl as implementation

PROJECT = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())


def test_the_installed_version_is_the_one_that_is_pinned() -> None:
    pinned = next(one for one in PROJECT["project"]["dependencies"] if one.startswith("uvicorn"))
    assert pinned == f"uvicorn=={version('uvicorn')}"


def test_it_has_what_the_subclass_overrides_and_reads() -> None:
    inside = dir(implementation.HttpToolsProtocol)
    for name in ("on_message_begin", "on_url", "on_header", "on_headers_complete", "on_message_complete"):
        assert name in inside
    assert "send_400_response" in inside
