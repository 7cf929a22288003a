"""Filters as trees, and their evaluation to bitmaps: leaves once per bundle, trees once per request.

A bitmap is packed: (ceil(N / 8),) uint8, bit ``row % 8`` (the lowest first) of byte ``row // 8``; bits beyond N are 0.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import reduce

import numpy as np

from model_store.catalogue.catalogue import Catalogue
from service.engine.served_bundle import MaskCache
from service.recommend.candidates.attributes import Bounds, Value, has_value, matches


@dataclass(frozen=True, slots=True)
class Match:
    """A value of the attribute, or one element of it, is among ``any_of`` and within the bounds.

    Attributes:
        attribute: Of the catalogue.
        any_of: The values that are allowed; None allows all.
        gte: The smallest value allowed.
        lte: The largest value allowed.
        gt: The value is more than this.
        lt: The value is less than this.
        path: Where it was sent, for errors.
    """

    attribute: str
    any_of: tuple[Value, ...] | None = None
    gte: Value | None = None
    lte: Value | None = None
    gt: Value | None = None
    lt: Value | None = None
    path: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Exists:
    """The attribute has a value: neither null nor NaN, nor a list without one."""

    attribute: str
    path: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class All:
    """All parts hold; without parts everything passes."""

    parts: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class Either:
    """One of the parts, of which there is at least one, holds."""

    parts: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class Not:
    """The part does not hold. An item without a value passes where the part needs one."""

    part: "Node"


Leaf = Match | Exists
Node = Leaf | All | Either | Not


def condition(
    attribute: str,
    *,
    any_of: tuple[Value, ...] | None = None,
    none_of: tuple[Value, ...] | None = None,
    gte: Value | None = None,
    lte: Value | None = None,
    gt: Value | None = None,
    lt: Value | None = None,
    exists: bool | None = None,
    path: str = "",
) -> Node:
    """What one attribute must be, as a tree; all that is given must hold."""
    parts: list[Node] = []
    if any(part is not None for part in (any_of, gte, lte, gt, lt)):
        parts.append(Match(attribute, any_of, gte, lte, gt, lt, path))
    if none_of is not None:
        parts.append(Not(Match(attribute, none_of, path=path)))
    if exists is not None:
        is_there = Exists(attribute, path)
        parts.append(is_there if exists else Not(is_there))
    return parts[0] if len(parts) == 1 else All(tuple(parts))


def leaves(node: Node) -> Iterator[Leaf]:
    """All leaves of a tree, in the order of the tree."""
    if isinstance(node, Match | Exists):
        yield node
    else:
        for part in (node.part,) if isinstance(node, Not) else node.parts:
            yield from leaves(part)


def evaluate(node: Node, catalogue: Catalogue, cache: MaskCache) -> np.ndarray:
    """Which items pass.

    Args:
        node: The filter; its attributes are the catalogue's.
        catalogue: Whose items.
        cache: Keeps the bitmaps of leaves, of this catalogue only.

    Returns:
        (ceil(N / 8),) uint8 bitmap; do not write to it.

    Raises:
        InvalidRequest: A value that cannot be compared with its attribute.
    """
    if isinstance(node, Match | Exists):
        return cache.get(_key(node), lambda: pack(_leaf(node, catalogue)))
    if isinstance(node, Not):
        return ~evaluate(node.part, catalogue, cache) & _everything(len(catalogue))
    parts = [evaluate(part, catalogue, cache) for part in node.parts]
    if isinstance(node, Either):
        return reduce(np.bitwise_or, parts)
    return reduce(np.bitwise_and, parts, _everything(len(catalogue)))


def pack(mask: np.ndarray) -> np.ndarray:
    """(N,) bool as a bitmap."""
    return np.packbits(mask, bitorder="little")


def unpack(bits: np.ndarray, num_items: int) -> np.ndarray:
    """A bitmap as (N,) bool, the caller's own."""
    return np.unpackbits(bits, count=num_items, bitorder="little").view(bool)


def _everything(num_items: int) -> np.ndarray:
    bits = np.full((num_items + 7) // 8, 0xFF, dtype=np.uint8)
    if num_items % 8:
        bits[-1] = (1 << num_items % 8) - 1
    return bits


def _leaf(leaf: Leaf, catalogue: Catalogue) -> np.ndarray:
    if isinstance(leaf, Exists):
        return has_value(catalogue, leaf.attribute)
    bounds = Bounds(gte=leaf.gte, lte=leaf.lte, gt=leaf.gt, lt=leaf.lt)
    return matches(catalogue, leaf.attribute, any_of=leaf.any_of, bounds=bounds, path=leaf.path)


def _key(leaf: Leaf) -> bytes:
    # By text: as values 1, 1.0 and True are equal, but as conditions they are not. One order for the same set, and
    # a hash, as a thousand long values must not stay in memory as a key.
    if isinstance(leaf, Exists):
        text = f"exists {leaf.attribute!r}"
    else:
        values = None if leaf.any_of is None else sorted({repr(value) for value in leaf.any_of})
        text = f"match {leaf.attribute!r} {values} {leaf.gte!r} {leaf.lte!r} {leaf.gt!r} {leaf.lt!r}"
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
