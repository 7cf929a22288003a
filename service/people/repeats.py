"""Answers that are asked for again: the same question about the same history is not searched for twice.

An answer of the model depends on the bundle, on what is asked, on the stored history and on what operators have hidden,
and on nothing else. So where none of these has changed, the last answer is the answer: a page that is loaded again, an
app that is opened again. Whatever changes one of them, an event, an erasure, a swap, a hidden item, changes the key.
"""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import orjson

from model_store.people.histories import History
from model_store.people.owner import Owner
from service.decisions.plain import to_plain
from service.people.embeddings import AgedCache
from service.recommend.ask import SOURCE_MODEL, Query
from service.recommend.ranking.answering import Answered
from service.recommend.trace import Progress

# What one user may ask in turns: a few places of a site, a few lengths of a list.
_MAX_QUESTIONS = 4
# Python's objects take so much per item of an answer, beside what is in its fields.
_ITEM_BYTES = 400
_REPEATED = "repeated"
# Codes of warnings that depend on nothing else than the answer does; with any other, something failed or was not there.
_LASTING = frozenset({"unknown_history_items", "retrieval_fill", "max_per_short", "exact_scan"})


@dataclass(frozen=True, slots=True)
class Repeat:
    """An answer that may be given again.

    Attributes:
        answered: The answer.
        history: What of the history is in the catalogue.
        warnings: That came with it.
        counts: Of its candidates at each stage, for the decision record.
    """

    answered: Answered
    history: History
    warnings: Sequence[str]
    counts: Mapping[str, int]

    def give(self, progress: Progress) -> Answered:
        """The answer to a further request; what was counted and warned of goes to its ``progress``."""
        progress.history = self.history
        progress.warnings.extend(self.warnings)
        progress.counts.update(self.counts)
        progress.note(SOURCE_MODEL, _REPEATED)
        return self.answered


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

    def key_of(self, progress: Progress) -> bytes | None:
        """Names all that the answer depends on; None where that is more than can be named.

        Args:
            progress: Of a request whose history and hidden items have been read.
        """
        query = progress.query
        # What is too old to count as seen depends on the time, and a list that goes on is kept for its pages already.
        if progress.history_version is None or query.seen_max_age_seconds is not None or query.paginate:
            return None
        digest = hashlib.blake2b(progress.history_version, digest_size=16)
        names = (progress.served.bundle_id, progress.mode, progress.hidden.serial)
        digest.update(orjson.dumps((names, _question(query))))
        return digest.digest()

    def of(self, owner: Owner, key: bytes) -> Repeat | None:
        """What was answered to this key."""
        kept = self._cache.get(owner.hash)
        return None if kept is None else kept.value.get(key)

    def keep(self, owner: Owner, key: bytes, answered: Answered, progress: Progress, *, num_warnings: int) -> None:
        """Keeps an answer if it is the model's, whole, and would be made the same again.

        Args:
            owner: Whose history it was made of.
            key: Of the request.
            answered: The answer.
            progress: What it was made with.
            num_warnings: That the request had before the model was asked; they are not the answer's.
        """
        warnings = tuple(progress.warnings[num_warnings:])
        is_whole = answered.source == SOURCE_MODEL and progress.fallback_reason is None
        if not is_whole or not _LASTING.issuperset(warning.partition(":")[0] for warning in warnings):
            return
        kept = self._cache.get(owner.hash)
        answers = {} if kept is None else {name: one for name, one in kept.value.items() if name != key}
        answers[key] = Repeat(answered, progress.history, warnings, dict(progress.counts))
        for oldest in list(answers)[:-_MAX_QUESTIONS]:
            del answers[oldest]
        self._cache.put(owner.hash, answers, sum(map(_num_bytes, answers.values())))

    def forget(self, owner_hash: str) -> int:
        """Drops all answers of somebody, and says how many."""
        return len(self._cache.forget(owner_hash) or ())

    def forget_all(self) -> None:
        """Drops everything."""
        self._cache.clear()


def _question(query: Query) -> object:
    """A query without who asks, when, and for how long they wait."""
    return to_plain(
        replace(
            query,
            user_id=None,
            session_id=None,
            asked_by=None,
            asked_at=0.0,
            timeout_seconds=0.0,
            min_event_token=None,
        )
    )


def _num_bytes(repeat: Repeat) -> int:
    items = repeat.answered.items
    fields = len(orjson.dumps([item.fields for item in items], default=str))
    reasons = sum(len(item.reasons) for item in items)
    return fields + (len(items) + reasons) * _ITEM_BYTES + repeat.history.item_indices.nbytes * 2
