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
from service.errors import DeadlineExceeded, InvalidRequest, ModelUnavailable, Overloaded, ServiceError
from service.people.embeddings import fingerprint
from service.people.remembered import LastKnown
from service.recommend.ask import Ask
from service.recommend.candidates.admissible import admissible_items
from service.recommend.deadline import POPULAR, SEARCH, StepTimes
from service.recommend.known import Known
from service.recommend.protocols import BlockingRunner, ModelQueue
from service.recommend.ranking.answering import DIVERSITY_POOL, ModelView
from service.recommend.ranking.candidates import NO_CANDIDATES, Candidates
from service.recommend.trace import NOTHING, Timing, Trace, failure, note, warning_of

LOGGER = logging.getLogger(__name__)
T = TypeVar("T")

# The most titles that one request may have written, whatever its k and diversity; further items are retrieved. As
# many beams run at once, and everybody else waits for them.
_MAX_GENERATED = 100

_NO_VIEW = ModelView()

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
        falls_back: Whether a step that does not answer has a next one; else the request fails.
    """

    def __init__(
        self,
        *,
        models: ModelQueue,
        run_blocking: BlockingRunner,
        last_known: LastKnown,
        times: StepTimes,
        falls_back: bool,
    ) -> None:
        self._models = models
        self._run_blocking = run_blocking
        self._last_known = last_known
        self._times = times
        self._falls_back = falls_back
        self._late: set[asyncio.Task[Any]] = set()  # tasks that nobody refers to may be collected

    async def ask(self, ask: Ask, known: Known) -> tuple[ModelView, Trace]:
        """What the model makes of the history; what it did not answer is None, and the trace says why.

        Raises:
            Overloaded, ModelUnavailable, NotReady, DeadlineExceeded: It did not answer, and nothing is to be served
                instead.
        """
        if not known.past.is_current:
            return _NO_VIEW, note("model", "history_unavailable")
        if not len(known.history.item_indices):
            return _NO_VIEW, failure("no_known_history") + note("model", "no_known_history")
        view, trace = _NO_VIEW, NOTHING
        if ask.mode == "generate":
            view, trace = await self._generate(ask, known)
        if _wants_user(ask, view):
            user, encoded = await self._encode(ask, known)
            view, trace = replace(view, user=user), trace + encoded
        if ask.query.explain and (view.generated is not None or view.user is not None):
            attention, explained = await self._explain(ask, known)
            view, trace = replace(view, attention=attention), trace + explained
        return view, trace

    async def _generate(self, ask: Ask, known: Known) -> tuple[ModelView, Trace]:
        """Items whose titles the model writes, and what may be returned."""
        generator, query = ask.served.generator, ask.query
        assert generator is not None  # or the mode would not have been chosen

        async def generate(until: float) -> tuple[ModelView, Trace]:
            admissible = await self._run_blocking(lambda: admissible_items(ask.served, query, known))
            allowed = admissible.allowed()
            want = min(query.k * DIVERSITY_POOL if query.diversity > 0 else query.k, _MAX_GENERATED, admissible.count())
            if want == 0:
                return ModelView(NO_CANDIDATES, admissible=admissible), NOTHING
            history, mask = self._owned_history(ask, known), None if allowed.all() else allowed
            ran = await self._models.run(lambda: generator.recommend(history, want, mask), deadline=until)
            timing = Timing(queue=ran.queue_seconds, encode=ran.run_seconds)
            return ModelView(Candidates(*ran.value), admissible=admissible), Trace(timing=timing)

        view, trace = await self._step(ask, "generate", generate)
        return view or _NO_VIEW, trace

    async def _encode(self, ask: Ask, known: Known) -> tuple[np.ndarray | None, Trace]:
        """(D,) float32."""
        served, owner, made_of = ask.served, ask.owner, fingerprint(known.history)
        if owner is not None:
            kept = self._last_known.embeddings.made_of(owner, served.bundle_id, made_of)
            if kept is not None:
                return kept, NOTHING

        async def encode(until: float) -> tuple[np.ndarray, Trace]:
            started = time.perf_counter()
            # In one piece up to the queue: whoever was erased since the history was read must not come back.
            encoded = await self._models.encode(served.encoder, self._owned_history(ask, known), deadline=until)
            self._times.took(("model", served.kind), time.perf_counter() - started)
            _check_finite(encoded.embedding)
            if owner is not None and self._last_known.forgetting.count == known.num_forgotten:
                self._last_known.embeddings.keep(owner, served.bundle_id, encoded.embedding, made_of)
            timing = Timing(queue=encoded.queue_seconds, encode=encoded.encode_seconds)
            return encoded.embedding, Trace(timing=timing)

        return await self._step(ask, "model", lambda until: self._in_background(encode(until)))

    async def _explain(self, ask: Ask, known: Known) -> tuple[np.ndarray | None, Trace]:
        """(W,) float32, how much each item that was read weighs; None if the encoder does not tell."""
        encoder, history = ask.served.encoder, self._owned_history(ask, known)
        if not isinstance(encoder, ExplainsByAttention):
            return None, NOTHING

        async def explain(until: float) -> tuple[np.ndarray, Trace]:
            ran = await self._models.run(lambda: encoder.explain(history), deadline=until)
            _check_finite(ran.value)
            return ran.value, Trace(timing=Timing(queue=ran.queue_seconds, encode=ran.run_seconds))

        return await self._step(ask, "explain", explain)

    async def _step(
        self, ask: Ask, step: _Step, work: Callable[[float], Awaitable[tuple[T, Trace]]]
    ) -> tuple[T | None, Trace]:
        """What a step answers, or None; then the trace has the reason, and a warning for the caller."""
        try:
            return await self._within_time(ask, step, work)
        except _NoAnswer as unanswered:
            code = f"{step}_{unanswered.reason}"
            if step == "explain":  # an answer without reasons is better than none, and is no fallback
                return None, warning_of(f"{code}: {unanswered.warning}")
            if not self._falls_back:
                raise unanswered.error from unanswered
            return None, note(step, unanswered.reason) + failure(code, unanswered.warning)

    async def _within_time(self, ask: Ask, step: _Step, work: Callable[[float], Awaitable[T]]) -> T:
        """Does the work, unless it would take longer than there is time.

        Raises:
            InvalidRequest: The request is to blame.
            _NoAnswer: There is no answer, and why.
        """
        kind = ask.served.kind
        key = (step, kind)
        left = ask.deadline.left
        if self._falls_back:
            left -= self._times.reserve(ask.deadline, (SEARCH, kind), (POPULAR, kind))
        expected = self._times.expected(key)
        if self._falls_back and left <= expected:
            raise _no_time(expected, left)
        started = time.perf_counter()
        try:
            async with asyncio.timeout(left):
                answered = await work(time.monotonic() + left)
        except InvalidRequest:
            raise
        except (TimeoutError, DeadlineExceeded) as error:
            self._times.gave_up(key, time.perf_counter() - started)
            raise _NoAnswer("timed_out", f"no answer within {left * 1_000:.0f} ms", ask.deadline.exceeded()) from error
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

    def _owned_history(self, ask: Ask, known: Known) -> History:
        """The history as the model is given it: with its owner, if what it makes of it may be kept.

        Call it right before the model is asked: whoever was erased since the history was read must not come back.
        What an encoder keeps of a session would outlive its merging into a user, so nothing is.
        """
        owner = ask.owner
        if owner is None or owner.is_session or self._last_known.forgetting.count != known.num_forgotten:
            return known.history
        return replace(known.history, owner=owner.hash)


def _check_finite(made: np.ndarray) -> None:
    if not np.isfinite(made).all():
        raise FloatingPointError("the model's answer is not a number")


def _wants_user(ask: Ask, view: ModelView) -> bool:
    """Whether items have to be retrieved, and can be."""
    if "retrieve" not in ask.served.modes:
        return False
    if view.generated is None or view.admissible is None:
        return True
    return len(view.generated) < min(ask.query.k, view.admissible.count())


def _no_time(expected: float, left: float) -> _NoAnswer:
    warning = f"it takes about {expected * 1_000:.0f} ms, and {max(left, 0.0) * 1_000:.0f} ms are left"
    return _NoAnswer("no_time", warning, DeadlineExceeded(warning))
