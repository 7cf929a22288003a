"""The plain app: what a request costs in a FastAPI app that knows nothing but the task.

A route with pydantic models, one read of the history from the service's own Redis, one exact FAISS search with the
embedding of the latest item, seen items dropped, JSON. It has no model, no filters, no fallbacks, no keys, no metrics,
no records. ``bare`` does the same work in a loop, without HTTP and pydantic.
"""

import asyncio
import json
import os
import time
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import orjson
import typer
import uvicorn
import uvloop
from fastapi import FastAPI
from pydantic import BaseModel, Field
from redis.asyncio import Redis

from model_store.artifacts.bundle import open_bundle
from model_store.artifacts.store import ModelStore
from model_store.people.owner import Owner
from service.redis.keys import owner_key

app = typer.Typer(add_completion=False, help=__doc__)
# What stands before an event's JSON in Redis: the time of its arrival.
_ARRIVAL_DIGITS = 16


class Question(BaseModel):
    """The part of the service's request that the benchmark uses."""

    user_id: str = Field(min_length=1, max_length=256)
    k: int = Field(default=10, ge=1, le=500)
    model: str | None = None
    exclude_item_ids: list[str] = Field(default=[], max_length=1_000)
    return_fields: list[str] = ["title"]


class Item(BaseModel):
    """One place of the list."""

    rank: int
    item_id: str
    score: float
    fields: dict[str, str]


class Answer(BaseModel):
    """The list."""

    user_id: str
    items: list[Item]
    source: str = "model"


class PlainShop:
    """The task, done in the simplest way.

    Args:
        store: Path of the model store.
        bundle_id: Whose items are searched.
        redis_url: Where the service keeps histories.
    """

    def __init__(self, store: Path, bundle_id: str, redis_url: str) -> None:
        bundle = open_bundle(ModelStore(store), bundle_id)
        self._ids: list[str] = bundle.catalogue.column("item_id").to_pylist()
        self._titles: list[str] = bundle.catalogue.column("title").to_pylist()
        self._row_of = {item_id: row for row, item_id in enumerate(self._ids)}
        self._vectors = np.array(bundle.item_directions(np.arange(1, len(self._ids) + 1)), dtype=np.float32)
        faiss.omp_set_num_threads(1)
        self._index = faiss.IndexFlatIP(self._vectors.shape[1])
        self._index.add(self._vectors)
        self._redis = Redis.from_url(redis_url, protocol=2)

    async def recommend(self, question: Question) -> list[tuple[int, float]]:
        """(row, score) of the k nearest items that were not seen."""
        members: list[bytes] = await self._redis.zrange(  # type: ignore[assignment]  # without scores
            owner_key(Owner(question.user_id), "history"), 0, -1
        )
        history = [orjson.loads(member[_ARRIVAL_DIGITS:])[0] for member in members]
        seen = {self._row_of[item_id] for item_id in (*history, *question.exclude_item_ids)}
        latest = self._row_of[history[-1]]
        scores, rows = self._index.search(self._vectors[latest : latest + 1], question.k + len(seen))
        found = zip(rows[0].tolist(), scores[0].tolist(), strict=True)
        return [(row, score) for row, score in found if row not in seen][: question.k]

    def answer(self, question: Question, found: list[tuple[int, float]]) -> Answer:
        """The list as it is sent."""
        return Answer(
            user_id=question.user_id,
            items=[
                Item(rank=rank, item_id=self._ids[row], score=score, fields={"title": self._titles[row]})
                for rank, (row, score) in enumerate(found, start=1)
            ],
        )

    async def bare_seconds(self, user_ids: list[str], seconds: float) -> float:
        """Seconds of wall time for one piece of the task without HTTP, one after the other."""
        number, started = 0, time.perf_counter()
        while (spent := time.perf_counter() - started) < seconds:
            question = Question(user_id=user_ids[number % len(user_ids)])
            orjson.dumps(self.answer(question, await self.recommend(question)).model_dump())
            number += 1
        return spent / number


@app.command()
def serve(store: Path, bundle_id: str, redis_url: str) -> None:
    """Serves ``POST /recommend`` on the port of the environment."""
    shop, api = PlainShop(store, bundle_id, redis_url), FastAPI()

    @api.get("/readyz")
    async def is_ready() -> dict[str, Any]:
        return {}

    @api.post("/recommend")
    async def recommend(question: Question) -> Answer:
        return shop.answer(question, await shop.recommend(question))

    port = int(os.environ["PORT"])
    uvicorn.run(api, host="127.0.0.1", port=port, log_config=None, access_log=False, loop="uvloop", http="httptools")


@app.command()
def bare(store: Path, bundle_id: str, redis_url: str, user_ids: str, seconds: float) -> None:
    """Prints how many pieces of the bare work one process does per second; user ids are separated by commas."""
    shop = PlainShop(store, bundle_id, redis_url)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        each = runner.run(shop.bare_seconds(user_ids.split(","), seconds))
    typer.echo(json.dumps({"per_s": 1 / each}))


if __name__ == "__main__":
    app()
