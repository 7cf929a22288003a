"""Routes whose own words must stand in the path as they are written, so that an id may be any text."""

from fastapi.routing import APIRoute
from starlette.routing import Match
from starlette.types import Scope


class LiteralRoute(APIRoute):
    """``/items/a%2Fsimilar`` is the item ``a/similar``; ``/items/a/similar`` are the neighbours of ``a``.

    The path that routes are compared with is decoded already, and both would be the same.
    """

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Compares the end of the undecoded path with what follows the last parameter."""
        _, parameter, ending = self.path.rpartition("}")
        if parameter and not scope.get("raw_path", b"").endswith(ending.encode()):
            return Match.NONE, {}
        return super().matches(scope)
