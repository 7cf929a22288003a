"""The pipeline without HTTP and Redis around a real bundle, and real ways to break its parts."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model_store.artifacts.bundle import open_bundle
from model_store.artifacts.store import ModelStore
from model_store.index import build_index
from model_store.kinds import make_generator, make_user_encoder
from model_store.people.owner import Owner
from service.engine.batcher import EncodeBatcher
from service.engine.served_bundle import ServedBundle
from service.errors import HistoryUnavailable
from service.people.history_store import Event, StoredHistory
from service.people.remembered import LastKnown
from service.recommend.ask import Query
from service.recommend.candidates.segments import Segments
from service.recommend.choosing import Chooser
from service.recommend.recommender import Recommender
from service.wiring import SearchThreads
from tests.past import done, past


def open_served(root: Path, kind: str) -> ServedBundle:
    """The live bundle of a kind, with all that its model can do."""
    store = ModelStore(root)
    bundle = open_bundle(store, store.live().bundles[kind])
    encoder = make_user_encoder(bundle)
    if kind == "hllm":
        return ServedBundle(bundle, encoder)
    return ServedBundle(bundle, encoder, make_generator(bundle, encoder), ("retrieve", "generate"))


class OneBundle:
    """Always the same bundle."""

    def __init__(self, served: ServedBundle) -> None:
        self.served = served

    def get(self, _kind: str | None = None) -> ServedBundle:
        return self.served

    def is_live(self, kind: str) -> bool:
        return kind == self.served.kind


class Shelf:
    """Histories in memory; can be taken away."""

    def __init__(self) -> None:
        self.users: dict[str, list[Event]] = {}
        self.sessions: dict[str, list[Event]] = {}
        self.is_down = False
        self.num_reads = 0
        self.on_read: Callable[[str], None] = lambda _: None

    def add(self, user_id: str, *item_ids: str) -> None:
        events = self.users.setdefault(user_id, [])
        for item_id in item_ids:
            events.append(Event(f"e{len(events)}", Owner(user_id), item_id, 10 * len(events) + 10))

    def add_to_session(self, session_id: str, *item_ids: str) -> None:
        events = self.sessions.setdefault(session_id, [])
        for item_id in item_ids:
            session = Owner(session_id, is_session=True)
            events.append(Event(f"e{len(events)}", session, item_id, 10 * len(events) + 15))

    async def read(self, owner: Owner, *, known_version: bytes | None = None, **_: Any) -> StoredHistory:
        self.num_reads += 1
        if self.is_down:
            raise HistoryUnavailable("it is away")
        events = list((self.sessions if owner.is_session else self.users).get(owner.id, []))
        version = repr(events).encode()
        is_unchanged = version == known_version
        rows = [] if is_unchanged else [(event.item_id, event.timestamp, event.type) for event in events]
        stored = StoredHistory(past(rows), version=version, is_unchanged=is_unchanged)
        self.on_read(owner.id)
        return stored


def make_recommender(served: ServedBundle | OneBundle, batcher: EncodeBatcher, **more: Any) -> Recommender:
    """A recommender of one bundle; ``more`` replaces its parts."""
    bundles = OneBundle(served) if isinstance(served, ServedBundle) else served
    parts: dict[str, Any] = {
        "chooser": Chooser(bundles),
        "histories": Shelf(),
        "models": batcher,
        "run_blocking": SearchThreads(),
        "run_popular": SearchThreads(1, "popular"),
        "last_known": LastKnown(max_bytes=1 << 20, max_age_seconds=100),
        "segments": Segments(),
    }
    return Recommender(**{**parts, **more})


def inline_query(**more: Any) -> Query:
    """Four items after i1 and i2, but not i4."""
    history = past([done("i1"), done("i2", 5)])
    return Query(
        **{
            "user_id": None,
            "k": 4,
            "timeout_seconds": 5,
            "history": history,
            "exclude_item_ids": ["i4"],
            **more,
        }
    )


def model_of(encoder: Any) -> torch.nn.Module:
    """The network of a real encoder."""
    model = encoder.model
    assert isinstance(model, torch.nn.Module)
    return model


def poison(encoder: Any) -> None:
    """From now on everything that the model computes is NaN."""
    with torch.no_grad():
        for parameter in model_of(encoder).parameters():
            parameter.fill_(float("nan"))


def cripple(encoder: Any) -> None:
    """From now on the forward pass raises: a layer's weights are of another shape."""
    for module in model_of(encoder).modules():
        if isinstance(module, torch.nn.Linear):
            module.weight = torch.nn.Parameter(torch.zeros(3, 3))


def with_wrong_index(served: ServedBundle) -> ServedBundle:
    """Its index is one of shorter vectors, and raises whatever is searched."""
    wrong = build_index(np.random.default_rng(0).normal(size=(len(served.catalogue), 3)).astype(np.float32)).index
    return replace(served, bundle=replace(served.bundle, index=wrong))


def nearest(served: ServedBundle, vector: np.ndarray, k: int, *, without: set[int]) -> list[str]:
    """The long way round: the ids of the k items nearest to a vector."""
    embeddings = served.bundle.embeddings
    scores = embeddings @ vector / np.linalg.norm(embeddings, axis=1)
    order = [int(row) + 1 for row in np.argsort(-scores) if int(row) + 1 not in without]
    return [f"i{item}" for item in order[:k]]
