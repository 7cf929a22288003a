import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from model_store.artifacts.store import ModelStore
from model_store.errors import InvalidInput
from model_store.kinds import make_user_encoder
from model_store.people.histories import History
from offline.dataset.dataset import UserSequences
from offline.dataset.splits import EvaluationCases, SplitName
from offline.evaluate import EvaluateSettings, Mode, app, case_slices, evaluate
from offline.evaluation.catalogue_ranking import ConstantScorer, ModelScorer, rank_cases
from offline.evaluation.items import find_items
from offline.evaluation.ranking_metrics import UNREACHABLE_RANK
from offline.evaluation.report import format_table, summarise
from offline.reindex import ReindexSettings, reindex
from tests.model_store.hat_models import make_hatllm
from tests.offline.datasets import NUM_ITEMS, write_small_dataset
from tests.offline.small_models import add_hatllm, add_small_model, shop_catalogue, shop_table, small_hllm


def hand_made_cases() -> EvaluationCases:
    """Two users: a saw 1, 2, 3 then 4; b saw 2 then 2 again."""
    sequences = UserSequences(
        user_ids=["a", "b"],
        offsets=np.array([0, 4, 6]),
        item_indices=np.array([1, 2, 3, 4, 2, 2], dtype=np.int32),
        timestamps=np.arange(6),
    )
    return EvaluationCases(
        sequences=sequences,
        user_rows=np.array([0, 1]),
        history_ends=np.array([3, 5]),
        targets=np.array([4, 2]),
    )


def test_seen_items_do_not_rank_unless_asked() -> None:
    scorer = ConstantScorer(np.array([5, 4, 3, 2, 1], dtype=np.float32))

    without = rank_cases(scorer, hand_made_cases(), num_items=5, k=3)
    with_seen = rank_cases(scorer, hand_made_cases(), num_items=5, k=3, exclude_seen=False)

    assert without.ranks.tolist() == [1, UNREACHABLE_RANK]  # b has seen the target: it would never be shown
    assert without.recommended.tolist() == [[4, 5, 0], [1, 3, 4]]
    assert with_seen.ranks.tolist() == [4, 2]
    assert with_seen.recommended[0].tolist() == [1, 2, 3]


def test_slices_follow_training_counts_and_history_lengths() -> None:
    slices = case_slices(hand_made_cases(), np.array([3, 2, 1, 0, 0]))

    assert slices["cold_items"].tolist() == [True, False]
    assert slices["warm_items"].tolist() == [False, True]
    assert slices["history_up_to_5"].tolist() == [True, True]
    assert slices["history_over_20"].tolist() == [False, False]


def test_the_summary_has_every_cutoff_and_leaves_empty_slices_out() -> None:
    cases = hand_made_cases()
    scorer = ConstantScorer(np.array([5, 4, 3, 2, 1], dtype=np.float32))
    counts = np.array([3, 2, 1, 0, 0])
    ranking = rank_cases(scorer, cases, num_items=5, k=200, exclude_seen=False)

    summary = summarise(ranking, case_slices(cases, counts), counts=counts)

    assert "history_over_20" not in summary
    assert summary["all"]["cases"] == 2
    assert summary["all"]["recall@5"] == 1.0
    assert summary["all"]["mrr@10"] == (1 / 4 + 1 / 2) / 2
    assert summary["all"]["coverage@200"] == 1.0
    assert summary["cold_items"]["recall@10_standard_error"] is None
    table = format_table({"model": summary, "popularity": summary})
    assert "recall@200" in table
    assert len(table.splitlines()) == 2 + 2 * len(summary)


def test_the_scores_are_those_of_the_served_encoder(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "store")
    model = add_small_model(store, small_hllm())
    items = find_items(store, model, shop_catalogue(20))
    encoder = make_user_encoder(items)
    history = History(np.array([3, 1, 7]), np.array([1, 2, 3]))

    scores = ModelScorer(items.directions, encoder).score([history])[0].numpy()

    vectors = items.embeddings / np.linalg.norm(items.embeddings, axis=1, keepdims=True)
    assert scores == pytest.approx(vectors @ encoder.encode([history])[0], abs=1e-5)
    assert items.bundle_id is None


def test_evaluate_reports_model_popularity_and_twin(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "store")
    data = write_small_dataset(tmp_path / "data")
    model = add_small_model(store, small_hllm(), split="leave-one-out", seed=0)
    known = [f"i{row}" for row in range(NUM_ITEMS - 5)]
    twin = add_small_model(store, small_hllm(known_item_ids=known, item_input="id"), split="leave-one-out", seed=0)
    bundle = reindex(ReindexSettings(model=model.model_id, items=data, store=store.root))

    report = evaluate(
        EvaluateSettings(
            model=model.model_id,
            data=data,
            store=store.root,
            id_twin=twin.model_id,
            json_path=tmp_path / "report.json",
            plot_path=tmp_path / "report.png",
            top_k_path=tmp_path / "top.jsonl",
        )
    )

    assert report["bundle_id"] == bundle.bundle_id
    assert report["warnings"] == []
    assert set(report["systems"]) == {"model", "popularity", "id_twin"}
    assert report["systems"]["model"]["all"]["cases"] == 40
    # every item is within the first 200 of 30, unless the system cannot recommend it at all
    assert report["systems"]["model"]["all"]["recall@200"] == 1.0
    assert report["systems"]["id_twin"]["all"]["recall@200"] < 1.0
    assert json.loads((tmp_path / "report.json").read_text())["systems"] == report["systems"]
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")
    lines = [json.loads(line) for line in (tmp_path / "top.jsonl").read_text().splitlines()]
    assert len(lines) == 40
    for line in lines:
        assert len(line["item_ids"]) == len(line["scores"]) == 10
        assert not {event["item_id"] for event in line["history"]} & set(line["item_ids"])
        assert line["scores"] == sorted(line["scores"], reverse=True)


