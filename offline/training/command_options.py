"""The options of a training command: the fields of its settings, their help the docstrings' own words."""

import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, fields
from typing import Annotated, Any, TypeVar, get_type_hints

import typer

from offline.training.run_settings import RunSettings

_TEXT_FIELDS = "text_fields"
# options whose name is a word of Python's own
_NAMES = {"start_from": "--from"}
S = TypeVar("S", bound=RunSettings)


def settings_command(settings_type: type[S], run: Callable[[S], None]) -> Callable[..., None]:
    """A function that Typer makes a command of: each field of the settings is an option.

    Args:
        settings_type: A dataclass; ``text_fields`` becomes ``--text-field``, which may be repeated.
        run: Is given the settings.
    """

    def command(**options: Any) -> None:
        run(settings_type(**{**options, _TEXT_FIELDS: tuple(options[_TEXT_FIELDS])}))

    hints, texts = get_type_hints(settings_type), _attribute_texts(settings_type)
    # a dataclass lists the fields of its base first
    parameters = [_parameter(field, hints[field.name], texts[field.name]) for field in fields(settings_type)]
    setattr(command, "__signature__", inspect.Signature(parameters))  # noqa: B010 (a function has no such attribute)
    command.__name__ = settings_type.kind
    return command


def parse_settings(settings_type: type[S], arguments: Sequence[str]) -> S:
    """The settings that the training command would have with these arguments.

    Raises:
        InvalidInput: A value is not allowed.
    """
    parsed: list[S] = []
    app = typer.Typer(add_completion=False)
    app.command()(settings_command(settings_type, parsed.append))
    app(list(arguments), standalone_mode=False)
    return parsed[0]


def _parameter(field: "Field[Any]", hint: Any, text: str) -> inspect.Parameter:
    panel = "Every kind of model" if field.name in RunSettings.__dataclass_fields__ else "This kind of model"
    names, default = [_NAMES[field.name]] if field.name in _NAMES else [], field.default
    if field.name == _TEXT_FIELDS:
        names, hint, default = ["--text-field"], list[str], []
    option = typer.Option(*names, help=text, rich_help_panel=panel)
    return inspect.Parameter(
        field.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if default is MISSING else default,
        annotation=Annotated[hint, option],
    )


def _attribute_texts(settings_type: type) -> dict[str, str]:
    """What the docstrings of a class and its bases say of each attribute; the class's own words go first."""
    texts: dict[str, str] = {}
    for one in reversed(settings_type.__mro__):
        _, _, attributes = inspect.cleandoc(one.__doc__ or "").partition("Attributes:\n")
        for name, text in re.findall(r"^    (\w+): (.*(?:\n        .*)*)", attributes, re.MULTILINE):
            texts[name] = " ".join(text.replace("``", "").split())
    return texts
