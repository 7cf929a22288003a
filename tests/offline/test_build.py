"""offline.build with a pre-trained Item LLM: a text head beside the model, and what is published of the two."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from model_store.artifacts.store import ModelStore
from offline.build import app
from tests.model_store.models import make_directory

NUM_ITEMS, NUM_USERS = 40, 80


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two files of a shop, and a small text encoder with random weights."""
    folder = tmp_path_factory.mktemp("files")
    words = ["hat", "coat", "scarf", "boot", "glove"]
    with (folder / "items.jsonl").open("w") as file:
        for number in range(NUM_ITEMS):
            file.write(
                json.dumps({"item_id": f"i{number}", "title": f"{words[number % 5]} of kind {number // 5}"}) + "\n"
            )
    draw = np.random.default_rng(0)
    with (folder / "interactions.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["user_id", "item_id", "timestamp"])
        for user in range(NUM_USERS):
            for place, item in enumerate(draw.choice(NUM_ITEMS, 6, replace=False)):
                writer.writerow([f"u{user}", f"i{item}", 1_700_000_000 + 1_000 * user + place])
    make_directory("bert", folder / "bert")
    return folder


def _build(files: Path, store: Path, *options: str) -> tuple[dict[str, object], str]:
    command = ["--items", str(files / "items.jsonl"), "--interactions", str(files / "interactions.csv")]
    command += ["--store", str(store), "--preset", "tiny", "--device", "cpu", "--item-llm", str(files / "bert")]
    finished = CliRunner().invoke(app, [*command, *options], catch_exceptions=False)
    assert finished.exit_code == 0, finished.output
    return json.loads(finished.stdout.splitlines()[-1]), finished.stdout


def test_a_text_head_is_published_with_the_model_if_it_helps(files: Path, tmp_path: Path) -> None:
    report, said = _build(files, tmp_path / "store")
    store = ModelStore(str(tmp_path / "store"))
    kinds = {model.kind for model in store.models()}
    assert kinds == {"hllm", "blend"}
    trained = [model.training["settings"]["user_model"] for model in store.models() if model.kind == "hllm"]
    assert sorted(trained) == ["lags", "llm"]
    helps = "the blend is published" in said
    assert helps != ("adds nothing" in said)
    live = store.live()
    assert live.default == ("blend" if helps else "hllm")
    assert live.bundles == {live.default: report["bundle_id"]}


def test_without_a_text_head_the_model_alone_is_trained(files: Path, tmp_path: Path) -> None:
    _build(files, tmp_path / "store", "--no-text-head")
    assert [model.kind for model in ModelStore(str(tmp_path / "store")).models()] == ["hllm"]


def test_a_text_head_without_a_pretrained_item_llm_is_refused(files: Path, tmp_path: Path) -> None:
    command = ["--items", str(files / "items.jsonl"), "--interactions", str(files / "interactions.csv")]
    finished = CliRunner().invoke(app, [*command, "--store", str(tmp_path), "--text-head"])
    assert "give --item-llm, or leave it out" in str(finished.exception)
