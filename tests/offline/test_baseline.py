import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from model_store.artifacts.store import ModelStore
from model_store.errors import InvalidInput
from offline.baseline import BaselineSettings, app, measure
from offline.evaluate import EvaluateSettings, evaluate
from tests.offline.datasets import write_small_dataset
from tests.offline.small_models import add_small_model, small_hllm


@pytest.mark.parametrize("max_cases", [0, 7])
def test_popularity_is_that_of_the_evaluation(tmp_path: Path, max_cases: int) -> None:
    store, data = ModelStore(tmp_path / "store"), write_small_dataset(tmp_path / "data")
    model = add_small_model(store, small_hllm(), split="leave-one-out")

    evaluated = evaluate(EvaluateSettings(model=model.model_id, data=data, store=store.root, max_cases=max_cases))
    report = measure(BaselineSettings(name="popularity", data=data, max_cases=max_cases))

    assert report["systems"]["popularity"] == evaluated["systems"]["popularity"]
    for key in ("dataset", "split", "cases", "candidates", "num_items", "num_cases", "left_out"):
        assert report[key] == evaluated[key]


def test_the_command_writes_the_report_and_ends_with_json(tmp_path: Path) -> None:
    data, path = write_small_dataset(tmp_path / "data"), tmp_path / "out" / "report.json"
    arguments = [
        "gru4rec",
        "--data",
        str(data),
        "--json",
        str(path),
        "--epochs",
        "2",
        "--width",
        "8",
        "--device",
        "cpu",
    ]

    result = CliRunner().invoke(app, arguments)

    assert result.exit_code == 0, result.output
    report = json.loads(path.read_text())
    last = json.loads(result.stdout.splitlines()[-1])
    assert last["ndcg@10"] == report["systems"]["gru4rec"]["all"]["ndcg@10"]
    assert report["training"]["width"] == 8
    assert 1 <= report["training"]["best_epoch"] <= report["training"]["epochs"] == 2


def test_an_unknown_name_is_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "offline.baseline", "sasrek", "--data", str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    assert ended.returncode == 2
    assert ended.stderr.splitlines() == [
        "error: no baseline 'sasrek', expected one of popularity, item-knn, gru4rec, sasrec, bsarec"
    ]


def test_an_odd_width_is_refused(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["sasrec", "--data", str(tmp_path), "--width", "7"])

    assert isinstance(result.exception, InvalidInput)
    assert "--width 7: expected an even number" in str(result.exception)
