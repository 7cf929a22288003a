"""API keys: only their hashes are configured, and they are compared in constant time."""

import hashlib
import hmac
import logging
from collections.abc import Awaitable, Callable, Sequence

from fastapi import Request

from service.errors import Forbidden, Unauthorized
from service.settings import ApiKey, Scope

LOGGER = logging.getLogger(__name__)

_BEARER = "bearer "


class Authenticator:
    """Knows the keys.

    Args:
        keys: Configured keys; with none, everybody may do everything (the settings see to it that this is
            meant).
    """

    def __init__(self, keys: Sequence[ApiKey]) -> None:
        self._keys = keys

    def check(self, presented: str | None, scope: Scope) -> None:
        """Lets a request pass.

        Args:
            presented: The key that came with it.
            scope: What it wants to do.

        Raises:
            Unauthorized: No key, or an unknown one.
            Forbidden: The key is not for this.
        """
        if not self._keys:
            return
        if presented is None:
            raise Unauthorized("expected an API key: Authorization: Bearer <key>, or X-API-Key: <key>")
        digest = hashlib.sha256(presented.encode("utf-8", "surrogateescape")).hexdigest()
        # Every key is compared, so that the time does not tell which one came close.
        matching = [key for key in self._keys if hmac.compare_digest(key.sha256, digest)]
        if not matching:
            raise Unauthorized("unknown API key")
        if not any(scope in key.scopes for key in matching):
            raise Forbidden(f"the API key {matching[0].name!r} does not have the scope {scope!r}")


def require(scope: Scope) -> Callable[[Request], Awaitable[None]]:
    """A dependency that lets only keys with this scope pass."""

    async def check_key(request: Request) -> None:
        authenticator: Authenticator = request.app.state.authenticator
        authenticator.check(_presented(request), scope)

    return check_key


def _presented(request: Request) -> str | None:
    authorization = request.headers.get("authorization", "")
    if authorization.lower().startswith(_BEARER):
        return authorization[len(_BEARER) :].strip()
    return request.headers.get("x-api-key")
