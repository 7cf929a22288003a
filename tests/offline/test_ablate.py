"""Ablations on a shop of forty items: what is run, what is not run again, and what the tables say."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from model_store.artifacts.durable import hold
from model_store.artifacts.store import ModelStore
from model_store.errors import HatstandError, InvalidInput
from offline.ablate import RESULTS, AblateSettings, ablate, app, base_settings
from offline.evaluate import EvaluateSettings, evaluate
from offline.job.store_models import find_model
from offline.studies.ablation_report import draw_study, format_study
from offline.studies.ablation_results import METRICS, Results, collect_rows, plan_runs
from offline.studies.ablation_run import Measure
from offline.studies.ablation_studies import ORDERS, normalised, variants
from offline.training.hatllm.settings import HatTrainSettings
from tests.model_store.models import make_directory
from tests.offline.training.chain_shop import write_chain_shop

PNG = b"\x89PNG"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_chain_shop(tmp_path_factory.mktemp("data") / "shop")


def settings_of(shop: Path, store: Path, **changes: Any) -> HatTrainSettings:
    """Four layers, one IN and two CR; one epoch."""
    options = {"preset": "tiny", "epochs": 1, "device": "cpu", "precision": "float32", **changes}
    return HatTrainSettings(data=shop, store=str(store), **options)


def lines_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / RESULTS).read_text().splitlines()]


# ---- what is run ----


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"in_band": 0.25, "cr_band": 0.5}, {"in_band": 1, "cr_band": 2}),
        ({"no_masks": True}, {"in_band": 0, "cr_band": 0}),
        ({"no_masks": True, "cr_keys": "all", "band_order": "cr,in,or"}, {"no_masks": True}),
        ({"in_band": 0, "band_order": "or,in,cr"}, {"in_band": 0}),
        ({"full": True}, {"full": False}),  # random weights are trained as a whole anyway
    ],
)
def test_settings_that_make_the_same_network_become_equal(
    changes: dict[str, Any], same: dict[str, Any], shop: Path, tmp_path: Path
) -> None:
    base = settings_of(shop, tmp_path)
    assert normalised(replace(base, **changes), 4) == normalised(replace(base, **same), 4)


@pytest.mark.parametrize(
    "changes", [{"in_band": 2}, {"cr_keys": "all"}, {"band_order": "cr,or,in"}, {"no_masks": True}, {"epochs": 2}]
)
def test_settings_that_make_another_network_or_recipe_stay_different(
    changes: dict[str, Any], shop: Path, tmp_path: Path
) -> None:
    base = settings_of(shop, tmp_path)
    assert normalised(replace(base, **changes), 4) != normalised(base, 4)


def test_every_study_varies_one_thing_around_the_base(shop: Path, tmp_path: Path) -> None:
    base = settings_of(shop, tmp_path, backbone="some-weights", preset="base")

    rows, left_out = variants(("all",), base, 16)

    assert left_out == {}
    of_study: dict[str, list[Any]] = {}
    for row in rows:
        of_study.setdefault(row.study, []).append(row)
    assert all(sum(row.is_base for row in own) == 1 for own in of_study.values())
    assert [row.value for row in of_study["in-layers"]] == ["0", "1", "2", "4", "8"]
    assert [row.value for row in of_study["cr-layers"]] == ["0", "1", "4", "8", "12"]
    assert {row.settings.cr_band for row in of_study["in-layers"]} == {8.0}
    assert {row.settings.in_band for row in of_study["cr-layers"]} == {4.0}
    assert [row.value for row in of_study["order"]] == ["-".join(order) for order in ORDERS]
    assert len({row.settings.band_order for row in of_study["order"]}) == 6
    assert [row.settings.cr_keys for row in of_study["cr-keys"]] == ["last", "all"]
    assert [(row.settings.in_band, row.settings.cr_band) for row in of_study["masks"]] == [(4.0, 8.0), (0.0, 0.0)]
    assert [(row.value, row.settings.full) for row in of_study["lora"]] == [("8", False), ("full", True)]


@pytest.mark.parametrize(
    ("studies", "values", "changes", "message"),
    [
        (("width",), (), {}, "'width': expected one of in-layers"),
        (("in-layers",), ("3",), {}, "deeper than the model: 3 IN and 2 CR layers, the model has 4"),
        (("in-layers",), ("few",), {}, "'few': expected numbers of IN layers"),
        (("cr-layers",), ("-1",), {}, "'-1': expected numbers of CR layers"),
        (("order",), ("in-in-cr",), {}, "expected orders such as in-or-cr"),
        (("cr-keys",), ("first",), {}, "expected last or all"),
        (("masks",), ("some",), {}, "expected masks or none"),
        (("masks", "order"), ("none",), {}, "--study names 2"),
        (("lora",), (), {}, "expected --backbone"),
        (("cr-keys",), (), {"cr_band": 0}, "there is no CR band"),
        (("order",), (), {"no_masks": True}, "there are no masks to vary"),
    ],
)
def test_what_cannot_be_studied_is_refused_before_anything_runs(
    studies: tuple[str, ...], values: tuple[str, ...], changes: dict[str, Any], message: str, shop: Path, tmp_path: Path
) -> None:
    base = settings_of(shop, tmp_path / "store", **changes)
    with pytest.raises(InvalidInput, match=message):
        ablate(AblateSettings(base, tmp_path / "out", studies, values=values))
    assert not (tmp_path / "out").exists()


def test_all_leaves_out_what_has_no_meaning(shop: Path, tmp_path: Path) -> None:
    rows, left_out = variants(("all",), settings_of(shop, tmp_path), 4)
    assert list(left_out) == ["lora"]
    assert {row.study for row in rows} == {"in-layers", "cr-layers", "order", "cr-keys", "masks"}


# ---- runs ----


def test_the_table_is_what_evaluate_says_and_nothing_is_run_twice(shop: Path, tmp_path: Path) -> None:
    out, store = tmp_path / "out", ModelStore(tmp_path / "store")
    base = settings_of(shop, tmp_path / "store")
    settings = AblateSettings(
        base, out, ("masks", "cr-keys"), seeds=(3,), measure=Measure(max_cases=100, keeps_models=True)
    )

    outcome = ablate(settings)

    # with masks and CR at last tokens is the base of both studies
    assert (outcome["num_run"], outcome["num_reused"]) == (3, 0)
    lines = lines_of(out)
    assert [(line["study"], line["value"], line["seed"]) for line in lines] == [
        ("masks", "masks", 3),
        ("cr-keys", "last", 3),
        ("masks", "none", 3),
        ("cr-keys", "all", 3),
    ]
    assert lines[0]["key"] == lines[1]["key"]
    for line in lines:
        report = evaluate(EvaluateSettings(model=line["model_id"], data=shop, store=store.root, max_cases=100))
        assert line["num_cases"] == 100
        overall = report["systems"]["model"]["all"]
        assert line["metrics"] == pytest.approx({metric: overall[metric] for metric in METRICS}, abs=1e-9)
    table = json.loads((out / "masks.json").read_text())
    with_masks, without = table["rows"]
    assert with_masks["is_base"]
    assert with_masks["metrics"]["ndcg@10"] == {"mean": lines[0]["metrics"]["ndcg@10"], "sd": None}
    gain = lines[2]["metrics"]["ndcg@10"] - lines[0]["metrics"]["ndcg@10"]
    assert without["ndcg@10_over_base"]["mean"] == pytest.approx(gain)
    assert f"{lines[2]['metrics']['recall@5']:.4f}" in (out / "masks.md").read_text()
    assert (out / "masks.png").read_bytes().startswith(PNG)
    assert not (out / "work").exists()

    again = ablate(settings)

    assert (again["num_run"], again["num_reused"]) == (0, 3)
    assert lines_of(out) == lines
    assert again["tables"] == outcome["tables"]

    # killed after training and before its line was written: the model is found, not trained again
    (out / RESULTS).write_text("".join(json.dumps(line) + "\n" for line in lines[:2] + lines[3:]))
    scratch = ModelStore(out / "work" / lines[2]["key"])
    find_model(scratch, str(store.model_directory(lines[2]["model_id"])))

    third = ablate(settings)

    assert (third["num_run"], third["num_reused"]) == (1, 2)
    assert lines_of(out)[-1] == lines[2]
    assert lines[2]["training_seconds"] > 0
    assert not (out / "work").exists()


def test_another_seed_or_measure_is_another_run_and_the_store_stays_empty(shop: Path, tmp_path: Path) -> None:
    out, store = tmp_path / "out", tmp_path / "store"
    base = settings_of(shop, store, max_minutes=0.001)
    settings = AblateSettings(base, out, ("masks",), seeds=(0,), values=("masks",), measure=Measure(max_cases=20))
    assert ablate(settings)["num_run"] == 1

    both = ablate(replace(settings, seeds=(0, 1)))
    other = ablate(replace(settings, measure=Measure(max_cases=20, exclude_seen=False)))
    longer = ablate(replace(settings, base=replace(base, max_minutes=0.002)))

    assert (both["num_run"], both["num_reused"]) == (1, 1)
    assert (other["num_run"], longer["num_run"]) == (1, 1)
    row = json.loads((out / "masks.json").read_text())["rows"][0]
    assert row["seeds"] == [0]  # the last command's table is of its own runs
    assert ModelStore(store).models() == []


def test_a_variant_that_fails_is_named_and_the_others_are_done(shop: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    base = settings_of(shop, tmp_path / "store", max_item_tokens=100)  # times 30 items: more than there are positions

    with pytest.raises(HatstandError, match=r"2 of 2 runs failed, the first one is masks=masks seed=0: .*positions"):
        ablate(AblateSettings(base, out, ("masks",), seeds=(0,)))

    assert not (out / RESULTS).exists()
    assert "none yet" in (out / "masks.md").read_text()
    assert not (out / "work").exists()


def test_two_ablations_do_not_write_into_one_directory(shop: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with (
        hold(tmp_path / "out/.running"),
        pytest.raises(InvalidInput, match="in use by another ablation"),
    ):
        ablate(AblateSettings(settings_of(shop, tmp_path / "store"), tmp_path / "out", ("masks",)))


def test_a_file_of_results_that_is_none_is_refused(shop: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / RESULTS).write_text('{"key": "a"}\n')
    with pytest.raises(InvalidInput, match=r"results\.jsonl: line 1 is no result"):
        ablate(AblateSettings(settings_of(shop, tmp_path / "store"), tmp_path / "out", ("masks",)))


# ---- tables ----


def test_rows_are_means_over_seeds_and_gains_are_seed_by_seed(shop: Path, tmp_path: Path) -> None:
    rows, _ = variants(("in-layers",), settings_of(shop, tmp_path), 4, values=("0", "1", "2"))
    runs = plan_runs(rows, (0, 1), data="d", measured={})
    results = Results(tmp_path / RESULTS)
    figures = {"0": (0.1, 0.4), "1": (0.2, 0.3)}
    for run in runs:
        if run.variant.value in figures:
            value = figures[run.variant.value][run.settings.seed]
            metrics = dict.fromkeys(METRICS, value)
            results.add({**run.cell, "metrics": metrics, "training_seconds": 300.0})

    table = collect_rows(runs, Results(tmp_path / RESULTS))
    text = format_study("in-layers", table, setup={"dataset": "shop"})
    draw_study("in-layers", table, tmp_path / "plot.png")

    zero = table[0].to_dict()
    assert zero["metrics"]["recall@5"] == {"mean": pytest.approx(0.25), "sd": pytest.approx(0.2121, abs=1e-4)}
    # -0.1 with seed 0, +0.1 with seed 1
    assert zero["ndcg@10_over_base"] == {"mean": pytest.approx(0.0), "sd": pytest.approx(0.1414, abs=1e-4)}
    assert table[2].to_dict()["metrics"]["recall@5"] == {"mean": None, "sd": None}
    lines = text.splitlines()
    assert lines[-3].startswith("| 0 | 0,1 | 0.2500 ± 0.2121 |")
    assert lines[-3].endswith("| +0.0000 ± 0.1414 | 5 min |")
    assert lines[-2].startswith("| 1 *(base)* | 0,1 | 0.2500 ± 0.0707 |")
    assert lines[-1] == "| 2 | none yet | - | - | - | - | - | - |"
    assert (tmp_path / "plot.png").read_bytes().startswith(PNG)


# ---- the command ----


def test_the_command_takes_the_options_of_training(shop: Path, tmp_path: Path) -> None:
    arguments = ["hatllm", "--data", str(shop), "--store", str(tmp_path / "store"), "--out", str(tmp_path / "out")]
    training = ["--preset", "tiny", "--num-layers", "3", "--epochs", "1", "--device", "cpu", "--precision", "float32"]

    outcome = CliRunner().invoke(
        app,
        [*arguments, "--study", "in-layers", "--values", "0", "--seeds", "5", "--max-cases", "10", *training],
        catch_exceptions=False,
    )

    lines = outcome.stdout.splitlines()
    assert lines[0] == "### in-layers: number of IN layers"
    assert "base: 1 IN, 0 OR, 2 CR layers" in lines[2]
    assert "| 0 | 5 |" in outcome.stdout
    assert json.loads(lines[-1])["num_run"] == 1
    assert lines_of(tmp_path / "out")[0]["settings"]["num_layers"] == 3


def test_training_options_are_read_as_training_reads_them(shop: Path) -> None:
    paths = ["--data", str(shop), "--store", "s"]
    settings = base_settings([*paths, "--objective", "both", "--lora-targets", "all", "--no-item-vectors"])
    assert settings == HatTrainSettings(
        data=shop, store="s", objective="both", lora_targets="all", item_vectors=False, text_fields=()
    )
    with pytest.raises(InvalidInput, match="expected --seeds"):
        base_settings([*paths, "--seed", "3"])


def test_the_depth_of_given_weights_is_their_own(shop: Path, tmp_path: Path) -> None:
    backbone = make_directory("llama", tmp_path / "weights")  # two layers
    base = settings_of(shop, tmp_path / "store", backbone=str(backbone), in_band=1, cr_band=2)
    with pytest.raises(InvalidInput, match="1 IN and 2 CR layers, the model has 2"):
        ablate(AblateSettings(base, tmp_path / "out", ("lora",)))


def test_generation_alone_is_not_measured(shop: Path, tmp_path: Path) -> None:
    base = settings_of(shop, tmp_path / "store", objective="generate")
    with pytest.raises(InvalidInput, match="expected retrieve or both"):
        ablate(AblateSettings(base, tmp_path / "out", ("masks",)))
