"""Pages: a list is made once, kept for a while, and cut into pages that follow each other without repeats or gaps.

A cursor names the recommendation, the place in its list, and (as a hash) whose it is. Whatever has been hidden, seen
or excluded since the list was made is left out of later pages, and the next items of the list move up.
"""

import asyncio
import base64
import binascii
import hashlib
import struct
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import orjson

from model_store.people.owner import Owner, owners_of
from service.engine.served_bundle import ServedBundle
from service.errors import Gone, InvalidRequest
from service.people.history_store import HistoryReader
from service.people.interactions import NO_INTERACTIONS, Interactions, joined
from service.recommend.ask import (
    DEFAULT_FIELDS,
    Assignment,
    Query,
    RankedItem,
    Recommendation,
    ScenarioRef,
)
from service.recommend.candidates.admissible import Admissible, admissible_items, check_attributes
from service.recommend.known import Known, Past
from service.recommend.protocols import BlockingRunner, BundleSource, HiddenReader
from service.recommend.ranking.describe import ranked_items
from service.recommend.trace import Timing, Trace

_FORMAT = 1
MAX_CURSOR_LENGTH = 256
# Hidden items are waited for no longer than this share of a request's time.
_HIDDEN_SHARE = 0.25


class RankedLists(Protocol):
    """Where lists are kept; each method raises HistoryUnavailable when it cannot."""

    async def keep(self, owner: Owner, recommendation_id: str, packed: bytes, *, asked_at: float) -> bool:
        """Keeps a list for a while; False if the owner was erased since it was asked for."""
        ...

    async def read(self, owner: Owner, recommendation_id: str) -> bytes | None:
        """A list, or None if it is not kept (any more)."""
        ...


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks; a cursor is good for nobody else.

    Attributes:
        user_id: As in the request.
        session_id: As in the request.
        key_name: Name of the API key, None where there are none.
    """

    user_id: str | None
    session_id: str | None
    key_name: str | None

    def owner(self, recommendation_id: str) -> Owner:
        """Under whose name the list is kept: the user's, the session's, or else its own."""
        if self.user_id is not None:
            return Owner(self.user_id)
        return Owner(self.session_id or recommendation_id, is_session=True)

    def digest(self) -> str:
        """Tells callers apart, and names nobody."""
        text = orjson.dumps([self.user_id, self.session_id, self.key_name])
        return hashlib.blake2b(text, digest_size=8, person=b"hatstand").hexdigest()


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place in a list.

    Attributes:
        recommendation_id: Whose list.
        caller: ``Caller.digest``.
        position: Items of the list before the page, left out ones among them.
        num_shown: Items that were returned before the page.
    """

    recommendation_id: str
    caller: str
    position: int
    num_shown: int

    def text(self) -> str:
        """As it is sent."""
        packed = orjson.dumps([_FORMAT, self.recommendation_id, self.caller, self.position, self.num_shown])
        return base64.urlsafe_b64encode(packed).decode().rstrip("=")

    @classmethod
    def parse(cls, text: str) -> "Cursor":
        """Reads what ``text`` wrote.

        Raises:
            InvalidRequest: It is not a cursor.
        """
        try:
            padded = text + "=" * (-len(text) % 4)
            version, *parts = orjson.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
            name, caller, position, num_shown = parts
        except (binascii.Error, ValueError, TypeError) as error:
            raise InvalidRequest(_NOT_A_CURSOR, code="invalid_cursor") from error
        is_fit = (
            version == _FORMAT
            and isinstance(name, str)
            and 0 < len(name) <= 64
            and name.isalnum()
            and isinstance(caller, str)
            and all(type(number) is int and 0 <= number < 1 << 31 for number in (position, num_shown))
        )
        if not is_fit:
            raise InvalidRequest(_NOT_A_CURSOR, code="invalid_cursor")
        return cls(name, caller, position, num_shown)


_NOT_A_CURSOR = "cursor: not a next_cursor of this service"


