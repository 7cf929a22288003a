"""The commands that README.md and docs/*.md show: found in their blocks, and taken apart."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
SHELL = ("bash", "console", "sh", "shell")

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
_INLINE = re.compile(r"`((?:\.venv/bin/)?python -m [^`]+|torchrun [^`]+|make [a-z]+)`")
_ASSIGNMENT = re.compile(r"[A-Z][A-Z0-9_]*=.*", re.DOTALL)
_OPERATORS = ("&&", "||", ";", "|")


@dataclass(frozen=True)
class Command:
    """One simple command.

    Attributes:
        document: Where it stands.
        text: The line that it is of, continuation lines joined.
        variables: What is set for it alone.
        words: The command and its arguments, without comments.
    """

    document: str
    text: str
    variables: tuple[tuple[str, str], ...]
    words: tuple[str, ...]

    @property
    def program(self) -> str:
        return self.words[0].removeprefix(".venv/bin/") if self.words else ""

    def __str__(self) -> str:
        return f"{self.document}: {' '.join(self.words) or self.text}"


def blocks(path: Path) -> list[tuple[str, str]]:
    """Language and content of each block of a document."""
    return _BLOCK.findall(path.read_text())


def shell_lines(path: Path) -> Iterator[str]:
    """Each whole command line of a document's shell blocks; a here-document stays with its command."""
    for language, content in blocks(path):
        if language in SHELL:
            yield from _lines(content)


def commands(path: Path) -> Iterator[Command]:
    """Each simple command of a document's shell blocks."""
    for line in shell_lines(path):
        yield from _parts(path, line)


def inline_commands(path: Path) -> Iterator[Command]:
    """Commands within the text, between backticks."""
    text = _BLOCK.sub("", path.read_text())
    for found in _INLINE.finditer(text):
        yield from _parts(path, re.sub(r"\s+", " ", found[1]))


def _lines(content: str) -> Iterator[str]:
    lines = iter(content.replace("\\\n", " ").splitlines())
    for line in lines:
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        found = re.search(r"<<'(\w+)'", line)
        if not found:
            yield line.strip()
            continue
        document = [line]
        for more in lines:
            document.append(more)
            if more == found[1]:
                break
        yield "\n".join(document)


def _parts(path: Path, line: str) -> Iterator[Command]:
    if "<<'" in line:
        yield Command(path.name, line, (), tuple(shlex.split(line.splitlines()[0], comments=True)))
        return
    if "$(" in line:
        # the shell must take it apart
        yield Command(path.name, line, (), ())
        return
    words: list[str] = []
    for word in [*shlex.split(line, comments=True), ";"]:
        if word not in _OPERATORS:
            words.append(word)
            continue
        if words:
            yield _command(path, line, words)
        words = []


def _command(path: Path, line: str, words: list[str]) -> Command:
    variables: list[tuple[str, str]] = []
    while words and _ASSIGNMENT.fullmatch(words[0]):
        name, _, value = words[0].partition("=")
        variables.append((name, value))
        words = words[1:]
    return Command(path.name, line, tuple(variables), tuple(words))
