"""Checks that the service recommends what the evaluation measured: same items, same order, same scores.

Evaluates a model, starts a real service with an embedded Redis in a temporary folder, sends the same users'
histories as events over HTTP, asks for their recommendations and compares.
"""

import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from model_store.artifacts.store import ModelStore
from model_store.errors import HatstandError
from offline.dataset.splits import SplitName
from offline.evaluate import EvaluateSettings, evaluate
from offline.job import job
from offline.job.store_models import find_model

START_SECONDS = 120
SCORE_TOLERANCE = 1e-4
app = typer.Typer(add_completion=False, help=__doc__)


def compare(model: str, data: Path, store: str, *, num_users: int, split: SplitName) -> dict[str, Any]:
    """Evaluates, serves and compares.

    Args:
        model: A model_id whose bundle is live in the store.
        data: A dataset directory.
        store: The model store.
        num_users: How many test users to compare.
        split: Which split their histories come from.

    Returns:
        ``users``, ``identical_lists`` (same items in the same order), ``max_score_difference``.
    """
    kind = find_model(ModelStore(store), model).kind
    with tempfile.TemporaryDirectory(prefix="hatstand-") as folder:
        expected_path = Path(folder, "expected.jsonl")
        evaluate(
            EvaluateSettings(
                model=model,
                data=data,
                store=store,
                split=split,
                max_cases=num_users,
                top_k_path=expected_path,
            )
        )
        expected = [json.loads(line) for line in expected_path.read_text().splitlines()]
        with (
            _service(store, Path(folder)) as port,
            closing(http.client.HTTPConnection("127.0.0.1", port)) as client,
        ):
            answers = [_recommend(client, case, kind) for case in job.progress(expected, description="users")]
    differences = [
        abs(item["score"] - score)
        for case, answer in zip(expected, answers, strict=True)
        for item, score in zip(answer["items"], case["scores"], strict=True)
    ]
    lists = [[item["item_id"] for item in answer["items"]] for answer in answers]
    return {
        "users": len(expected),
        "identical_lists": sum(a == case["item_ids"] for a, case in zip(lists, expected, strict=True)),
        "max_score_difference": float(np.max(differences)),
        "model_id": model,
    }


def _recommend(client: http.client.HTTPConnection, case: dict[str, Any], kind: str) -> dict[str, Any]:
    events = [{"user_id": case["user_id"], **event} for event in case["history"]]
    for start in range(0, len(events), 1_000):
        accepted = _post(client, "/events", {"events": events[start : start + 1_000]})
        if accepted["rejected"]:
            raise HatstandError(f"/events rejected {accepted['rejected'][0]}")
    answer = _post(client, "/recommend", {"user_id": case["user_id"], "k": 10, "model": kind})
    if answer["source"] != "model":
        raise HatstandError(f"/recommend answered from {answer['source']!r}, expected 'model'")
    return answer


def _post(client: http.client.HTTPConnection, path: str, body: dict[str, Any]) -> dict[str, Any]:
    client.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    response = client.getresponse()
    answer = json.loads(response.read())
    if response.status != http.HTTPStatus.OK:
        raise HatstandError(f"POST {path} answered {response.status}: {answer}")
    return answer


@contextmanager
def _service(store: str, folder: Path) -> Iterator[int]:
    """Runs ``python -m service`` on a free port of loopback until the block ends."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HATSTAND_")}
    environment |= {
        "HATSTAND_STORE": store,
        "HATSTAND_PORT": str(port),
        "HATSTAND_REDIS_DIRECTORY": str(folder / "redis"),
    }
    log_path = folder / "service.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "service"], env=environment, stdout=log, stderr=log)
        try:
            _wait_until_ready(process, port, log_path)
            yield port
        finally:
            process.terminate()
            process.wait(timeout=30)


def _wait_until_ready(process: subprocess.Popen[bytes], port: int, log_path: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as client:
                client.request("GET", "/readyz")
                if client.getresponse().status == http.HTTPStatus.OK:
                    return
        except OSError:
            pass
        time.sleep(0.2)
    raise HatstandError(f"the service was not ready in {START_SECONDS} s: {log_path.read_text()[-2_000:]}")


@app.command()
def main(
    model: Annotated[str, typer.Option(help="A model_id whose bundle is live.")],
    data: Annotated[Path, typer.Option(help="A dataset directory.")],
    store: Annotated[str, typer.Option(help="The model store.")],
    users: Annotated[int, typer.Option(min=1, help="How many test users.")] = 200,
    split: Annotated[SplitName, typer.Option(help="Where their histories come from.")] = SplitName.LEAVE_ONE_OUT,
) -> None:
    """Prints how many users got the same list online as offline; ends with 1 unless all did."""
    figures = compare(model, data, store, num_users=users, split=split)
    job.report(figures)
    is_same = figures["identical_lists"] == figures["users"]
    if not is_same or figures["max_score_difference"] > SCORE_TOLERANCE:
        raise typer.Exit(1)


if __name__ == "__main__":
    job.run(app)
