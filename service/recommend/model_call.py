"""Asking the model: to generate, to encode, to explain; each within its time, and with a reason where it fails.

The embedding of a history that has not changed is not made again. One that comes too late for its request is kept for
the next one.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from typing import Any, Literal, TypeVar

import numpy as np

from model_store.encoding import ExplainsByAttention
from model_store.people.histories import History
from model_store.people.owner import Owner
from service.errors import DeadlineExceeded, InvalidRequest, ModelUnavailable, Overloaded, ServiceError
from service.people.embeddings import fingerprint
from service.people.remembered import LastKnown, owners_of
from service.recommend.deadline import POPULAR, SEARCH, StepTimes
from service.recommend.protocols import BlockingRunner, EncodedUser, ModelQueue
from service.recommend.ranking.answering import DIVERSITY_POOL, ModelView
from service.recommend.ranking.retrieve import Candidates
from service.recommend.trace import Progress

LOGGER = logging.getLogger(__name__)
T = TypeVar("T")

# The most titles that one request may have written, whatever its k and diversity; further items are retrieved. As
# many beams run at once, and everybody else waits for them.
_MAX_GENERATED = 100

_Step = Literal["generate", "model", "explain"]
_Reason = Literal["no_time", "timed_out", "overloaded", "unavailable", "failed"]
_WHAT_FAILED: dict[_Step, str] = {
    "generate": "the model could not write titles",
    "model": "the model could not read this history",
    "explain": "the model could not say why",
}


class _NoAnswer(Exception):
    """A step did not answer.

    Attributes:
        reason: In one word.
        warning: For the caller.
        error: What the request fails with where nothing is to be served instead.
    """

    def __init__(self, reason: _Reason, warning: str, error: ServiceError) -> None:
        super().__init__(reason)
        self.reason = reason
        self.warning = warning
        self.error = error


class ModelAsker:
    """Asks the model of the bundle that answers.

    Args:
        models: Runs all that needs a model.
        run_blocking: Runs what takes long beside the event loop.
        last_known: Keeps embeddings.
        times: What steps take.
        num_erasures: How many users have been erased so far.
        falls_back: Whether a step that does not answer has a next one; else the request fails.
    """

    def __init__(
        self,
        *,
        models: ModelQueue,
        run_blocking: BlockingRunner,
        last_known: LastKnown,
        times: StepTimes,
        num_erasures: Callable[[], int],
        falls_back: bool,
    ) -> None:
        self._models = models
        self._run_blocking = run_blocking
        self._last_known = last_known
        self._times = times
        self._num_erasures = num_erasures
        self._falls_back = falls_back
        self._late: set[asyncio.Task[Any]] = set()  # tasks that nobody refers to may be collected

    async def ask(self, progress: Progress) -> ModelView:
        """What the model makes of the history; what it did not answer is None, and noted with the reason.

        Raises:
            Overloaded, ModelUnavailable, NotReady, DeadlineExceeded: It did not answer, and nothing is to be served
                instead.
        """
        if not progress.is_current:
            progress.note("model", "history_unavailable")
            return ModelView()
        if not len(progress.history.item_indices):
            progress.fall_back("no_known_history")
            progress.note("model", "no_known_history")
            return ModelView()
        generated = await self._generate(progress) if progress.mode == "generate" else None
        user = await self._encode(progress) if _wants_user(progress, generated) else None
        has_answer = generated is not None or user is not None
        attention = await self._explain(progress) if progress.query.explain and has_answer else None
        return ModelView(generated, user, attention)

    async def _generate(self, progress: Progress) -> Candidates | None:
        """Items whose titles the model writes."""
        generator, query = progress.served.generator, progress.query
        assert generator is not None  # or the mode would not have been chosen

        async def generate(until: float) -> Candidates:
            allowed = await self._run_blocking(lambda: progress.admissible.allowed())
            want = min(query.k * DIVERSITY_POOL if query.diversity > 0 else query.k, _MAX_GENERATED, int(allowed.sum()))
            if want == 0:
                return Candidates(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32))
            history, mask = self._owned_history(progress), None if allowed.all() else allowed
            ran = await self._models.run(lambda: generator.recommend(history, want, mask), deadline=until)
            progress.timing.queue += ran.queue_seconds
            progress.timing.encode += ran.run_seconds
            return Candidates(*ran.value)

        return await self._step(progress, "generate", generate)

    async def _encode(self, progress: Progress) -> np.ndarray | None:
        """(D,) float32."""
        served, owner, made_of = progress.served, _owner(progress), fingerprint(progress.history)
        if owner is not None:
            known = self._last_known.embeddings.of(owner, served.bundle_id, made_of)
            if known is not None:
                return known

        async def encode(until: float) -> EncodedUser:
            started = time.perf_counter()
            # In one piece up to the queue: whoever was erased since the history was read must not come back.
            encoded = await self._models.encode(served.encoder, self._owned_history(progress), deadline=until)
            self._times.took(("model", served.kind), time.perf_counter() - started)
            _check_finite(encoded.embedding)
            if owner is not None and self._last_known.num_forgotten == progress.num_forgotten:
                self._last_known.embeddings.keep(owner, served.bundle_id, encoded.embedding, made_of)
            return encoded

        encoded = await self._step(progress, "model", lambda until: self._in_background(encode(until)))
        if encoded is None:
            return None
        progress.timing.queue += encoded.queue_seconds
        progress.timing.encode += encoded.encode_seconds
        return encoded.embedding

    async def _explain(self, progress: Progress) -> np.ndarray | None:
        """(W,) float32, how much each item that was read weighs; None if the encoder does not tell."""
        encoder, history = progress.served.encoder, self._owned_history(progress)
        if not isinstance(encoder, ExplainsByAttention):
            return None

        async def explain(until: float) -> np.ndarray:
            ran = await self._models.run(lambda: encoder.explain(history), deadline=until)
            progress.timing.queue += ran.queue_seconds
            progress.timing.encode += ran.run_seconds
            _check_finite(ran.value)
            return ran.value

        return await self._step(progress, "explain", explain)

    async def _step(self, progress: Progress, step: _Step, ask: Callable[[float], Awaitable[T]]) -> T | None:
        """What a step answers, or None; then the reason is noted, and the caller warned."""
        try:
            return await self._within_time(progress, step, ask)
        except _NoAnswer as failed:
            code = f"{step}_{failed.reason}"
            if step == "explain":  # an answer without reasons is better than none, and is no fallback
                progress.warnings.append(f"{code}: {failed.warning}")
                return None
            if not self._falls_back:
                raise failed.error from failed
            progress.note(step, failed.reason)
            progress.fall_back(code, failed.warning)
            return None

    async def _within_time(self, progress: Progress, step: _Step, ask: Callable[[float], Awaitable[T]]) -> T:
        """Asks, unless it would take longer than there is time.

        Raises:
            InvalidRequest: The request is to blame.
            _NoAnswer: There is no answer, and why.
        """
        kind = progress.served.kind
        key = (step, kind)
        left = progress.deadline.left
        if self._falls_back:
            left -= self._times.reserve(progress.deadline, (SEARCH, kind), (POPULAR, kind))
        expected = self._times.expected(key)
        if self._falls_back and left <= expected:
            raise _no_time(expected, left)
        started = time.perf_counter()
        try:
            async with asyncio.timeout(left):
                answered = await ask(time.monotonic() + left)
        except InvalidRequest:
            raise
        except (TimeoutError, DeadlineExceeded) as error:
            self._times.gave_up(key, time.perf_counter() - started)
            raise _NoAnswer(
                "timed_out", f"no answer within {left * 1_000:.0f} ms", _deadline_exceeded(progress)
            ) from error
        except ServiceError as error:
            reason: _Reason = "overloaded" if isinstance(error, Overloaded) else "unavailable"
            raise _NoAnswer(reason, error.detail, error) from error
        except FloatingPointError as error:
            LOGGER.error("the model failed (%s): %s", step, error)
            raise _NoAnswer("failed", str(error), ModelUnavailable(str(error), code=f"{step}_failed")) from error
        except Exception as error:
            # A boundary: whatever is wrong with the model, the next step answers.
            LOGGER.exception("the model failed (%s)", step)
            warning = _WHAT_FAILED[step]
            raise _NoAnswer("failed", warning, ModelUnavailable(warning, code=f"{step}_failed")) from error
        if step != "model":  # that one measures itself, as it goes on when it is late
            self._times.took(key, time.perf_counter() - started)
        return answered

    def _in_background(self, work: Coroutine[Any, Any, T]) -> Awaitable[T]:
        """Runs to its end even if nobody waits for it any more; the queue drops what has not begun by then."""
        task = asyncio.create_task(work)
        self._late.add(task)
        task.add_done_callback(self._done)
        return asyncio.shield(task)

    def _done(self, task: "asyncio.Task[Any]") -> None:
        self._late.discard(task)
        if not task.cancelled():
            task.exception()  # has been seen: whoever still waits is told by the shield

    def _owned_history(self, progress: Progress) -> History:
        """The history as the model is given it: with its owner, if what it makes of it may be kept.

        Call it right before the model is asked: whoever was erased since the history was read must not come back.
        What an encoder keeps of a session would outlive its merging into a user, so nothing is.
        """
        owner = _owner(progress)
        if owner is None or owner.is_session or self._num_erasures() != progress.num_erasures:
            return progress.history
        return replace(progress.history, owner=owner.hash)


def _check_finite(made: np.ndarray) -> None:
    if not np.isfinite(made).all():
        raise FloatingPointError("the model's answer is not a number")


def _owner(progress: Progress) -> Owner | None:
    """Who the history is of; None for one in the request, or one of several owners."""
    owners = owners_of(progress.query)
    return owners[0] if progress.query.history is None and len(owners) == 1 else None


def _wants_user(progress: Progress, generated: Candidates | None) -> bool:
    """Whether items have to be retrieved, and can be."""
    if "retrieve" not in progress.served.modes:
        return False
    return generated is None or len(generated.scores) < min(progress.query.k, progress.admissible.count())


def _no_time(expected: float, left: float) -> _NoAnswer:
    warning = f"it takes about {expected * 1_000:.0f} ms, and {max(left, 0.0) * 1_000:.0f} ms are left"
    return _NoAnswer("no_time", warning, DeadlineExceeded(warning))


def _deadline_exceeded(progress: Progress) -> DeadlineExceeded:
    return DeadlineExceeded(f"no answer within {progress.deadline.seconds * 1_000:.0f} ms")
