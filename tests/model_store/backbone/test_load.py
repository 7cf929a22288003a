from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Gemma3Config

from model_store.backbone.load import drop_word_embeddings, load_backbone, quiet_progress
from model_store.backbone.lora import LoraSettings, apply_lora
from model_store.errors import ArtifactIncompatible, ArtifactNotFound, InvalidInput
from tests.model_store.models import CORPUS, FAMILIES, PRETRAINED, make_directory, make_tokenizer, needs_pretrained


@pytest.mark.parametrize("family", FAMILIES)
def test_any_family_loads_from_a_directory_without_its_head(family: str, tmp_path: Path) -> None:
    backbone = load_backbone(make_directory(family, tmp_path))

    assert backbone.hidden_size == 32
    assert backbone.tokenizer is not None
    assert backbone.is_causal == (family != "bert")
    assert not any("lm_head" in name or "pooler" in name for name in backbone.model.state_dict())
    assert backbone.model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_called_causal_cannot_see_the_future(family: str, tmp_path: Path) -> None:
    backbone = load_backbone(make_directory(family, tmp_path))
    embeddings = torch.randn(1, 6, 32)
    other_end = embeddings.clone()
    other_end[:, -1] = torch.randn(32)

    with torch.no_grad():
        first, second = (backbone.model(inputs_embeds=e).last_hidden_state[:, :5] for e in (embeddings, other_end))

    assert torch.allclose(first, second, atol=1e-6) == backbone.is_causal


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_a_family_can_start_from_random_weights_in_another_shape(family: str, tmp_path: Path) -> None:
    directory = make_directory(family, tmp_path)
    (directory / "model.safetensors").unlink()

    backbone = load_backbone(directory, random_init=True, hidden_size=48, num_layers=3, num_heads=2)

    assert backbone.hidden_size == 48
    assert len(backbone.model.layers) == 3
    assert backbone.model(inputs_embeds=torch.randn(1, 4, 48)).last_hidden_state.shape == (1, 4, 48)


def test_pretrained_weights_have_the_shape_they_have(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="fixed shape"):
        load_backbone(make_directory("llama", tmp_path), num_layers=1)


def test_a_preset_reads_any_text_in_any_script() -> None:
    backbone = load_backbone("preset:tiny", tokenizer_corpus=CORPUS)
    assert backbone.tokenizer is not None
    text = "title: red shoe 日本語 \U0001f600"

    ids = backbone.tokenizer(text)["input_ids"]

    assert ids[0] == backbone.tokenizer.bos_token_id
    assert backbone.tokenizer.decode(ids, skip_special_tokens=True) == text
    assert max(ids) < backbone.model.config.vocab_size


def test_a_preset_without_texts_has_no_words() -> None:
    backbone = load_backbone("preset:small", hidden_size=64, num_layers=1, num_heads=2)
    assert backbone.tokenizer is None
    assert backbone.model.get_input_embeddings().weight.shape == (1, 64)


def test_weights_come_in_the_asked_for_precision(tmp_path: Path) -> None:
    backbone = load_backbone(make_directory("llama", tmp_path), dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in backbone.model.parameters()} == {torch.bfloat16}


def test_dropping_word_embeddings_changes_nothing_for_embeddings(tmp_path: Path) -> None:
    backbone = load_backbone(make_directory("mistral", tmp_path / "a"))
    inputs = torch.randn(2, 5, 32)
    with torch.no_grad():
        before = backbone.model(inputs_embeds=inputs).last_hidden_state
        drop_word_embeddings(backbone.model)
        backbone.model.save_pretrained(tmp_path / "b")
        after = load_backbone(tmp_path / "b").model(inputs_embeds=inputs).last_hidden_state
    assert torch.equal(before, after)


def test_a_sentence_transformers_directory_with_a_subfolder_loads(tmp_path: Path) -> None:
    make_directory("bert", tmp_path / "0_Transformer")
    assert not load_backbone(tmp_path).is_causal


