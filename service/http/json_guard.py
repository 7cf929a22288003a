"""What Python's JSON parser takes and JSON has not: endless nesting, NaN and Infinity. Refused before it is parsed."""

import re

import numpy as np

# Possessive, so that no text makes it look back; the last quote may be missing.
_STRINGS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_NO_NUMBER = re.compile(rb"NaN|Infinity")
_KEPT = b"[]{}"
_DROPPED = bytes(set(range(256)) - set(_KEPT))
_STEP = np.zeros(256, dtype=np.int8)
_STEP[list(b"[{")] = 1
_STEP[list(b"]}")] = -1


def json_problem(body: bytes, *, max_depth: int) -> str | None:
    """Why a body is refused before anybody parses it, or None; whether it is JSON at all, the parser will say.

    Args:
        body: All of it.
        max_depth: Objects and lists within each other.
    """
    may_be_deep = body.count(b"[") + body.count(b"{") > max_depth
    may_be_no_number = _NO_NUMBER.search(body) is not None
    if not (may_be_deep or may_be_no_number):
        return None
    # Outside of strings; inside them, everything is text.
    bare = _STRINGS.sub(b"", body)
    if may_be_no_number and (found := _NO_NUMBER.search(bare)):
        return f"the body is not JSON: it has no {found[0].decode()}"
    brackets = np.frombuffer(bare.translate(None, _DROPPED), dtype=np.uint8)
    depth = int(_STEP[brackets].cumsum(dtype=np.int32).max(initial=0))
    if depth > max_depth:
        return f"the body is nested {depth} deep, expected at most {max_depth}"
    return None
