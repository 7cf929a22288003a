"""The benchmarks run, on shapes so small that their times mean nothing."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_hatllm_benchmark_prints_its_figures_and_finds_no_difference() -> None:
    shape = "--items 6 --tokens-per-item 4 --layers 4 --in-band 1 --cr-band .5 --width 32 --heads 2 --users 3"
    command = [sys.executable, "-m", "benchmarks.hatllm", *shape.split(), "--rounds", "1", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    figures = json.loads(done.stdout.splitlines()[-1])
    for workload in (figures, figures["batch"]):
        assert 0 < workload["max_abs_diff"] <= 1e-4
        assert min(workload[name] for name in ("cold_speedup", "warm_speedup", "cold_ratio_to_floor")) > 0
    assert figures["shape"] == {
        "items": 6,
        "tokens_per_item": 4,
        "layers": 4,
        "in_layers": 1,
        "cr_layers": 2,
        "width": 32,
        "heads": 2,
        "users": 3,
    }


def test_masks_deeper_than_the_model_are_one_line() -> None:
    command = [sys.executable, "-m", "benchmarks.hatllm", "--layers", "4", "--in-band", "3", "--cr-band", "3"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith("deeper than the model: 3 IN and 3 CR layers, the model has 4")


def test_the_filter_benchmark_prints_its_figures_and_every_plan() -> None:
    command = [sys.executable, "-m", "benchmarks.filters", "--items", "9000", "--width", "8", "--rounds", "3", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    figures = json.loads(done.stdout.splitlines()[-1])
    cases = figures["cases"]
    assert {case["plan"] for case in cases.values()} == {"over_fetch", "exact_scan"}
    assert cases["filter leaves 50.0%"]["plans_ms"].keys() == {"over_fetch", "selector", "exact_scan"}
    assert all(case["ratio_to_floor"] > 0 for case in cases.values())
    assert min(figures["floor_ms"], figures["first_evaluation_ms"]) > 0
