"""The image: what can be chosen when it is built, who it runs as, and how it is probed."""

import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")


def _instructions() -> list[tuple[str, str]]:
    """Instructions as (name, arguments), in order, with continuation lines joined."""
    lines = [line for line in DOCKERFILE.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    pairs = (line.split(maxsplit=1) for line in joined.splitlines())
    return [(name.upper(), arguments) for name, arguments in pairs]


def _arguments_of(name: str) -> list[str]:
    return [arguments for instruction, arguments in _instructions() if instruction == name]


def test_no_syntax_line_and_no_digest_pins() -> None:
    assert not re.search(r"^#\s*(syntax|check)\s*=", DOCKERFILE, re.MULTILINE)
    assert "@sha256:" not in DOCKERFILE


def test_stages_share_one_base_image_that_can_be_replaced() -> None:
    stages = _arguments_of("FROM")

    assert stages == ["${BASE_IMAGE} AS dependencies", "dependencies AS builder", "${BASE_IMAGE} AS runtime"]
    assert _instructions()[0] == ("ARG", "BASE_IMAGE=python:3.11-slim")


def test_torch_and_faiss_can_be_chosen_when_building() -> None:
    defaults = dict(argument.split("=", 1) for argument in _arguments_of("ARG"))

    assert defaults["TORCH_REQUIREMENT"] == '"torch==2.13.0"'
    assert defaults["EXTRAS"] == defaults["TORCH_INDEX_URL"] == '""'
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    assert shlex.split(defaults["FAISS_REQUIREMENT"])[0] in dependencies


def test_torch_is_installed_before_the_project() -> None:
    installs = [arguments for arguments in _arguments_of("RUN") if "pip install" in arguments]

    assert "$TORCH_REQUIREMENT" in installs[0]
    assert all("$TORCH_REQUIREMENT" not in arguments for arguments in installs[1:])


def test_runs_as_a_fixed_unprivileged_user() -> None:
    user = _arguments_of("USER")

    assert user == ["10001:10001"]
    assert _instructions().index(("USER", "10001:10001")) > _instructions().index(("FROM", "${BASE_IMAGE} AS runtime"))


def test_starts_the_service_in_exec_form() -> None:
    assert json.loads(_arguments_of("CMD")[0]) == ["python", "-m", "service"]
    assert not _arguments_of("ENTRYPOINT")


def test_health_check_is_python_and_compiles() -> None:
    _, command = _arguments_of("HEALTHCHECK")[0].split("CMD ", 1)
    program, flag, code = json.loads(command)

    assert (program, flag) == ("python", "-c")
    compile(code, "healthcheck", "exec")
    assert "/readyz" in code
    assert not re.search(r"\b(curl|wget)\b", DOCKERFILE)


@pytest.mark.parametrize("label", ["title", "description", "licenses", "version", "revision"])
def test_carries_oci_labels(label: str) -> None:
    assert f"org.opencontainers.image.{label}=" in _arguments_of("LABEL")[0]


def test_version_is_the_projects() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]

    assert f"VERSION={version}" in _arguments_of("ARG")


def test_everything_that_is_copied_is_let_in_by_dockerignore() -> None:
    ignore = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    copied = [word for words in _arguments_of("COPY") if "--from" not in words for word in words.split()[:-1]]

    assert "*" in ignore
    for name in copied:
        assert f"!{name}" in ignore
        assert (ROOT / name).exists()
