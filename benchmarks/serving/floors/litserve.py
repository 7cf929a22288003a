"""The same encoder and index behind LitServe, with the batching settings of the service.

It gets the history in the request and keeps nothing, so it has less to do than the service: no Redis, no constraints,
no record of the answer.
"""

import os
from pathlib import Path
from typing import Annotated, Any

import litserve
import numpy as np
import torch
import typer

from model_store.artifacts.bundle import Bundle, open_bundle
from model_store.artifacts.store import ModelStore
from model_store.encoding import UserEncoder
from model_store.kinds import make_user_encoder
from model_store.people.histories import History


class Recommender(litserve.LitAPI):
    """Encodes histories in batches and searches the index.

    Args:
        store: The model store.
        bundle_id: What is served.
        threads: Of torch; 0: its own choice.
        max_batch_size: Users of one forward pass.
        batch_timeout: Seconds that the first of a batch waits for others.
    """

    def __init__(self, store: str, bundle_id: str, threads: int, *, max_batch_size: int, batch_timeout: float) -> None:
        super().__init__(max_batch_size=max_batch_size, batch_timeout=batch_timeout)
        self.store = store
        self.bundle_id = bundle_id
        self.threads = threads

    def setup(self, device: str) -> None:
        """Runs in the worker's process."""
        if self.threads:
            torch.set_num_threads(self.threads)
        self.bundle: Bundle = open_bundle(ModelStore(self.store), self.bundle_id)
        self.encoder: UserEncoder = make_user_encoder(self.bundle, device=device)
        self.titles: list[str] = self.bundle.catalogue.column("title").to_pylist()

    def decode_request(self, request: dict[str, Any], **_: Any) -> tuple[History, int]:
        """Item ids to a history."""
        item_indices = self.bundle.catalogue.indices_of(request["history"])
        return History(item_indices, np.arange(len(item_indices))), request["k"]

    def batch(self, inputs: list[tuple[History, int]]) -> list[tuple[History, int]]:
        """As they are: the encoder pads."""
        return inputs

    def predict(self, x: list[tuple[History, int]], **_: Any) -> list[list[tuple[int, float]]]:
        """The forward pass and the search of a batch."""
        users = self.encoder.encode([history for history, _ in x])
        scores, items = self.bundle.index.search(users, max(k for _, k in x))
        return [
            [(int(item), float(score)) for item, score in zip(items[row, :k], scores[row, :k], strict=True)]
            for row, (_, k) in enumerate(x)
        ]

    def unbatch(self, output: list[list[tuple[int, float]]]) -> list[list[tuple[int, float]]]:
        """One answer for each."""
        return output

    def encode_response(self, output: list[tuple[int, float]], **_: Any) -> dict[str, Any]:
        """Ids, titles and scores."""
        id_of, titles = self.bundle.catalogue.id_of, self.titles
        return {
            "items": [
                {"rank": rank, "item_id": id_of(item), "score": score, "fields": {"title": titles[item - 1]}}
                for rank, (item, score) in enumerate(output, start=1)
            ]
        }


def main(
    store: Path,
    bundle_id: str,
    threads: Annotated[int, typer.Option(help="Of torch; 0 = its own choice.")] = 0,
    batch_max_users: Annotated[int, typer.Option(help="Users of one forward pass.")] = 32,
    batch_max_wait_ms: Annotated[float, typer.Option(help="How long the first of a batch waits.")] = 1.0,
) -> None:
    """Serves ``/predict`` on the port that the environment names."""
    api = Recommender(
        str(store), bundle_id, threads, max_batch_size=batch_max_users, batch_timeout=batch_max_wait_ms / 1_000
    )
    server = litserve.LitServer(api, accelerator="cpu", devices=1, workers_per_device=1, timeout=60)
    server.run(host="127.0.0.1", port=int(os.environ["PORT"]), generate_client_file=False, log_level="warning")


if __name__ == "__main__":
    typer.run(main)
