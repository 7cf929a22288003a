"""What all batch jobs share: one-line errors, progress, and a JSON line as the last output."""

import json
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import typer
from tqdm import tqdm

from model_store.errors import HatstandError

T = TypeVar("T")

LOGGER = logging.getLogger(__name__)
_EXIT_BAD_INPUT = 2
_PLAIN_PROGRESS_SECONDS = 10.0


def run(app: Callable[[], Any]) -> None:
    """Runs a typer application as a process: bad input ends as one line on stderr and exit code 2.

    Args:
        app: The typer application of the job.
    """
    logging.basicConfig(
        level=os.environ.get("HATSTAND_LOG_LEVEL", "INFO"),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    try:
        app()
    except HatstandError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(_EXIT_BAD_INPUT)
    except BrokenPipeError:
        sys.exit(_EXIT_BAD_INPUT)


def report(figures: dict[str, Any]) -> None:
    """Prints the job's result: one JSON object on the last line of standard output."""
    typer.echo(json.dumps(figures, default=str))


def progress(items: Iterable[T], *, description: str, total: int | None = None, unit: str = "it") -> Iterator[T]:
    """Iterates with a progress bar on a terminal and a plain line every ten seconds elsewhere.

    Args:
        items: What to iterate over.
        description: Shown before the bar.
        total: Number of items where ``items`` has no length.
        unit: Name of one item.
    """
    is_terminal = sys.stderr.isatty()
    yield from tqdm(
        items,
        desc=description,
        total=total,
        unit=unit,
        file=sys.stderr,
        mininterval=0.1 if is_terminal else _PLAIN_PROGRESS_SECONDS,
        maxinterval=10.0 if is_terminal else _PLAIN_PROGRESS_SECONDS * 2,
        ascii=not is_terminal,
        dynamic_ncols=is_terminal,
    )
