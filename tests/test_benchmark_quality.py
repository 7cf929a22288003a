"""The comparison of systems runs, goes on where it was, and its statistics are what they say."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.quality.statistics import METRICS, average_gain, differences, intervals, redrawn_means, user_gains
from tests.offline.datasets import write_small_dataset

ROOT = Path(__file__).parent.parent


def test_gains_are_averaged_over_seeds_and_users() -> None:
    ranks = np.array([[1, 7, 300], [12, 3, 2]])
    gains = user_gains(ranks)
    found = dict(zip(METRICS, gains.mean(axis=0), strict=True))
    assert found["recall@5"] == pytest.approx(np.mean([0.5, 0.5, 0.5]))
    assert found["recall@10"] == pytest.approx(np.mean([0.5, 1.0, 0.5]))
    expected = np.mean([1 / 2, (1 / 3 + 1 / 2) / 2, (1 / np.log2(3)) / 2])
    assert found["ndcg@10"] == pytest.approx(expected)


def test_an_interval_holds_the_mean_as_often_as_it_says() -> None:
    draw = np.random.default_rng(1)
    held = 0
    for _ in range(60):
        sample = np.repeat((draw.random((400, 1)) < 0.3).astype(float), len(METRICS), axis=1)
        one = intervals(sample)["recall@10"]
        held += one.low <= 0.3 <= one.high
    assert held >= 50


def test_differences_pair_users_so_that_what_all_share_is_no_noise() -> None:
    draw = np.random.default_rng(0)
    shared = np.repeat(draw.random((500, 1)) * 10, len(METRICS), axis=1)
    one = differences(shared + 0.01, shared)["ndcg@10"]
    assert one.low == pytest.approx(0.01)
    assert one.high == pytest.approx(0.01)
    assert np.array_equal(redrawn_means(shared), redrawn_means(shared))
    half = intervals(shared)
    double = intervals(2 * shared)
    assert average_gain(double, half) == pytest.approx(1.0)


def test_the_comparison_is_written_and_a_second_run_measures_nothing_again(tmp_path: Path) -> None:
    data = write_small_dataset(tmp_path / "data", num_users=60)
    options = "--preset tiny --epochs 1 --device cpu --text-field title"
    recipe = tmp_path / "one.yaml"
    recipe.write_text(json.dumps({"members": {"clicks": f"hllm {options} --item-input id"}}))
    command = [sys.executable, "-m", "benchmarks.quality", "--data", str(data), "--out", str(tmp_path / "out")]
    command += ["--recipe", str(recipe), "--baseline", "popularity", "--baseline", "item-knn"]
    lines, logs = [], []
    for _ in range(2):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        lines.append(done.stdout.splitlines()[-1])
        logs.append(done.stderr)
    assert lines[0] == lines[1]
    assert "clicks, without seen items" in logs[0]
    assert "seen items" not in logs[1]
    report = json.loads((tmp_path / "out/quality.json").read_text())
    assert set(report["systems"]) == {"popularity", "item-knn", "clicks", "blend"}
    blend, clicks = report["systems"]["blend"], report["systems"]["clicks"]
    assert blend["metrics"]["ndcg@10"]["mean"] == pytest.approx(clicks["metrics"]["ndcg@10"]["mean"])
    systems = report["systems"]
    of_clicks = {name: systems[name]["metrics"]["ndcg@10"]["mean"] for name in ("popularity", "item-knn", "clicks")}
    assert report["best_ids"] == max(of_clicks, key=of_clicks.__getitem__)
    # another recipe of the same name is another measurement
    recipe.write_text(json.dumps({"members": {"clicks": f"hllm {options} --item-input id --seed 1"}}))
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert "clicks, without seen items" in done.stderr
    text = (tmp_path / "out/quality.md").read_text()
    assert "| blend | 1 |" in text
    assert (tmp_path / "out/quality.png").stat().st_size > 1_000


def test_an_unknown_baseline_is_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.quality", "--data", "d", "--out", str(tmp_path), "--baseline", "x"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert "no baseline 'x'" in done.stderr.splitlines()[-1]