def test_a_directory_without_weights_is_named(tmp_path: Path) -> None:
    directory = make_directory("llama", tmp_path)
    (directory / "model.safetensors").unlink()
    with pytest.raises(ArtifactNotFound, match=f"{directory}: no weights"):
        load_backbone(directory)
    (directory / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(ArtifactNotFound, match="pytorch_model.bin is a pickle"):
        load_backbone(directory)


def test_a_directory_without_configuration_or_none_at_all_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactNotFound, match="no config.json"):
        load_backbone(tmp_path)
    with pytest.raises(ArtifactNotFound, match="nowhere"):
        load_backbone(str(tmp_path / "nowhere"))


def test_damaged_weights_are_refused_in_one_line(tmp_path: Path) -> None:
    directory = make_directory("llama", tmp_path)
    weights = directory / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ArtifactIncompatible) as refusal:
        load_backbone(directory)
    assert "\n" not in str(refusal.value)


def test_a_directory_that_is_no_known_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "no-such-model"}')
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ArtifactIncompatible, match="no-such-model"):
        load_backbone(tmp_path)


@pytest.mark.parametrize(
    ("source", "shape"),
    [("preset:huge", {}), ("preset:tiny", {"hidden_size": 30}), ("preset:tiny", {"num_heads": 0})],
)
def test_impossible_presets_are_bad_input(source: str, shape: dict[str, int]) -> None:
    with pytest.raises(InvalidInput):
        load_backbone(source, **shape)


@pytest.mark.parametrize("random_init", [False, True])
def test_a_tokenizer_larger_than_the_embedding_is_refused_before_any_text_meets_it(
    tmp_path: Path, random_init: bool
) -> None:
    directory = make_directory("llama", tmp_path)
    tokenizer = make_tokenizer()
    num_rows = len(tokenizer)
    tokenizer.add_tokens(["<one>", "<two>"])
    tokenizer.save_pretrained(directory)
    expected = (
        f"{directory}: the tokenizer has ids up to {num_rows + 1}, the word embedding has {num_rows} rows: resize"
    )
    with pytest.raises(ArtifactIncompatible, match=expected):
        load_backbone(directory, random_init=random_init)
    backbone = load_backbone(make_directory("llama", tmp_path / "whole"))
    cast(Any, backbone.model).resize_token_embeddings(num_rows + 2)
    with quiet_progress():
        backbone.model.save_pretrained(directory)
    assert load_backbone(directory).tokenizer is not None


def test_a_model_of_several_parts_is_refused_with_what_to_do(tmp_path: Path) -> None:
    Gemma3Config().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ArtifactIncompatible, match=f"{tmp_path}: gemma3 has several parts.*text_config; save"):
        load_backbone(tmp_path)


def test_an_adapter_is_refused_with_what_to_do(tmp_path: Path) -> None:
    adapted = apply_lora(load_backbone(make_directory("llama", tmp_path / "base")), LoraSettings(targets=("q_proj",)))
    adapted.model.save_pretrained(tmp_path / "adapter")
    with pytest.raises(ArtifactIncompatible, match=r"adapter: an adapter \(PEFT\).*merge both first"):
        load_backbone(tmp_path / "adapter")


@needs_pretrained
def test_real_pretrained_weights_load() -> None:
    assert PRETRAINED is not None
    backbone = load_backbone(PRETRAINED)
    assert backbone.tokenizer is not None
    tokens = backbone.tokenizer("Once upon a time", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        logits = backbone.model(input_ids=tokens).last_hidden_state @ backbone.model.get_input_embeddings().weight.T
    assert logits.softmax(-1).max() > 0.5  # a trained model is sure of itself somewhere in its favourite opening


def test_a_directory_lacking_some_weights_is_refused(tmp_path: Path) -> None:
    weights = make_directory("llama", tmp_path) / "model.safetensors"
    tensors = {name: tensor for name, tensor in load_file(weights).items() if "layers.1." not in name}
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(ArtifactIncompatible, match=r"weights are missing, layers\.1\."):
        load_backbone(tmp_path)
