"""One recommendation from beginning to end: choose, read the history, ask the model, search, constrain, rank, fill.

What can fail has a next step, down to what is popular (``ladder``). The answer says in ``source`` which step made it
and in ``warnings`` why; exclusions and filters hold on every step. Each step gets what the request's deadline leaves
of time, and what would take longer is not begun. Where nothing is to be served instead, the request fails.
"""

import asyncio
import time
from collections.abc import Callable

from service.decisions.record import NoDecisions, decision_of, recommendation_id_for
from service.errors import DeadlineExceeded
from service.people.history_store import HistoryReader
from service.people.remembered import LastKnown, owners_of
from service.recommend.ask import SOURCE_MODEL, SOURCE_RETRIEVE, Query, Recommendation
from service.recommend.candidates.admissible import NothingHidden, check_query
from service.recommend.candidates.segments import Segments, check_segment
from service.recommend.choosing import Chooser
from service.recommend.deadline import Deadline, StepTimes
from service.recommend.history import HistorySource, warn_of_unknown
from service.recommend.model_call import ModelAsker
from service.recommend.protocols import BlockingRunner, DecisionSink, HiddenReader, ModelQueue
from service.recommend.ranking.answering import Answered
from service.recommend.steps import Ladder
from service.recommend.trace import Progress

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
        num_erasures: How many users have been erased so far.
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
        num_erasures: Callable[[], int],
        last_known: LastKnown,
        segments: Segments,
        hidden: HiddenReader | None = None,
        falls_back: bool = True,
        decisions: DecisionSink | None = None,
        inline_values: int = 0,
    ) -> None:
        times = StepTimes()
        self._chooser = chooser
        self._num_erasures = num_erasures
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
            num_erasures=num_erasures,
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
        choice = self._chooser.choose(query)
        check_query(choice.served, query)
        check_segment(choice.served.catalogue, query.segment)
        progress = Progress(
            query,
            choice.served,
            choice.mode,
            Deadline.after(query.timeout_seconds),
            segments=self._segments,
            num_erasures=self._num_erasures(),
            num_forgotten=self._last_known.num_forgotten,
        )
        progress.warnings.extend([choice.warning] if choice.warning else [])
        hidden = self._hidden.current(within=_HIDDEN_SHARE * query.timeout_seconds)
        progress.hidden, _ = await asyncio.gather(hidden, self._source.read(progress))
        answered, progress = await self._answer(progress)
        if progress.deadline.left < 0:
            progress.warnings.append(
                f"late: it took longer than {query.timeout_seconds * 1_000:.0f} ms, as this machine is busy"
            )
        progress.timing.total = time.perf_counter() - started
        recommendation = Recommendation(
            recommendation_id=recommendation_id_for(query),
            served=choice.served,
            mode=choice.mode,
            items=answered.items,
            source=answered.source,
            warnings=progress.warnings,
            history_length=len(progress.read_items) if answered.source in _BY_MODEL else 0,
            timing=progress.timing,
            assignment=choice.assignment,
            fallback_reason=None if answered.source == SOURCE_MODEL else progress.fallback_reason,
            steps=progress.steps,
            ranked=answered.ranked,
            plans=answered.plans,
            filtered=answered.filtered,
        )
        if query.history is None:
            self._last_known.visibility.answered(owners_of(query), progress.interactions)
        self._decisions.record(decision_of(progress, recommendation))
        return recommendation

    async def _answer(self, progress: Progress) -> tuple[Answered, Progress]:
        """The answer, and the progress that it was made with; the one before where the same was asked before."""
        repeats, owners = self._last_known.repeats, owners_of(progress.query)
        key = repeats.key_of(progress)
        if key is not None and (repeat := repeats.of(owners[0], key)) is not None:
            return repeat.give(progress), progress
        num_warnings = len(progress.warnings)
        warn_of_unknown(progress)
        view = await self._model.ask(progress)
        answered, progress = await self._ladder.answer(progress, view)
        if key is not None and self._last_known.num_forgotten == progress.num_forgotten:
            repeats.keep(owners[0], key, answered, progress, num_warnings=num_warnings)
        return answered, progress
