"""Whatever happens to a user's history, to the kept states and to the bundle: every answer is the dense forward's."""

import shutil
from collections import defaultdict
from pathlib import Path
from random import Random
from typing import Any
from uuid import uuid4

import httpx2
import numpy as np
import pytest
import torch

from model_store.artifacts.bundle import open_bundle
from model_store.artifacts.store import ModelStore
from model_store.hatllm.config import window
from model_store.hatllm.files import load_hatllm
from service.settings import Settings
from tests.shop import HAT_WINDOW, NUM_ITEMS, add_hatllm, event, running_app, small_hatllm

NUM_STEPS = 150
NUM_USERS = 6
MAX_EVENTS = 30
# about four users of this model
STATE_BYTES = 100_000


class Dense:
    """One bundle's answers, by the masked dense forward over all tokens and an exact search."""

    def __init__(self, store: ModelStore, bundle_id: str) -> None:
        bundle = open_bundle(store, bundle_id)
        assert bundle.item_tokens is not None
        self._tokens = bundle.item_tokens
        self._model = load_hatllm(bundle.model_directory)
        self._unit = bundle.embeddings / np.linalg.norm(bundle.embeddings, axis=1, keepdims=True)

    def scores(self, items: list[int]) -> np.ndarray:
        """(N,) cosine of every item with the embedding of a history."""
        read = np.array(items[-window(len(items), HAT_WINDOW) :])
        tokens = self._model.item_tokenizer.collate(self._tokens.tokens_of(read))
        with torch.no_grad():
            user = self._model.dense_queries(tokens, torch.arange(len(read))[None])[0, -1]
        scores: np.ndarray = self._unit @ torch.nn.functional.normalize(user, dim=0).numpy()
        return scores


class Users:
    """Sends events, and knows what the history must be by now."""

    def __init__(self, client: httpx2.AsyncClient, random: Random) -> None:
        self._client, self._random = client, random
        self._names = [f"user-{uuid4().hex}" for _ in range(NUM_USERS)]
        self._histories: dict[str, list[tuple[int, int, int]]] = defaultdict(list)
        self._clock = 1_000

    def pick(self) -> tuple[str, list[int]]:
        name = self._random.choice(self._names)
        return name, [item for _, _, item in sorted(self._histories[name])]

    async def append(self, *, is_late: bool) -> None:
        name, _ = self.pick()
        self._clock += 1
        at = self._random.randrange(1_000, self._clock) if is_late else self._clock
        item = self._random.randint(1, NUM_ITEMS)
        sent = event(name, f"i{item}", at, event_id=f"e{self._clock}")
        assert (await self._client.post("/events", json={"events": [sent]})).json()["accepted"] == 1
        kept = sorted([*self._histories[name], (at, self._clock, item)])
        step = MAX_EVENTS // 10
        surplus = max(0, len(kept) - MAX_EVENTS)
        self._histories[name] = kept[surplus - surplus % step :]

    async def erase(self) -> None:
        name, _ = self.pick()
        assert (await self._client.delete(f"/users/{name}")).status_code == 200
        self._histories[name] = []


@pytest.mark.parametrize("seed", range(3))
async def test_every_answer_is_that_of_the_dense_forward(
    both_settings: Settings, both_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    random = Random(seed)
    shutil.copytree(both_root, tmp_path / "store")
    store = ModelStore(tmp_path / "store")
    bundle_ids = [store.live().bundles["hatllm"], add_hatllm(store, small_hatllm(seed=1)).bundle_id]
    dense = {bundle_id: Dense(store, bundle_id) for bundle_id in bundle_ids}
    monkeypatch.setattr("service.wiring._MIB", 1)
    settings = both_settings.model_copy(
        update={"store": str(store.root), "state_cache_mb": STATE_BYTES, "history_max_events": MAX_EVENTS}
    )
    num_checked = 0
    async with running_app(settings) as (_, client):
        users = Users(client, random)
        for _ in range(NUM_STEPS):
            dice = random.random()
            if dice < 0.04:
                await users.erase()
            elif dice < 0.07:
                store.publish(random.choice(bundle_ids))
                assert (await client.post("/admin/reload")).status_code == 200
            elif dice < 0.55:
                await users.append(is_late=dice < 0.15)
            else:
                name, items = users.pick()
                more = random.choice([{}, {"explain": True}, {"mode": "generate"}])
                body = await _ask(client, name, more)
                if items and body["mode"] == "retrieve":
                    _check(body, items, dense[body["bundle"]].scores(items))
                    num_checked += 1
                assert (body["source"] == "model") == bool(items)
    assert num_checked > NUM_STEPS / 10


async def _ask(client: httpx2.AsyncClient, user_id: str, more: dict[str, Any]) -> dict[str, Any]:
    answer = await client.post(
        "/recommend", json={"user_id": user_id, "model": "hatllm", "k": 10, "exclude_seen": False, **more}
    )
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def _check(body: dict[str, Any], items: list[int], expected: np.ndarray) -> None:
    assert body["history_length"] == window(len(items), HAT_WINDOW)
    best = np.sort(expected)[::-1][:10]
    np.testing.assert_allclose([item["score"] for item in body["items"]], best, atol=1e-4)
    named = [expected[int(item["item_id"][1:]) - 1] for item in body["items"]]
    np.testing.assert_allclose(named, best, atol=1e-4)
