from pathlib import Path

import numpy as np
import pytest
import torch

from model_store.catalogue.item_states import ItemTokens
from model_store.catalogue.item_text import item_text
from model_store.errors import InvalidInput
from offline.indexing.embed_items import EmbedOptions, embed_catalogue, plan_batches
from offline.indexing.item_shards import KnownEmbeddings
from tests.offline.small_models import shop_catalogue, shop_table, small_hllm


def test_batches_hold_every_item_once_within_the_budget() -> None:
    lengths = np.random.default_rng(0).integers(0, 60, 500)

    batches = plan_batches(lengths, token_budget=256, seed=1)

    assert sorted(np.concatenate(batches).tolist()) == list(range(500))
    assert max(len(batch) * (lengths[batch].max() + 1) for batch in batches) <= 256
    assert lengths[batches[0]].max() == lengths.max()
    padded = sum(len(batch) * (lengths[batch].max() + 1) for batch in batches)
    assert padded < 1.05 * (lengths + 1).sum()


def test_an_item_longer_than_the_budget_gets_a_batch_of_its_own() -> None:
    assert [batch.tolist() for batch in plan_batches(np.array([3, 500]), token_budget=64)] == [[1], [0]]


def test_no_items_make_no_batches() -> None:
    assert plan_batches(np.array([], dtype=np.int64), token_budget=64) == []


def test_embeddings_are_those_of_each_item_alone(tmp_path: Path) -> None:
    catalogue = shop_catalogue(50)
    model = small_hllm(known_item_ids=["i3", "i4"])

    embedded = embed_catalogue(model, catalogue, directory=tmp_path, options=EmbedOptions(token_budget=400))

    assert model.item_tokenizer is not None
    assert model.item_vectors is not None
    for row in (0, 3, 6, 49):
        text = item_text(catalogue.fields(row + 1), prompt=model.config.item_prompt, field_names=["title"])
        batch = model.item_tokenizer.collate(model.item_tokenizer.encode([text]))
        with torch.inference_mode():
            rows = model.item_vectors.rows_of([f"i{row}"])
            alone = model.combine(model.encode_item_tokens(batch), rows)[0].numpy()
        # float32 sums in another order
        assert embedded.embeddings[row] == pytest.approx(alone, abs=1e-5)
    assert (embedded.num_embedded, embedded.num_reused) == (50, 0)
    assert embedded.tokens.of_rows(np.array([0])) == model.item_tokenizer.encode(
        [item_text(catalogue.fields(1), prompt=model.config.item_prompt, field_names=["title"])]
    )


def test_item_vectors_can_be_left_out(tmp_path: Path) -> None:
    catalogue, model = shop_catalogue(5), small_hllm(known_item_ids=["i3"])

    whole = embed_catalogue(model, catalogue, directory=tmp_path)
    text_only = embed_catalogue(model, catalogue, directory=tmp_path / "text", with_item_vectors=False)

    differs = np.abs(whole.embeddings - text_only.embeddings).max(axis=1) > 1e-6
    assert differs.tolist() == [False, False, False, True, False]


def test_a_model_of_ids_embeds_without_text(tmp_path: Path) -> None:
    model = small_hllm(known_item_ids=["i0", "i2"], item_input="id")

    embedded = embed_catalogue(model, shop_catalogue(3), directory=tmp_path)

    assert (np.linalg.norm(embedded.embeddings, axis=1) > 0).tolist() == [True, False, True]
    assert embedded.tokens.token_ids.size == 0


def test_only_changed_items_are_embedded_again(tmp_path: Path) -> None:
    model = small_hllm()
    first = embed_catalogue(model, shop_catalogue(40), directory=tmp_path / "a")
    known = KnownEmbeddings(first.tokens.content_hashes, first.embeddings)

    again = embed_catalogue(model, shop_catalogue(40, changed=[7]), directory=tmp_path / "b", known=[known])

    assert (again.num_embedded, again.num_reused) == (1, 39)
    differs = np.abs(again.embeddings - first.embeddings).max(axis=1) > 0
    assert np.flatnonzero(differs).tolist() == [7]


def test_only_what_is_new_is_tokenised_again_and_the_tokens_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small_hllm()
    assert model.item_tokenizer is not None
    first = embed_catalogue(model, shop_catalogue(40), directory=tmp_path / "a")
    table = shop_table(50, changed=[7])
    other = type(shop_catalogue(1)).from_table(table.take([*range(49, 20, -1), *range(10)]))
    expected = embed_catalogue(model, other, directory=tmp_path / "b").tokens
    encode, encoded = model.item_tokenizer.encode, []
    monkeypatch.setattr(model.item_tokenizer, "encode", lambda texts: encoded.extend(texts) or encode(texts))
    kept = ItemTokens(np.asarray(first.tokens.token_ids), first.tokens.offsets)
    known = KnownEmbeddings(first.tokens.content_hashes, first.embeddings, kept)

    again = embed_catalogue(model, other, directory=tmp_path / "c", known=[known]).tokens

    assert len(encoded) == 11  # ten items more, and the changed one
    assert np.array_equal(again.token_ids, expected.token_ids)
    assert np.array_equal(again.offsets, expected.offsets)
    assert np.array_equal(again.content_hashes, expected.content_hashes)


def test_items_are_found_again_in_another_order(tmp_path: Path) -> None:
    model = small_hllm()
    table = shop_table(30)
    first = embed_catalogue(model, shop_catalogue(30), directory=tmp_path / "a")
    reordered = type(shop_catalogue(1)).from_table(table.take(list(range(29, -1, -1))))

    again = embed_catalogue(
        model,
        reordered,
        directory=tmp_path / "b",
        known=[KnownEmbeddings(first.tokens.content_hashes, first.embeddings)],
    )

    assert again.num_embedded == 0
    assert np.array_equal(again.embeddings, first.embeddings[::-1])


def test_an_interrupted_run_loses_at_most_the_shard_it_was_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_hllm()
    options = EmbedOptions(token_budget=256, shard_seconds=0.0)  # a shard for each batch
    whole = embed_catalogue(model, shop_catalogue(60), directory=tmp_path / "a", options=options).embeddings
    calls = 0
    encode = model.encode_item_tokens

    def stop_at_fifth(batch: object) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise KeyboardInterrupt
        return encode(batch)  # type: ignore[arg-type]

    monkeypatch.setattr(model, "encode_item_tokens", stop_at_fifth)
    with pytest.raises(KeyboardInterrupt):
        embed_catalogue(model, shop_catalogue(60), directory=tmp_path / "b", options=options)
    half_written = tmp_path / "b/shards/0.partial"
    half_written.write_bytes(b"half")
    monkeypatch.undo()

    resumed = embed_catalogue(model, shop_catalogue(60), directory=tmp_path / "b", options=options)

    num_batches = len(plan_batches(resumed.tokens.lengths, token_budget=256))
    assert num_batches > 6
    assert resumed.num_reused > 0
    assert resumed.num_embedded < 60
    assert not half_written.exists()
    assert resumed.embeddings == pytest.approx(whole, abs=1e-5)


def test_two_runs_in_one_directory_are_refused(tmp_path: Path) -> None:
    import fcntl

    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(InvalidInput, match="another process is working"):
            embed_catalogue(small_hllm(), shop_catalogue(3), directory=tmp_path)
