"""Answers that are asked for again: the same question about the same history is not searched for twice.

An answer of the model depends on the bundle, on what is asked, on the stored history and on what operators have hidden,
and on nothing else. So where none of these has changed, the last answer is the answer: a page that is loaded again, an
app that is opened again. Whatever changes one of them, an event, an erasure, a swap, a hidden item, changes the key.
"""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import orjson

from model_store.people.owner import Owner
from service.people.embeddings import AgedCache
from service.recommend.ask import SOURCE_MODEL, Ask
from service.recommend.known import Known
from service.recommend.ranking.answering import Answer
from service.recommend.trace import StepNote, Timing, Trace

# What one user may ask in turns: a few places of a site, a few lengths of a list.
_MAX_QUESTIONS = 4
# Python's objects take so much per item of an answer, beside what is in its fields.
_ITEM_BYTES = 400
_REPEATED = "repeated"
# Who asks, when, and for how long they wait.
_NOT_THE_QUESTION = frozenset(
    {"user_id", "session_id", "asked_by", "asked_at", "timeout_seconds", "min_event_token", "history"}
)
# Codes of warnings that depend on nothing else than the answer does; with any other, something failed or was not there.
_LASTING = frozenset({"unknown_history_items", "retrieval_fill", "max_per_short", "exact_scan"})


@dataclass(frozen=True, slots=True)
class Repeat:
    """An answer that may be given again.

    Attributes:
        answer: The answer.
        trace: What to tell of it when it is given again: its warnings and counts, and no times.
        num_bytes: What it takes, about.
    """

    answer: Answer
    trace: Trace
    num_bytes: int


class Repeats:
    """The last answers of each user and session. For the event loop.

    Args:
        max_bytes: Of all together; 0 keeps nothing.
        max_age_seconds: Since they were made.
        clock: In seconds.
    """

    def __init__(self, *, max_bytes: int, max_age_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._cache: AgedCache[str, dict[bytes, Repeat]] = AgedCache(
            max_bytes=max_bytes, max_age_seconds=max_age_seconds, clock=clock
        )

    @property
    def num_bytes(self) -> int:
        """What is kept takes, about."""
        return self._cache.num_bytes

    def key_of(self, ask: Ask, known: Known) -> bytes | None:
        """Names all that the answer depends on; None where that is more than can be named."""
        query = ask.query
        # What is too old to count as seen depends on the time, and a list that goes on is kept for its pages already.
        if known.past.version is None or query.seen_max_age_seconds is not None or query.paginate:
            return None
        question = {name: one for name, one in vars(query).items() if one is not None and name not in _NOT_THE_QUESTION}
        question["segment"] = query.segment.attribute, query.segment.value
        named = (ask.served.bundle_id, ask.mode, known.hidden.serial, question)
        # The text of a filter, as orjson would not tell apart two classes of equal fields.
        text = orjson.dumps(named, default=repr, option=orjson.OPT_PASSTHROUGH_DATACLASS)
        return hashlib.blake2b(known.past.version + text, digest_size=16).digest()

    def last(self, owner: Owner, key: bytes) -> Repeat | None:
        """What was answered to this key."""
        kept = self._cache.get(owner.hash)
        return None if kept is None else kept.value.get(key)

    def keep(self, owner: Owner, key: bytes, answer: Answer, trace: Trace) -> None:
        """Keeps an answer if it is the model's, whole, and would be made the same again.

        Args:
            owner: Whose history it was made of.
            key: Of the request.
            answer: The answer.
            trace: How it was made, since the history was read.
        """
        is_whole = answer.source == SOURCE_MODEL and trace.fallback_reason is None
        if not is_whole or not _LASTING.issuperset(warning.partition(":")[0] for warning in trace.warnings):
            return
        again = replace(trace, steps=(StepNote(SOURCE_MODEL, _REPEATED),), timing=Timing())
        kept = self._cache.get(owner.hash)
        answers = {} if kept is None else {name: one for name, one in kept.value.items() if name != key}
        answers[key] = Repeat(answer, again, _num_bytes(answer))
        for oldest in list(answers)[:-_MAX_QUESTIONS]:
            del answers[oldest]
        self._cache.put(owner.hash, answers, sum(one.num_bytes for one in answers.values()))

    def forget(self, owner_hash: str) -> int:
        """Drops all answers of somebody, and says how many."""
        return len(self._cache.forget(owner_hash) or ())

    def forget_all(self) -> None:
        """Drops everything."""
        self._cache.clear()


def _num_bytes(answer: Answer) -> int:
    items = answer.items
    fields = len(orjson.dumps([item.fields for item in items], default=str))
    reasons = sum(len(item.reasons) for item in items)
    return fields + (len(items) + reasons) * _ITEM_BYTES