@dataclass(frozen=True)
class PageRequest:
    """What is asked of a page.

    Attributes:
        cursor: ``next_cursor`` of the page before.
        caller: Who asks.
        k: How many items.
        return_fields: Which fields of them; as for the page before by default.
        exclude_item_ids: Left out from here on, for this page only.
        timeout_seconds: For the whole answer.
    """

    cursor: str
    caller: Caller
    k: int
    return_fields: Sequence[str] | None
    exclude_item_ids: Sequence[str]
    timeout_seconds: float


@dataclass(frozen=True)
class Page:
    """Some items of a list.

    Attributes:
        recommendation: With the items of this page, and all else as it was for the first one.
        first_rank: Rank of its first item, from 1.
        next_cursor: None where nothing comes after it.
        scenario: What the list was made by.
    """

    recommendation: Recommendation
    first_rank: int
    next_cursor: str | None
    scenario: ScenarioRef | None


@dataclass(frozen=True)
class _Kept:
    """A list as it is kept: all about it, and (C,) int32 item indices with (C,) float32 scores."""

    about: dict[str, Any]
    item_indices: np.ndarray
    scores: np.ndarray


class Pages:
    """Keeps lists, and cuts pages from them.

    Args:
        lists: Where they are kept.
        bundles: What answers now.
        hidden: What may not be returned any more.
        histories: What has been seen since.
        run_blocking: Runs work beside the event loop.
    """

    def __init__(
        self,
        *,
        lists: RankedLists,
        bundles: BundleSource,
        hidden: HiddenReader,
        histories: HistoryReader,
        run_blocking: BlockingRunner,
    ) -> None:
        self._lists = lists
        self._bundles = bundles
        self._hidden = hidden
        self._histories = histories
        self._run_blocking = run_blocking

    async def keep(self, query: Query, recommendation: Recommendation, caller: Caller) -> str | None:
        """Keeps the list of an answer.

        Returns:
            The cursor of its second page; None if there is no more to return.

        Raises:
            HistoryUnavailable: It cannot be kept.
        """
        num_shown = len(recommendation.items)
        if len(recommendation.ranked) <= num_shown:
            return None
        name = recommendation.recommendation_id
        kept = await self._lists.keep(caller.owner(name), name, _pack(query, recommendation), asked_at=query.asked_at)
        return Cursor(name, caller.digest(), num_shown, num_shown).text() if kept else None

    async def next(self, request: PageRequest) -> Page:
        """The page that a cursor names; the same cursor names the same page.

        Raises:
            InvalidRequest: It is no cursor, or somebody else's.
            Gone: The list is no longer kept, or its bundle no longer live.
            HistoryUnavailable: The list, or what was seen since, cannot be read.
        """
        started = time.perf_counter()
        cursor = Cursor.parse(request.cursor)
        if cursor.caller != request.caller.digest():
            raise InvalidRequest("cursor: it belongs to another user_id, session_id or API key", code="cursor_mismatch")
        name = cursor.recommendation_id
        packed, hidden = await asyncio.gather(
            self._lists.read(request.caller.owner(name), name),
            self._hidden.current(within=_HIDDEN_SHARE * request.timeout_seconds),
        )
        if packed is None:
            raise Gone("cursor: the list is no longer kept; ask again without it")
        kept = _unpack(packed)
        served = self._served(kept)
        check_attributes(served.catalogue, request.return_fields or (), allowed=DEFAULT_FIELDS)
        query = _checks(kept, request)
        seen = await self._seen(query)
        history_seconds = time.perf_counter() - started

        def cut() -> tuple[list[RankedItem], int | None]:
            known = Known(Past(seen), seen.known_to(served.catalogue), hidden=hidden)
            admissible = admissible_items(served, query, known)
            return _cut(kept, served, cursor.position, request.k, admissible, query.return_fields)

        items, position = await self._run_blocking(cut)
        timing = Timing(history=history_seconds, total=time.perf_counter() - started)
        num_shown = cursor.num_shown + len(items)
        following = None if position is None else Cursor(name, cursor.caller, position, num_shown).text()
        scenario = kept.about["scenario"]
        return Page(
            recommendation=_again(kept, served, name, items, timing),
            first_rank=cursor.num_shown + 1,
            next_cursor=following,
            scenario=None if scenario is None else ScenarioRef(**scenario),
        )

    def _served(self, kept: _Kept) -> ServedBundle:
        """The bundle that the list was made of.

        Raises:
            Gone: Another one is live.
        """
        kind, bundle_id = kept.about["kind"], kept.about["bundle"]
        if self._bundles.is_live(kind):
            served = self._bundles.get(kind)
            if served.bundle_id == bundle_id:
                return served
        raise Gone("cursor: the catalogue has been replaced since; ask again without it")

    async def _seen(self, query: Query) -> Interactions:
        """What is known of the caller's interactions by now."""
        owners = owners_of(query.user_id, query.session_id) if query.exclude_seen else ()
        stored = await asyncio.gather(*(self._histories.read(owner) for owner in owners))
        return joined([one.interactions for one in stored]) if stored else NO_INTERACTIONS