def test_held_out_items_are_the_cold_slice_and_popularity_does_not_know_them(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "store")
    data = write_small_dataset(tmp_path / "data")
    model = add_small_model(store, small_hllm(), split="leave-one-out", hold_out_items=0.3, seed=4)

    systems = evaluate(EvaluateSettings(model=model.model_id, data=data, store=store.root))["systems"]

    assert systems["model"]["cold_items"]["cases"] > 4
    assert systems["model"]["cold_items"]["recall@50"] == 1.0
    assert systems["popularity"]["cold_items"]["recall@5"] == 0.0


def test_a_sample_is_stable_and_mismatches_are_warned_of(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "store")
    data = write_small_dataset(tmp_path / "data")
    model = add_small_model(store, small_hllm(), split="leave-one-out")
    settings = EvaluateSettings(
        model=model.model_id, data=data, store=store.root, split=SplitName.TEMPORAL, max_cases=3
    )

    first, second = evaluate(settings), evaluate(settings)

    assert first["num_cases"] == 3
    assert first["systems"] == second["systems"]
    assert "may have seen targets" in first["warnings"][0]


def test_ranks_have_no_global_time_split(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "store")
    data = write_small_dataset(tmp_path / "data", time_unit="rank")
    model = add_small_model(store, small_hllm())

    with pytest.raises(InvalidInput, match="expected 'seconds'"):
        evaluate(EvaluateSettings(model=model.model_id, data=data, store=store.root, split=SplitName.TEMPORAL))


def test_a_bundle_of_other_items_or_of_another_model_is_refused(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "store")
    data = write_small_dataset(tmp_path / "data")
    model = add_small_model(store, small_hllm())
    other = add_small_model(store, small_hllm(seed=1))
    fewer = tmp_path / "fewer.parquet"
    pq.write_table(shop_table(5), fewer)
    bundle = reindex(ReindexSettings(model=model.model_id, items=fewer, store=store.root)).bundle_id

    with pytest.raises(InvalidInput, match="other items"):
        evaluate(EvaluateSettings(model=model.model_id, data=data, store=store.root, bundle=bundle))
    with pytest.raises(InvalidInput, match="is of model"):
        evaluate(EvaluateSettings(model=other.model_id, data=data, store=store.root, bundle=bundle))


def test_the_command_prints_a_table_and_ends_with_json(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "store")
    data = write_small_dataset(tmp_path / "data")
    model = add_small_model(store, small_hllm())
    arguments = ["--model", model.model_id, "--data", str(data), "--store", store.root]

    outcome = CliRunner().invoke(app, [*arguments, "--json", str(tmp_path / "r.json")], catch_exceptions=False)

    lines = outcome.stdout.splitlines()
    assert lines[0].split()[:3] == ["slice", "system", "cases"]
    assert json.loads(lines[-1])["num_cases"] == 40
    assert (tmp_path / "r.png").exists()


def test_a_hatllm_is_measured_both_ways(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "store")
    data = write_small_dataset(tmp_path / "data")
    model = make_hatllm(tmp_path, max_item_tokens=24)
    manifest = add_hatllm(store, model)
    settings = EvaluateSettings(model=manifest.model_id, data=data, store=str(tmp_path / "store"))

    retrieved = evaluate(settings)["systems"]["model"]["all"]
    bundle = reindex(ReindexSettings(model=manifest.model_id, items=data, store=str(tmp_path / "store")))
    from_bundle = evaluate(replace(settings, bundle=bundle.bundle_id))["systems"]["model"]["all"]
    assert from_bundle == pytest.approx(retrieved, abs=1e-6)

    top = tmp_path / "top.jsonl"
    generating = replace(settings, mode=Mode.GENERATE, num_titles=NUM_ITEMS, top_k_path=top)
    report = evaluate(generating)
    assert report["mode"] == "generate"
    assert 0 < report["systems"]["model"]["all"]["recall@10"] < 1
    for case in map(json.loads, top.read_text().splitlines()):
        assert len(case["item_ids"]) == 10
        assert not set(case["item_ids"]) & {event["item_id"] for event in case["history"]}
        assert all(score < 0 for score in case["scores"])


def test_titles_are_asked_of_a_model_that_writes_them(tmp_path: Path) -> None:
    manifest = add_small_model(ModelStore(tmp_path / "store"), small_hllm())
    data = write_small_dataset(tmp_path / "data")
    settings = EvaluateSettings(model=manifest.model_id, data=data, store=str(tmp_path / "store"), mode=Mode.GENERATE)
    with pytest.raises(InvalidInput, match="writes no titles"):
        evaluate(settings)
