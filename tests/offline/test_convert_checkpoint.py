import json
import pickle
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from typer.testing import CliRunner

from model_store.artifacts.store import ModelStore
from model_store.catalogue.item_text import ITEM_PROMPT
from model_store.errors import ArtifactCorrupt, ArtifactIncompatible, ArtifactNotFound, InvalidInput
from model_store.hllm.files import load_hllm
from model_store.hllm.network import HLLM
from offline.convert_checkpoint import app
from tests.model_store.models import make_directory

HIDDEN = 32


def _tensors(directory: Path) -> dict[str, torch.Tensor]:
    """The layout of a released checkpoint: two whole language models with heads, and two parameters."""
    tensors = {
        "item_emb_tokens": torch.randn(1, 1, HIDDEN),
        "logit_scale": torch.tensor(3.25),
    }
    for seed, side in enumerate(("item_llm", "user_llm")):
        torch.manual_seed(seed + 5)
        model = AutoModelForCausalLM.from_pretrained(directory)
        for name, tensor in model.state_dict().items():
            tensors[f"{side}.{name}"] = torch.randn_like(tensor) * 0.15
    return tensors


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return make_directory("llama", tmp_path / "llama", hidden_size=HIDDEN)


def _convert(checkpoint: Path, llama: Path, *options: str) -> dict[str, object]:
    result = CliRunner().invoke(app, [str(checkpoint), "--item-llm", str(llama), *options], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.output.splitlines()[-1])


def _expected_item_embedding(tensors: dict[str, torch.Tensor], llama: Path, tokens: list[int]) -> torch.Tensor:
    """What the released code computes, written out: the whole causal model, [ITEM] in the last place."""
    model = AutoModelForCausalLM.from_pretrained(llama).eval()
    model.load_state_dict(
        {name.removeprefix("item_llm."): t for name, t in tensors.items() if name.startswith("item_llm.")}
    )
    with torch.no_grad():
        words = model.get_input_embeddings()(torch.tensor([tokens]))
        sequence = torch.cat((words, tensors["item_emb_tokens"]), dim=1)
        return model(inputs_embeds=sequence, output_hidden_states=True).hidden_states[-1][0, -1]


@pytest.mark.parametrize("wrapping", ["plain", "module", "nested"])
def test_a_released_checkpoint_computes_what_its_own_code_computes(wrapping: str, llama: Path, tmp_path: Path) -> None:
    tensors = _tensors(llama)
    content: dict[str, object] = dict(tensors)
    if wrapping == "module":
        content = {f"module.{name}": tensor for name, tensor in tensors.items()}
    if wrapping == "nested":
        content = {"state_dict": tensors, "epoch": 5}
    torch.save(content, tmp_path / "pytorch_model.bin")

    figures = _convert(tmp_path, llama, "--store", str(tmp_path / "store"), "--text-fields", "title,description")

    store = ModelStore(tmp_path / "store")
    model = load_hllm(store.model_directory(str(figures["model_id"])))
    assert isinstance(model, HLLM)
    assert model.config.text_fields == ("title", "description")
    assert model.config.item_prompt == ITEM_PROMPT
    assert model.logit_scale.item() == 3.25
    assert model.item_tokenizer is not None
    tokens = model.item_tokenizer.encode([ITEM_PROMPT + "title: red shoe"])
    with torch.no_grad():
        embedding = model.encode_item_tokens(model.item_tokenizer.collate(tokens))[0]
    torch.testing.assert_close(embedding, _expected_item_embedding(tensors, llama, tokens[0]), atol=2e-5, rtol=0)
    assert store.models()[0].training["checkpoint"] == tmp_path.name


def test_the_user_models_words_and_heads_are_left_out(llama: Path, tmp_path: Path) -> None:
    torch.save(_tensors(llama), tmp_path / "pytorch_model.bin")
    _convert(tmp_path / "pytorch_model.bin", llama, "--out", str(tmp_path / "model"))
    model = load_hllm(tmp_path / "model")
    assert model.user_llm is not None
    assert model.user_llm.backbone.get_input_embeddings().weight.shape == (1, HIDDEN)
    assert not any("lm_head" in name for name in model.state_dict())
    assert not list((tmp_path / "model").rglob("*.bin"))


