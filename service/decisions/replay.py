"""Makes the list of a recommendation again from its decision record, and says whether it is the same.

Same bundle, same history, same constraints, in this process. Prints one JSON line; ends with 0 if the lists are equal,
with 1 if they differ, and with 2 if the list cannot be made again.
"""

import asyncio
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from model_store.artifacts.store import ModelStore
from model_store.errors import HatstandError, InvalidInput
from model_store.people.appending import RetentionLimits
from model_store.people.owner import owners_of
from service.decisions.codec import decode
from service.decisions.replaying import Replay, replay_record
from service.decisions.store import MAX_RECORD_BYTES
from service.engine.loading import Loader
from service.errors import ServiceError
from service.people.interactions import NO_INTERACTIONS, Interactions, joined
from service.redis.calls import RedisCalls, connect
from service.redis.decisions import DecisionLimits, RedisDecisionStore
from service.redis.histories import RedisHistoryStore

app = typer.Typer(add_completion=False, help=__doc__)

_EXIT_DIFFERENT = 1
_EXIT_IMPOSSIBLE = 2
_FOREVER_SECONDS = 100 * 365 * 86_400


@app.command()
def main(
    store: Annotated[str, typer.Option(help="Path or URL of the model store.")],
    recommendation_id: Annotated[str | None, typer.Option("--id", help="Of an answer of /recommend.")] = None,
    file: Annotated[Path | None, typer.Option(help="A record as GET /recommendations/{id} answers it.")] = None,
    redis_url: Annotated[
        str | None, typer.Option(help="redis://, rediss:// or unix:// of the service's Redis; needed with --id.")
    ] = None,
    cluster: Annotated[bool, typer.Option("--cluster", help="The url names a node of a Redis Cluster.")] = False,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    timeout: Annotated[float, typer.Option(help="Seconds that Redis has for each answer.", min=0.1)] = 10.0,
) -> None:
    """Make the list of a decision record again and compare."""
    if (recommendation_id is None) == (file is None):
        raise InvalidInput("expected --id (with --redis-url) or --file")
    if recommendation_id is not None and redis_url is None:
        raise InvalidInput("--id needs --redis-url, where the records are kept")
    found = _from_file(file) if file is not None else None
    document, result = asyncio.run(_replay(store, found, recommendation_id or "", redis_url, cluster, device, timeout))
    typer.echo(json.dumps(_figures(document, result)))
    if result.first_difference is not None:
        raise typer.Exit(_EXIT_DIFFERENT)


async def _replay(
    store: str,
    document: dict[str, Any] | None,
    recommendation_id: str,
    redis_url: str | None,
    cluster: bool,
    device: str,
    timeout: float,
) -> tuple[dict[str, Any], Replay]:
    interactions = None
    if redis_url is not None:
        calls = RedisCalls(connect(redis_url, cluster=cluster, timeout_seconds=timeout), timeout_seconds=timeout)
        try:
            if document is None:
                document = await _from_redis(calls, recommendation_id)
            if (document.get("history") or {}).get("item_ids") is None:
                interactions = await _stored_history(calls, document)
        finally:
            await calls.aclose()
    assert document is not None  # there is a file, or an id and a Redis
    loader = Loader(ModelStore(store), device=device, state_bytes=0, reserve_bytes=-1)
    return document, await replay_record(document, loader.open, interactions=interactions)


def _from_file(file: Path) -> dict[str, Any]:
    try:
        document = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{file} is not a decision record: {' '.join(str(error).split())}") from error
    if not isinstance(document, dict) or "recommendation_id" not in document:
        raise InvalidInput(f"{file} is not a decision record: expected what GET /recommendations/{{id}} answers")
    return document


async def _from_redis(calls: RedisCalls, recommendation_id: str) -> dict[str, Any]:
    limits = DecisionLimits(max_bytes=MAX_RECORD_BYTES, ttl_seconds=_FOREVER_SECONDS)
    packed = await RedisDecisionStore(calls, limits).get(recommendation_id)
    if packed is None:
        raise InvalidInput(f"there is no decision record {recommendation_id!r}: never kept, too old, or erased")
    return decode(packed)


async def _stored_history(calls: RedisCalls, document: dict[str, Any]) -> Interactions:
    """The history as it is kept now, for a record that has only a hash of it."""
    histories = RedisHistoryStore(calls, limits=RetentionLimits())
    named = owners_of(document["user_id"], document["session_id"])
    stored = [(await histories.read(owner)).interactions for owner in named]
    return joined(stored) if stored else NO_INTERACTIONS


def _figures(document: dict[str, Any], result: Replay) -> dict[str, Any]:
    rank = result.first_difference
    return {
        "recommendation_id": document["recommendation_id"],
        "equal": rank is None,
        "source": document["source"],
        "bundle": document["versions"]["bundle"],
        "num_items": len(result.recorded),
        "first_difference": None
        if rank is None
        else {"rank": rank, "recorded": _at(result.recorded, rank), "replayed": _at(result.replayed, rank)},
        "largest_score_difference": result.largest_score_difference,
    }


def _at(items: Sequence[tuple[str, float]], rank: int) -> dict[str, Any] | None:
    if rank > len(items):
        return None
    item_id, score = items[rank - 1]
    return {"item_id": item_id, "score": score}


def run() -> None:
    """Runs it as a process: what is impossible ends as one line on standard error and exit code 2."""
    logging.basicConfig(level="WARNING", format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    try:
        app()
    except (HatstandError, ServiceError) as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(_EXIT_IMPOSSIBLE)


if __name__ == "__main__":
    run()
