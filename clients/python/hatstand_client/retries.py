"""When a request is sent again: every request of this client may be, as none does more when it arrives twice."""

from dataclasses import dataclass
from typing import Any

from tenacity import RetryCallState, retry_if_exception, stop_after_attempt, stop_any, stop_before_delay
from tenacity.wait import wait_random_exponential

from hatstand_client.errors import ConnectionFailed, TooManyRequests, Unavailable

_BACK_OFF = wait_random_exponential(multiplier=0.2, max=30)


def is_passing(error: BaseException) -> bool:
    """Whether the same request may be answered a little later: no connection, 429, 502 or 503."""
    return isinstance(error, ConnectionFailed | TooManyRequests | Unavailable)


def seconds_to_wait(state: RetryCallState) -> float:
    """What ``Retry-After`` says, and up to a second more so that callers spread; without it a growing back-off."""
    back_off = _BACK_OFF(state)
    error = state.outcome.exception() if state.outcome else None
    wished = error.retry_after_seconds if isinstance(error, TooManyRequests | Unavailable) else None
    return back_off if wished is None else wished + min(back_off, 1.0)


@dataclass(frozen=True)
class Retries:
    """How often a request is sent when it cannot be answered now.

    Attributes:
        max_attempts: With the first one.
        max_seconds: No attempt begins later than this after the first; a ``Retry-After`` beyond it ends the call.
    """

    max_attempts: int = 4
    max_seconds: float = 30.0

    def policy(self) -> dict[str, Any]:
        """The arguments of tenacity's Retrying and AsyncRetrying."""
        return {
            "retry": retry_if_exception(is_passing),
            "wait": seconds_to_wait,
            "stop": stop_any(stop_after_attempt(self.max_attempts), stop_before_delay(self.max_seconds)),
            "reraise": True,
        }
