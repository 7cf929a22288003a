"""API keys: only their hashes are configured, and they are compared in constant time. And how often each may ask."""

import hashlib
import hmac
import logging
import math
from collections.abc import Awaitable, Callable, Sequence

from fastapi import Request

from service.errors import Forbidden, RateLimited, Unauthorized
from service.http.rate_limits import LocalTurns, Rate, RateLimits, caller_of_address, rate_of
from service.metrics.metrics import Metrics
from service.settings import ApiKey, Scope, Settings

LOGGER = logging.getLogger(__name__)

_BEARER = "bearer "


class Authenticator:
    """Knows the keys, and how often each may ask.

    Args:
        settings: With the configured keys; with none, everybody may do everything (the settings see to it that
            this is meant).
        metrics: For counting.
    """

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._keys: Sequence[ApiKey] = settings.api_keys
        self._metrics = metrics
        self._burst = settings.rate_limit_burst
        self._per_minute = settings.rate_limit_per_minute
        self._anonymous = rate_of(settings.rate_limit_anonymous_per_minute, settings.rate_limit_burst)
        self._failures = Rate(settings.auth_failures_per_minute, settings.auth_failures_per_minute)
        self._failed = LocalTurns()

    def check(self, presented: str | None, scope: Scope, *, address: str | None = None) -> ApiKey | None:
        """Lets a request pass.

        Args:
            presented: The key that came with it.
            scope: What it wants to do.
            address: Where it came from.

        Returns:
            The key; None where none is configured.

        Raises:
            Unauthorized: No key, or an unknown one.
            RateLimited: An unknown one, after many others from this address.
            Forbidden: The key is not for this.
        """
        if not self._keys:
            return None
        if presented is None:
            self._metrics.http.auth_failed("missing")
            raise Unauthorized("expected an API key: Authorization: Bearer <key>, or X-API-Key: <key>")
        digest = hashlib.sha256(presented.encode("utf-8", "surrogateescape")).hexdigest()
        # Every key is compared, so that the time does not tell which one came close.
        matching = [key for key in self._keys if hmac.compare_digest(key.sha256, digest)]
        if not matching:
            self._refuse_stranger(address)
        able = next((key for key in matching if scope in key.scopes), None)
        if able is None:
            self._metrics.http.auth_failed("scope")
            raise Forbidden(f"the API key {matching[0].name!r} does not have the scope {scope!r}")
        return able

    async def count(self, key: ApiKey | None, limits: RateLimits, *, address: str | None) -> dict[str, str]:
        """Counts a request against its key, or its address.

        Returns:
            Headers for the answer, that say how many are left; none where there is no limit.

        Raises:
            RateLimited: There were too many.
        """
        if key is None:
            rate = self._anonymous
        else:
            per_minute = self._per_minute if key.requests_per_minute is None else key.requests_per_minute
            rate = rate_of(per_minute, self._burst)
        if rate is None:
            return {}
        turn = await limits.take(caller_of_address(address) if key is None else f"key:{key.sha256}", rate)
        headers = dict(turn.headers(rate))
        if not turn.may_pass:
            self._metrics.http.rate_limited("address" if key is None else "key")
            raise RateLimited(
                f"more than {rate.per_minute} requests a minute ({rate.burst} at once)",
                retry_after_seconds=max(math.ceil(turn.wait_seconds), 1),
                headers=headers,
            )
        return headers

    def _refuse_stranger(self, address: str | None) -> None:
        self._metrics.http.auth_failed("unknown")
        turn = self._failed.take(caller_of_address(address), self._failures)
        if not turn.may_pass:
            self._metrics.http.rate_limited("failures")
            raise RateLimited(
                "too many unknown API keys came from this address",
                code="too_many_failures",
                retry_after_seconds=max(math.ceil(turn.wait_seconds), 1),
            )
        raise Unauthorized("unknown API key")


def require(scope: Scope) -> Callable[[Request], Awaitable[None]]:
    """A dependency that lets only keys with this scope pass, as often as they may."""

    async def check_key(request: Request) -> None:
        authenticator: Authenticator = request.app.state.authenticator
        address = request.client.host if request.client else None
        key = authenticator.check(_presented(request), scope, address=address)
        request.state.key_name = None if key is None else key.name
        request.state.is_admin = key is None or "admin" in key.scopes
        limits: RateLimits = request.app.state.service.rate_limits
        request.state.headers = await authenticator.count(key, limits, address=address)

    return check_key


def _presented(request: Request) -> str | None:
    authorization = request.headers.get("authorization", "")
    if authorization.lower().startswith(_BEARER):
        return authorization[len(_BEARER) :].strip()
    return request.headers.get("x-api-key")
