"""Dataclasses as JSON values and back: an object is its fields and, under ``_``, the name of its class.

So a tree of several classes keeps what it is. Sequences come back as tuples.
"""

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

_CLASS = "_"


def to_plain(value: Any) -> Any:
    """A value of dataclasses, sequences, mappings by text, text and numbers, without its fields that are defaults."""
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if is_dataclass(value) and not isinstance(value, type):
        plain = {_CLASS: type(value).__name__}
        for one in fields(value):
            content = getattr(value, one.name)
            if one.default is MISSING or content != one.default or type(content) is not type(one.default):
                plain[one.name] = to_plain(content)
        return plain
    if isinstance(value, Mapping):
        return {str(name): to_plain(content) for name, content in value.items()}
    if isinstance(value, Iterable):
        return [to_plain(content) for content in value]
    raise TypeError(f"a {type(value).__name__} cannot be written down")


def from_plain(plain: Any, classes: Mapping[str, type]) -> Any:
    """Undoes ``to_plain``.

    Args:
        plain: What it made.
        classes: The dataclasses that may be in it, by name.

    Raises:
        ValueError: Another class, or other fields than it has.
    """
    if isinstance(plain, list | tuple):
        return tuple(from_plain(content, classes) for content in plain)
    if not isinstance(plain, dict):
        return plain
    content = {name: from_plain(value, classes) for name, value in plain.items() if name != _CLASS}
    if _CLASS not in plain:
        return content
    wanted = classes.get(plain[_CLASS])
    if wanted is None:
        raise ValueError(f"no class {plain[_CLASS]!r} is known here")
    try:
        return wanted(**content)
    except TypeError as error:
        raise ValueError(f"{plain[_CLASS]} has other fields here: {error}") from error
