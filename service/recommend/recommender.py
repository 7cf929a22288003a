"""One recommendation from beginning to end: choose, read the history, ask the model, search, constrain, rank, fill.

What can fail has a next step, down to what is popular (``ladder``). The answer says in ``source`` which step made it
and in ``warnings`` why; exclusions and filters hold on every step. Each step gets what the request's deadline leaves
of time, and what would take longer is not begun. Where nothing is to be served instead, the request fails.
"""

import asyncio
import time
from dataclasses import replace

from service.decisions.record import Decision, NoDecisions
from service.decisions.store import new_recommendation_id
from service.errors import DeadlineExceeded
from service.people.history_store import HistoryReader
from service.people.remembered import LastKnown
from service.recommend.ask import SOURCE_MODEL, SOURCE_RETRIEVE, Ask, Query, Recommendation
from service.recommend.candidates.admissible import NothingHidden, check_query
from service.recommend.candidates.segments import Segments, check_segment
from service.recommend.choosing import Chooser
from service.recommend.deadline import StepTimes
from service.recommend.history import HistorySource
from service.recommend.known import Known
from service.recommend.model_call import ModelAsker
from service.recommend.protocols import BlockingRunner, DecisionSink, HiddenReader, ModelQueue
from service.recommend.ranking.answering import Answer
from service.recommend.steps import Ladder
from service.recommend.trace import NOTHING, Timing, Trace, warning_of

# What operators have hidden may take this share of a request's time to read; then the last known set holds.
_HIDDEN_SHARE = 0.25
_BY_MODEL = frozenset({SOURCE_MODEL, SOURCE_RETRIEVE})


class Recommender:
    """Answers queries.

    Args:
        chooser: Which bundle answers, and how.
        histories: Stored histories.
        models: Runs all that needs a model.
        run_blocking: Runs index searches beside the event loop.
        run_popular: Runs what needs no search, in a thread that no search ever keeps busy.
        last_known: Remembers users for when the model or the history store does not answer.
        segments: Of the catalogues.
        hidden: What operators have hidden.
        falls_back: Whether a step that fails has a next one; else the request fails.
        decisions: Takes what each answer was made of.
        inline_values: As the ladder has it.
    """

    def __init__(
        self,
        *,
        chooser: Chooser,
        histories: HistoryReader,
        models: ModelQueue,
        run_blocking: BlockingRunner,
        run_popular: BlockingRunner,
        last_known: LastKnown,
        segments: Segments,
        hidden: HiddenReader | None = None,
        falls_back: bool = True,
        decisions: DecisionSink | None = None,
        inline_values: int = 0,
    ) -> None:
        times = StepTimes()
        self._chooser = chooser
        self._last_known = last_known
        self._segments = segments
        self._hidden = hidden or NothingHidden()
        self._falls_back = falls_back
        self._decisions = NoDecisions() if decisions is None else decisions
        self._source = HistorySource(histories, last_known, falls_back=falls_back)
        self._model = ModelAsker(
            models=models,
            run_blocking=run_blocking,
            last_known=last_known,
            times=times,
            falls_back=falls_back,
        )
        self._ladder = Ladder(
            run_blocking=run_blocking,
            run_popular=run_popular,
            last_known=last_known,
            segments=segments,
            times=times,
            falls_back=falls_back,
            inline_values=inline_values,
        )

    async def recommend(self, query: Query) -> Recommendation:
        """Answers one query.

        Raises:
            InvalidRequest: An unknown model kind, attribute or field, a mode that the model does not have, or a
                filter of the wrong type.
            NotReady: No bundle is loaded.
            Overloaded, ModelUnavailable, HistoryUnavailable, DeadlineExceeded: Only where nothing is to be served
                instead: what failed.
        """
        if self._falls_back:
            return await self._recommend(query)
        try:
            async with asyncio.timeout(query.timeout_seconds):
                return await self._recommend(query)
        except TimeoutError as error:
            raise DeadlineExceeded(f"no answer within {query.timeout_seconds * 1000:.0f} ms") from error

    async def _recommend(self, query: Query) -> Recommendation:
        started = time.perf_counter()
        ask, chosen = self._chooser.choose(query)
        check_query(ask.served, query)
        check_segment(ask.served.catalogue, query.segment)
        known, read = await self._know(ask)
        answer, made = await self._answer(ask, known, chosen + read)
        if ask.deadline.left < 0:
            made += warning_of(
                f"late: it took longer than {ask.deadline.seconds * 1_000:.0f} ms, as this machine is busy"
            )
        trace = chosen + read + made + Trace(timing=Timing(total=time.perf_counter() - started))
        if answer.source == SOURCE_MODEL and trace.fallback_reason is not None:
            trace = replace(trace, fallback_reason=None)
        name = new_recommendation_id(ask.owners[0] if ask.owners else None)
        if query.history is None:
            self._last_known.visibility.answered(ask.owners, known.past.interactions)
        self._decisions.record(Decision(name, time.time(), ask, known, answer, trace))
        return Recommendation(
            recommendation_id=name,
            served=ask.served,
            mode=ask.mode,
            items=answer.items,
            source=answer.source,
            history_length=len(known.read_items) if answer.source in _BY_MODEL else 0,
            trace=trace,
            assignment=ask.assignment,
            ranked=answer.ranked,
        )

    async def _know(self, ask: Ask) -> tuple[Known, Trace]:
        """What an answer depends on; the history and what is hidden are read in one round trip."""
        num_forgotten = self._last_known.forgetting.count
        reading = self._hidden.current(within=_HIDDEN_SHARE * ask.deadline.seconds)
        try:
            past, trace = await self._source.read(ask, num_forgotten=num_forgotten)
            hidden = await reading
        finally:
            reading.close()
        history = past.known_to(ask.served.catalogue)
        items = history.item_indices
        read_items = items[len(items) - ask.served.encoder.window(len(items)) :] if len(items) else items
        return Known(past, history, read_items, hidden, num_forgotten), trace

    async def _answer(self, ask: Ask, known: Known, before: Trace) -> tuple[Answer, Trace]:
        """The answer, and what happened since the history was read; the one before where the same was asked before."""
        repeats = self._last_known.repeats
        key = repeats.key_of(ask, known)
        if key is not None and (repeat := repeats.last(ask.owners[0], key)) is not None:
            return repeat.answer, repeat.trace
        trace = _unknown_items(known)
        view, modelled = await self._model.ask(ask, known)
        trace += modelled
        answer, climbed = await self._ladder.answer(ask, known, view, before + trace)
        trace += climbed
        if key is not None and self._last_known.forgetting.count == known.num_forgotten:
            repeats.keep(ask.owners[0], key, answer, trace)
        return answer, trace


def _unknown_items(known: Known) -> Trace:
    """Says how much of the history no model can read."""
    num_items = len(known.past.interactions)
    num_unknown = num_items - len(known.history.item_indices)
    if not num_unknown:
        return NOTHING
    return warning_of(f"unknown_history_items: {num_unknown} of {num_items} are not in the catalogue")