def _pack(query: Query, recommendation: Recommendation) -> bytes:
    served = recommendation.served
    about = {
        "kind": served.kind,
        "bundle": served.bundle_id,
        "mode": recommendation.mode,
        "source": recommendation.source,
        "history_length": recommendation.history_length,
        "assignment": None if recommendation.assignment is None else asdict(recommendation.assignment),
        "scenario": None if query.scenario is None else asdict(query.scenario),
        "return_fields": query.return_fields,
        # a history in the request is all there is to be seen, and not in the list
        "exclude_seen": query.exclude_seen and query.history is None,
        "seen_types": list(query.seen_types),
        "seen_max_age_seconds": query.seen_max_age_seconds,
    }
    header = orjson.dumps(about)
    ranked = recommendation.ranked
    items, scores = ranked.item_indices.astype("<i4"), ranked.scores.astype("<f4")
    return b"".join((struct.pack("<BI", _FORMAT, len(header)), header, items.tobytes(), scores.tobytes()))


def _unpack(packed: bytes) -> _Kept:
    version, header_bytes = struct.unpack_from("<BI", packed)
    if version != _FORMAT:
        raise Gone("cursor: the list was kept by another release; ask again without it")
    start = struct.calcsize("<BI") + header_bytes
    half = (len(packed) - start) // 2
    return _Kept(
        orjson.loads(packed[start - header_bytes : start]),
        np.frombuffer(packed, dtype="<i4", offset=start, count=half // 4),
        np.frombuffer(packed, dtype="<f4", offset=start + half),
    )


def _checks(kept: _Kept, request: PageRequest) -> Query:
    """What has to hold of a later page; the filter held when the list was made, of the same catalogue."""
    fields = kept.about["return_fields"] if request.return_fields is None else request.return_fields
    return Query(
        user_id=request.caller.user_id,
        session_id=request.caller.session_id,
        k=request.k,
        timeout_seconds=request.timeout_seconds,
        exclude_item_ids=request.exclude_item_ids,
        exclude_seen=kept.about["exclude_seen"],
        seen_types=kept.about["seen_types"],
        seen_max_age_seconds=kept.about["seen_max_age_seconds"],
        return_fields=fields,
    )


def _cut(
    kept: _Kept, served: ServedBundle, position: int, k: int, admissible: Admissible, fields: Sequence[str] | None
) -> tuple[list[RankedItem], int | None]:
    """The items of a page, and where the next one begins; None if nothing comes after it."""
    left = np.flatnonzero(admissible.keep(kept.item_indices[position:].astype(np.int64))) + position
    items = ranked_items(served.catalogue, kept.item_indices[left[:k]], kept.scores[left[:k]], fields)
    return items, int(left[k]) if len(left) > k else None


def _again(kept: _Kept, served: ServedBundle, name: str, items: Sequence[RankedItem], timing: Timing) -> Recommendation:
    about = kept.about
    return Recommendation(
        served=served,
        mode=about["mode"],
        items=items,
        source=about["source"],
        history_length=about["history_length"],
        trace=Trace(timing=timing),
        assignment=None if about["assignment"] is None else Assignment(**about["assignment"]),
        recommendation_id=name,
    )
