"""The loop, closed: what users do is exported, trained on, indexed, and answers them."""

import asyncio
import json
import random
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from model_store.artifacts.store import ModelStore
from offline.dataset.dataset import Dataset
from offline.import_data import app
from offline.reindex import ReindexSettings, reindex
from offline.training.hllm.run import train_hllm
from offline.training.hllm.settings import TrainSettings
from service.settings import Settings
from tests.offline.datasets import write_json_lines
from tests.offline.export.log_writing import export
from tests.processes.redis_processes import RedisProcess
from tests.shop import NUM_ITEMS, item_ids, running_app, shop_items, shop_root

__all__ = ["shop_root"]  # the fixture


def test_events_become_the_next_model_that_answers(shop_root: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(shop_root, store)
    with RedisProcess(tmp_path / "redis") as server:
        settings = Settings(store=str(store), redis_url=server.url, torch_threads=1, store_poll_seconds=0)
        asyncio.run(_loop(settings, server.url, store, tmp_path))


async def _loop(settings: Settings, url: str, store: Path, folder: Path) -> None:
    draw = random.Random(5)
    async with running_app(settings) as (_, client):
        before = (await client.post("/recommend", json={"user_id": "u0", "k": 3})).json()
        num_events = 0
        for user in range(80):
            item = draw.randrange(NUM_ITEMS)
            events = []
            for step in range(8):
                events.append(
                    {
                        "user_id": f"u{user}",
                        "item_id": f"i{item + 1}",
                        "timestamp": 1_700_000_000 + 60 * step,
                        "recommendation_id": before["recommendation_id"],
                    }
                )
                item = (item + 1) % NUM_ITEMS
            answer = await client.post("/events", json={"events": events})
            num_events += answer.json()["accepted"]
        exported = await asyncio.to_thread(export, url, folder / "events", trim=True)
        assert exported.events == num_events == 640
        await asyncio.to_thread(_train_and_publish, folder, store)
        await client.post("/admin/reload")
        after = await client.post("/recommend", json={"user_id": "u0", "k": 3})
    assert after.json()["bundle"] != before["bundle"]
    assert after.json()["source"] == "model"
    assert len(item_ids(after)) == 3


def _train_and_publish(folder: Path, store: Path) -> None:
    items = [{"item_id": row["item_id"], "title": row["title"]} for row in shop_items().to_pylist()]
    write_json_lines(folder / "items.jsonl", items)
    arguments = ["events", "--items", str(folder / "items.jsonl"), "--events", str(folder / "events")]
    result = CliRunner().invoke(app, [*arguments, "--out", str(folder / "dataset")], catch_exceptions=False)
    assert json.loads(result.stdout.splitlines()[-1])["num_interactions"] == 640
    dataset = Dataset.open(folder / "dataset")
    assert (dataset.description.num_users, dataset.description.source) == (80, "events")
    trained = train_hllm(
        TrainSettings(
            data=folder / "dataset",
            store=str(store),
            preset="tiny",
            text_fields=("title",),
            item_prompt="",
            max_minutes=0.15,
            # so short a run ends before its embeddings differ
            false_negative_cosine=1.0,
            validation_cases=20,
            device="cpu",
            precision="float32",
        )
    )
    reindex(ReindexSettings(model=trained.model_id, items=folder / "dataset", store=str(store)))
    assert ModelStore(str(store)).live().bundles["hllm"]


@pytest.fixture(autouse=True)
def _no_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TQDM_DISABLE", "1")
