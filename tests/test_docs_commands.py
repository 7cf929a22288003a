"""Every command that the documentation shows is one that works: run, or taken apart and compared with what there is."""

import importlib
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from service.settings import Settings, load_settings
from tests.docs_commands import DOCUMENTS, ROOT, SHELL, Command, blocks, commands, inline_commands, shell_lines
from tests.shop import both_root, redis_server, running_app, shop_root  # noqa: F401 - fixtures

SHOWN = [command for path in DOCUMENTS for command in commands(path)]
INLINE = [command for path in DOCUMENTS for command in inline_commands(path)]
PACKAGES = ("offline", "benchmarks", "service")
# program -> why it cannot run in a test; what can be checked of it is
CANNOT_RUN = {
    "apt-get": "changes the machine",
    "torchrun": "starts processes for hours; its command is checked",
    "docker": "needs an engine; what it names, and the commands in it, are checked",
    "make": "installs, or runs everything; its target is checked",
}
# They only compute something, and are run as they stand.
HARMLESS = {"printf", "sha256sum", "cat", "KEY", "MINILM"}


def _ids(command: Command) -> str:
    return str(command)[:90]


def _check(command: Command) -> None:
    """Fails unless the command is one that there is."""
    for name, _ in command.variables:
        assert name.startswith("HATSTAND_"), f"{name} is no setting"
        assert name.removeprefix("HATSTAND_").lower() in Settings.model_fields, name
    program = command.program
    if not command.words:
        name = command.text.partition("=")[0]
        assert name in HARMLESS, command
    elif program in {"python", "python3", "torchrun"}:
        _check_python(list(command.words[1:]), command)
    elif program == "pip":
        _check_pip(list(command.words[1:]))
    elif program == "curl":
        _curl(command)
    elif program == "docker":
        _check_docker(list(command.words[1:]), command)
    elif program == "make":
        _check_target(command.words[1])
    else:
        assert program in HARMLESS | CANNOT_RUN.keys(), f"{command}: not run, not checked, and no reason why"


def _check_python(words: list[str], command: Command) -> None:
    if words[0] == "-":
        return  # run by the tests of docs/first-hour.md
    while words[0] != "-m":  # of torchrun
        words = words[1:]
    module, *arguments = words[1:]
    if module == "pip":
        _check_pip(arguments)
    elif module == "pytest":
        assert all((ROOT / one).exists() for one in arguments if "/" in one)
    elif module == "service":
        assert not arguments
        load_settings({})
    else:
        assert module.split(".")[0] in PACKAGES, command
        # within a sentence the name alone is a mention
        is_mention = command in INLINE and not arguments
        _check_options(module, ["..."] if is_mention else arguments)


def _check_options(module: str, arguments: list[str]) -> None:
    """Parses the arguments as the command would, without running it."""
    module = "service.decisions.replay" if module == "offline.replay" else module
    app = getattr(importlib.import_module(module), "app", None)
    if not isinstance(app, typer.Typer):
        done = subprocess.run([sys.executable, "-m", module, "--help"], capture_output=True, text=True, check=True)
        assert all(one.split("=")[0] in done.stdout for one in arguments if one.startswith("--"))
        return
    found: Any = typer.main.get_command(app)
    # "..." stands for the rest
    is_part = "..." in arguments
    given = [one for one in arguments if one != "..."]
    try:
        context = found.make_context(module, list(given), resilient_parsing=is_part and not given)
        while hasattr(found, "resolve_command"):
            name, found, rest = found.resolve_command(context, [*context._protected_args, *context.args])
            assert found is not None, name
            context = found.make_context(name, list(rest), parent=context, resilient_parsing=is_part)
    except typer.Exit as end:  # --help
        assert not end.exit_code  # noqa: PT017 - another one is a failure to say so
    except Exception as error:
        pytest.fail(f"{module} {shlex.join(arguments)}: {getattr(error, 'message', None) or error!r}")


def _check_pip(words: list[str]) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    if words[-1] == "./clients/python":
        assert (ROOT / words[-1] / "pyproject.toml").is_file()
        return
    wanted = re.findall(r"\.\[([\w,-]+)\]", " ".join(words))
    assert wanted
    assert {one for group in wanted for one in group.split(",")} <= set(extras)


