import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from offline.job import job
from offline.train import app
from offline.training.checkpoints import latest_complete
from tests.offline.training.chain_shop import write_chain_shop

ROOT = Path(__file__).parents[2]
OPTIONS = ["--preset", "tiny", "--item-input", "id", "--device", "cpu", "--precision", "float32"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_chain_shop(tmp_path_factory.mktemp("data") / "shop")


def command(shop: Path, store: Path, *options: str) -> list[str]:
    return ["hllm", "--data", str(shop), "--store", str(store), *OPTIONS, *options]


def begin(*arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        arguments, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def end(process: "subprocess.Popen[str]") -> subprocess.CompletedProcess[str]:
    output, errors = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return end(begin(*arguments))


def kill_and_go_on(command_of: dict[str, list[str]], tmp_path: Path, *, stage: str) -> None:
    """Kills one run after its first checkpoint, goes on, and compares with one that runs beside it undisturbed."""
    whole = begin(*command_of["whole"])
    killed = begin(*command_of["killed"])
    while killed.poll() is None and not _has_checkpoint(tmp_path / "killed", stage=stage):
        time.sleep(0.02)
    killed.kill()
    end(killed)
    assert not list((tmp_path / "killed").glob("models/*")), "it ended before it could be killed"

    resumed, uninterrupted = run(*command_of["killed"]), end(whole)

    assert "going on from checkpoint-" in resumed.stderr
    assert last_line(resumed)["model_id"] == last_line(uninterrupted)["model_id"]


def last_line(finished: subprocess.CompletedProcess[str]) -> dict[str, object]:
    assert finished.returncode == 0, finished.stderr
    figures: dict[str, object] = json.loads(finished.stdout.splitlines()[-1])
    return figures


def test_a_run_killed_goes_on_from_its_checkpoint_to_the_same_model(shop: Path, tmp_path: Path) -> None:
    options = ("--epochs", "60", "--patience", "60", "--checkpoint-seconds", "0.3")
    command_of = {
        name: [sys.executable, "-m", "offline.train", *command(shop, tmp_path / name, *options)]
        for name in ("killed", "whole")
    }
    kill_and_go_on(command_of, tmp_path, stage="user_llm")


def test_a_killed_first_stage_goes_on_to_the_same_model(shop: Path, tmp_path: Path) -> None:
    options = ["--preset", "tiny", "--stage", "1", "--epochs", "3", "--device", "cpu", "--precision", "float32"]
    options += ["--weight-average", "0.9", "--averaging", "0.5"]
    command_of = {
        name: [sys.executable, "-m", "offline.train", "hllm", "--data", str(shop), "--store", str(tmp_path / name)]
        + [*options, "--checkpoint-seconds", "0.3"]
        for name in ("killed", "whole")
    }
    kill_and_go_on(command_of, tmp_path, stage="end_to_end")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ten_kills_at_random_moments_change_nothing(shop: Path, tmp_path: Path) -> None:
    options = ("--epochs", "600", "--patience", "600", "--checkpoint-seconds", "0.2")
    arguments = [sys.executable, "-m", "offline.train", *command(shop, tmp_path / "killed", *options)]
    draw = random.Random(0)
    for _ in range(10):
        process = subprocess.Popen(arguments, cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        process.stderr.readline()  # the imports are behind it
        time.sleep(draw.uniform(0.0, 3.0))
        process.kill()
        process.communicate()
        assert not list((tmp_path / "killed").glob("models/*/manifest.json")), "it ended before the tenth kill"

    uninterrupted = run(sys.executable, "-m", "offline.train", *command(shop, tmp_path / "whole", *options))
    assert last_line(run(*arguments))["model_id"] == last_line(uninterrupted)["model_id"]


def _has_checkpoint(store: Path, *, stage: str = "user_llm") -> bool:
    return any(latest_complete(directory) for directory in store.glob(f"work/*/{stage}"))


def test_two_processes_train_one_model(shop: Path, tmp_path: Path) -> None:
    options = ["--data", str(shop), "--store", str(tmp_path / "store"), "--preset", "tiny", "--epochs", "1"]
    finished = run(
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
        *("-m", "offline.train", "hllm", *options, "--device", "cpu", "--stage", "both", "--precision", "float32"),
    )
    model_id = last_line(finished)["model_id"]
    assert [path.name for path in (tmp_path / "store/models").iterdir()] == [model_id]


def test_bad_input_ends_with_one_line(tmp_path: Path) -> None:
    finished = run(sys.executable, "offline/train.py", *command(tmp_path / "nothing", tmp_path / "store"))
    assert finished.returncode == 2
    assert finished.stderr.splitlines()[-1].startswith("error: ")
    assert "is not a dataset" in finished.stderr


def test_a_hatllm_killed_goes_on_from_its_checkpoint_to_the_same_model(shop: Path, tmp_path: Path) -> None:
    options = ["--preset", "tiny", "--device", "cpu", "--precision", "float32", "--validation-cases", "60"]
    options += ["--objective", "both", "--epochs", "3", "--patience", "3", "--checkpoint-seconds", "0.3"]
    command_of = {
        name: [sys.executable, "-m", "offline.train", "hatllm", "--data", str(shop), "--store", str(tmp_path / name)]
        + options
        for name in ("killed", "whole")
    }
    kill_and_go_on(command_of, tmp_path, stage="hatllm")
    assert [one.name.partition("-")[0] for one in (tmp_path / "whole/models").iterdir()] == ["hatllm"]


# where a part of the model is not trained, processes must not wait for its gradient
@pytest.mark.parametrize("objective", ["both", "generate"])
def test_two_processes_train_one_hatllm(objective: str, shop: Path, tmp_path: Path) -> None:
    options = ["--data", str(shop), "--store", str(tmp_path / "store"), "--preset", "tiny", "--epochs", "1"]
    finished = run(
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
        *("-m", "offline.train", "hatllm", *options, "--device", "cpu", "--precision", "float32"),
        *("--objective", objective, "--validation-cases", "60"),
    )
    model_id = last_line(finished)["model_id"]
    assert [path.name for path in (tmp_path / "store/models").iterdir()] == [model_id]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--in-band", "3", "--cr-band", "3"), "deeper than the model"),
        (("--band-order", "in,or"), "--band-order is in,or"),
        (("--objective", "generate", "--item-end", "title"), "--item-end title"),
        (("--item-tower", "nothing"), "expected an id of the store"),
    ],
)
def test_bad_input_of_a_hatllm_ends_with_one_line(
    options: tuple[str, ...], message: str, shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["hatllm", "--data", str(shop), "--store", str(tmp_path / "store"), "--preset", "tiny", *options]
    with pytest.raises(SystemExit) as ended:
        job.run(lambda: app(arguments))
    assert ended.value.code == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: ")
    assert message in line
