"""A decision as a JSON document: what Redis keeps, ``GET /recommendations/{id}`` answers, and a replay reads.

The document says everything that the answer depended on. What makes it too large for a record is left out, the least
needed first: reasons, then the history and the excluded items, of which number and hash remain.
"""

import base64
import hashlib
import zlib
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from typing import Any

import numpy as np
import orjson

from service.decisions.plain import from_plain, to_plain
from service.decisions.record import Decision
from service.decisions.store import MAX_RECORD_BYTES, DecisionRecord
from service.people.interactions import Interactions
from service.recommend.ask import Boost, Pin, Query, ScenarioRef, SegmentWish
from service.recommend.candidates.filters import All, Either, Exists, Match, Not

SCHEMA_VERSION = 1


_MAX_HIDDEN = 1_000
# A fourth of the time of zlib's default memory, which is zeroed for each document, and as short a result.
_LEVEL, _MEMORY_LEVEL = 1, 6
_CLASSES = {one.__name__: one for one in (Query, SegmentWish, ScenarioRef, Pin, Boost, Match, Exists, All, Either, Not)}


def record_of(decision: Decision) -> DecisionRecord | None:
    """A record with a document of at most ``MAX_RECORD_BYTES``; None if it cannot be made so small."""
    owner = decision.ask.owners[0] if decision.ask.owners else None
    for level in range(3):
        packed = _packed(orjson.dumps(_document(decision, leave_out=level)))
        if len(packed) <= MAX_RECORD_BYTES:
            return DecisionRecord(decision.recommendation_id, owner, decision.created_at, packed)
    return None


def decode(packed: bytes) -> dict[str, Any]:
    """The document of a record.

    Raises:
        ValueError: It is none.
    """
    try:
        document = orjson.loads(zlib.decompress(packed))
    except (zlib.error, orjson.JSONDecodeError) as error:
        raise ValueError(f"not a decision record: {error}") from error
    if not isinstance(document, dict):
        raise ValueError("not a decision record")
    return document


def query_of(document: dict[str, Any]) -> Query:
    """The query of a document; one with its own history has that history.

    Raises:
        ValueError: It is of another version, or was left out.
    """
    query = from_plain(document["request"], _CLASSES)
    if not isinstance(query, Query):
        raise ValueError("the request is no Query")
    excluded = document["excluded"]
    if excluded["item_ids"] is None:
        raise ValueError(f"{excluded['count']} excluded items were too many to be kept")
    return replace(query, exclude_item_ids=tuple(excluded["item_ids"]))


def interactions_of(document: dict[str, Any]) -> Interactions | None:
    """The history of a document, oldest first; None if only its hash was kept."""
    history = document["history"]
    if history["item_ids"] is None:
        return None
    types = history["types"] or [None] * len(history["item_ids"])
    return Interactions.from_rows(zip(history["item_ids"], history["timestamps"], types, strict=True))


def hash_of(interactions: Interactions) -> str:
    """SHA-256 of a history, in hexadecimal digits."""
    return hashlib.sha256(orjson.dumps(list(interactions.rows()))).hexdigest()


def embedding_of(document: dict[str, Any]) -> np.ndarray | None:
    """(D,) float32 of the earlier request that was searched with, if one was."""
    coded = document["earlier_embedding"]
    return None if coded is None else np.frombuffer(base64.b64decode(coded), dtype=np.float32)


def _packed(document: bytes) -> bytes:
    packer = zlib.compressobj(_LEVEL, memLevel=_MEMORY_LEVEL)
    return packer.compress(document) + packer.flush()


def _document(decision: Decision, *, leave_out: int) -> dict[str, Any]:
    ask, answer, trace, served = decision.ask, decision.answer, decision.trace, decision.ask.served
    query, embedding, hidden = ask.query, answer.earlier_embedding, decision.known.hidden.item_ids
    assignment, scenario = ask.assignment, query.scenario
    excluded = list(query.exclude_item_ids)
    created = datetime.fromtimestamp(decision.created_at, UTC)
    return {
        "schema_version": SCHEMA_VERSION,
        "recommendation_id": decision.recommendation_id,
        "created_at": created.isoformat(timespec="milliseconds"),
        "asked_by": query.asked_by,
        "user_id": query.user_id,
        "session_id": query.session_id,
        "versions": {
            "service": _service_version(),
            "kind": served.kind,
            "model": served.model_id,
            "bundle": served.bundle_id,
            "mode": ask.mode,
            "scenario": None if scenario is None else asdict(scenario),
        },
        "experiment": None if assignment is None else {"name": assignment.experiment, "arm": assignment.arm},
        "request": to_plain(replace(query, history=None, exclude_item_ids=())),
        "excluded": {"count": len(excluded), "item_ids": excluded if leave_out < 2 else None},
        "history": _history(decision, is_whole=leave_out < 2),
        "hidden": {"count": len(hidden), "item_ids": sorted(hidden) if len(hidden) <= _MAX_HIDDEN else None},
        "segment_attribute": answer.segment_attribute,
        "earlier_embedding": (
            None if embedding is None else base64.b64encode(np.asarray(embedding, dtype=np.float32).tobytes()).decode()
        ),
        "counts": dict(trace.counts),
        "plans": [asdict(plan) for plan in trace.plans],
        "steps": [asdict(step) for step in trace.steps],
        "source": answer.source,
        "fallback_reason": trace.fallback_reason,
        "warnings": list(trace.warnings),
        "timing_ms": trace.timing.milliseconds(),
        "items": [
            {
                "item_id": item.item_id,
                "score": item.score,
                "reasons": [{"item_id": item_id, "weight": weight} for item_id, weight in item.reasons]
                if leave_out < 1
                else [],
            }
            for item in answer.items
        ],
    }


@cache
def _service_version() -> str:
    return version("hatstand")


def _history(decision: Decision, *, is_whole: bool) -> dict[str, Any]:
    ask, known = decision.ask, decision.known
    interactions, is_own = known.past.interactions, ask.query.history is not None
    # Of two owners only one is erased with the record, so it must not hold what the other did.
    if len(ask.owners) > 1 and not is_own:
        is_whole = False
    return {
        "is_own": is_own,
        "is_current": known.past.is_current,
        "length": len(interactions),
        "known": len(known.history.item_indices),
        "read": len(known.read_items),
        "sha256": hash_of(interactions),
        "item_ids": list(interactions.item_ids) if is_whole else None,
        "timestamps": [timestamp for _, timestamp, _ in interactions.rows()] if is_whole else None,
        "types": list(interactions.types) if is_whole and any(interactions.types) else None,
    }