def test_a_checkpoint_without_item_token_pools_by_mean(llama: Path, tmp_path: Path) -> None:
    tensors = {name: t.bfloat16() for name, t in _tensors(llama).items() if name != "item_emb_tokens"}
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    _convert(tmp_path, llama, "--out", str(tmp_path / "model"))
    assert load_hllm(tmp_path / "model").config.pooling == "mean"


def test_a_packed_attention_matrix_is_split(llama: Path, tmp_path: Path) -> None:
    config = json.loads((llama / "config.json").read_text())
    config["num_key_value_heads"] = config["num_attention_heads"]
    (llama / "config.json").write_text(json.dumps(config))
    (llama / "model.safetensors").unlink()
    tensors = _plain_tensors(llama)
    packed = dict(tensors)
    for name in list(packed):
        if name.endswith("q_proj.weight"):
            parts = [packed.pop(name.replace("q_proj", f"{part}_proj")) for part in "qkv"]
            packed[name.replace("q_proj", "W_pack")] = torch.cat(parts)
    outputs = []
    for number, content in enumerate((tensors, packed)):
        torch.save(content, tmp_path / f"{number}.bin")
        _convert(tmp_path / f"{number}.bin", llama, "--out", str(tmp_path / f"m{number}"))
        model = load_hllm(tmp_path / f"m{number}")
        with torch.no_grad():
            outputs.append(model.encode_users(torch.ones(1, 3, HIDDEN), torch.ones(1, 3, dtype=torch.bool)))
    assert torch.equal(*outputs)


def _plain_tensors(directory: Path) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    state = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(directory)).state_dict()
    return {f"{side}.{name}": t.clone() for side in ("item_llm", "user_llm") for name, t in state.items()}


class _Surprise:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemExit('code of the pickle ran')",))


def test_code_in_the_pickle_is_not_run(llama: Path, tmp_path: Path) -> None:
    torch.save({"item_llm.x": _Surprise()}, tmp_path / "zip.bin")
    (tmp_path / "old.bin").write_bytes(pickle.dumps({"item_llm.x": _Surprise()}))
    for name in ("zip.bin", "old.bin"):
        with pytest.raises(ArtifactCorrupt, match=name):
            _convert(tmp_path / name, llama, "--out", str(tmp_path / "model"))
    assert not (tmp_path / "model").exists()


def test_what_is_no_released_checkpoint_is_refused(llama: Path, tmp_path: Path) -> None:
    out = ("--out", str(tmp_path / "model"))
    path = tmp_path / "pytorch_model.bin"
    with pytest.raises(ArtifactNotFound, match="pytorch_model.bin"):
        _convert(path, llama, *out)
    path.write_bytes(b"half a fi")
    with pytest.raises(ArtifactCorrupt):
        _convert(path, llama, *out)
    torch.save({"weight": torch.zeros(3)}, path)
    with pytest.raises(ArtifactIncompatible, match="no tensors item_llm"):
        _convert(path, llama, *out)
    tensors = _tensors(llama)
    torch.save({name: t for name, t in tensors.items() if "item_llm.model.layers.1." not in name}, path)
    with pytest.raises(ArtifactIncompatible, match="has 1 layers"):
        _convert(path, llama, *out)
    torch.save({**tensors, "item_emb_tokens": torch.zeros(1, 1, 7)}, path)
    with pytest.raises(ArtifactIncompatible, match="item_emb_tokens"):
        _convert(path, llama, *out)
    torch.save(tensors, path)
    with pytest.raises(ArtifactNotFound, match="config.json"):
        _convert(path, tmp_path, *out)
    with pytest.raises(InvalidInput, match="either"):
        _convert(path, llama)
    assert not (tmp_path / "model").exists()