def _check_target(name: str) -> None:
    assert re.search(rf"^{name}:", (ROOT / "Makefile").read_text(), re.MULTILINE), name


def _check_docker(words: list[str], command: Command) -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    profiles = {name for one in compose.values() for name in one.get("profiles", ())}
    assert {words[at + 1] for at, word in enumerate(words) if word == "--profile"} <= profiles, command
    if words[0] == "compose":
        verb = next(word for word in words[1:] if word in {"up", "down", "run", "kill", "build", "restart"})
        named = {word for word in words[words.index(verb) + 1 :] if word.startswith("service") or word == "builder"}
        assert named <= set(compose), command
    elif words[0] == "build":
        assert (ROOT / words[words.index("-f") + 1]).is_file()
        declared = set(re.findall(r"^ARG (\w+)", (ROOT / "deploy/Dockerfile").read_text(), re.MULTILINE))
        given = {words[at + 1].partition("=")[0] for at, word in enumerate(words) if word == "--build-arg"}
        assert given <= declared
    for at, word in enumerate(words):
        if word == "-e":
            assert words[at + 1].partition("=")[0].removeprefix("HATSTAND_").lower() in Settings.model_fields
        if word == "python":
            _check_python(words[at + 1 :], command)


def _curl(command: Command) -> tuple[str, str, dict[str, str], str | None]:
    """Method, path, headers and body."""
    method, path, headers, body = "", "", {}, None
    words = iter(command.words[1:])
    for word in words:
        if word == "-X":
            method = next(words)
        elif word == "-H":
            name, _, value = next(words).partition(":")
            headers[name] = value.strip()
        elif word == "-d":
            body = next(words)
            json.loads(body)
        elif word != "-s":
            found = re.fullmatch(r"(?:http://)?(?:127\.0\.0\.1|localhost):8000(/.*)", word)
            assert found, f"{command}: what is {word!r}?"
            path = found[1]
    return method or ("GET" if body is None else "POST"), path, headers, body


@pytest.mark.parametrize("command", [*SHOWN, *INLINE], ids=_ids)
def test_the_command_is_one_that_there_is(command: Command) -> None:
    _check(command)


def test_there_are_commands_and_each_document_writes_them_where_they_are_found() -> None:
    assert len(SHOWN) > 40
    for path in DOCUMENTS:
        for language, content in blocks(path):
            if language not in SHELL:
                assert not re.search(
                    r"^(\$ |curl |make |docker |python |\.venv/|HATSTAND_\w+=[^\s{]+ \S)", content, re.M
                ), f"{path.name}: a block of commands is marked as {language or 'nothing'}, not as bash"


async def test_every_request_is_answered(both_root: Path, redis_server: Any, tmp_path: Path) -> None:  # noqa: F811
    scenario = tmp_path / "scenarios.yaml"
    scenario.write_text("scenarios: {home: {diversity: 0.1}}")
    settings = Settings(store=str(both_root), redis_url=redis_server.url, torch_threads=1, scenarios=scenario)
    # those of the first hour are sent to the shop that it makes: test_first_hour.py
    asked = [one for one in SHOWN if one.program == "curl" and one.document != "first-hour.md"]
    assert len(asked) > 5
    async with running_app(settings) as (_, client):
        for command in asked:
            method, path, headers, body = _curl(command)
            answer = await client.request(method, path, headers=headers, content=body)
            assert 200 <= answer.status_code < 300, f"{command}: {answer.text}"


def test_what_only_computes_something_runs(tmp_path: Path) -> None:
    for path in DOCUMENTS:
        lines = [line for line in shell_lines(path) if line.partition("=")[0] in HARMLESS or line.startswith("printf")]
        if not lines:
            continue
        script = "\n".join(lines).replace(".venv/bin/python", shlex.quote(sys.executable))
        subprocess.run(["bash", "-euc", script], cwd=tmp_path, check=True, capture_output=True, env=dict(os.environ))
