import shutil
from pathlib import Path

import pytest
import torch

from model_store.backbone.load import Backbone
from model_store.backbone.lora import LoraSettings, apply_lora, is_adapted
from model_store.errors import ArtifactCorrupt, ArtifactIncompatible, ArtifactNotFound
from model_store.hllm.files import item_tower_hash, load_hllm, save_hllm
from model_store.hllm.network import HLLM
from model_store.kinds import load_model, read_kind
from tests.model_store.models import make_hllm

TEXTS = ["title: red shoe", "", "title: blue hat number 7"]


def _outputs(model: HLLM) -> tuple[torch.Tensor, torch.Tensor]:
    assert model.item_tokenizer is not None
    assert model.item_vectors is not None
    with torch.no_grad():
        text = model.encode_item_tokens(model.item_tokenizer.collate(model.item_tokenizer.encode(TEXTS)))
        items = model.combine(text, model.item_vectors.rows_of(["i2", "new", "i1"]))
        timestamps = torch.tensor([[1, 10**8, 10**9]])
        users = model.encode_users(items[None].float(), torch.ones(1, 3, dtype=torch.bool), timestamps)
    return items, users


def _with_lora(model: HLLM, sides: tuple[str, ...]) -> HLLM:
    for side in sides:
        part = getattr(model, side)
        adapted = apply_lora(Backbone(part.backbone, None, 0), LoraSettings(r=2, alpha=4))
        part.backbone = adapted.model
        with torch.no_grad():
            for name, parameter in adapted.model.named_parameters():
                if "lora_" in name:
                    parameter.normal_(std=0.2)
    return model.eval()


@pytest.mark.parametrize("sides", [(), ("item_llm",), ("user_llm",), ("item_llm", "user_llm")])
def test_saved_equals_loaded(sides: tuple[str, ...], tmp_path: Path) -> None:
    model = _with_lora(make_hllm(), sides)
    model.logit_scale.data.fill_(3.5)
    save_hllm(model, tmp_path)

    loaded = load_hllm(tmp_path)

    assert loaded.config == model.config
    assert loaded.logit_scale.item() == 3.5
    for saved, now in zip(_outputs(model), _outputs(loaded), strict=True):
        assert torch.equal(saved, now)
    for side in ("item_llm", "user_llm"):
        assert is_adapted(getattr(loaded, side).backbone) == (side in sides)
        assert (tmp_path / "adapter" / side).is_dir() == (side in sides)


def test_loading_with_merged_adapters_computes_the_same(tmp_path: Path) -> None:
    model = _with_lora(make_hllm(), ("item_llm", "user_llm"))
    save_hllm(model, tmp_path)
    merged = load_hllm(tmp_path, merge_adapters=True)
    assert not any("lora_" in name for name, _ in merged.named_parameters())
    for saved, now in zip(_outputs(model), _outputs(merged), strict=True):
        torch.testing.assert_close(saved, now, atol=1e-4, rtol=0)


def test_saving_twice_gives_the_same_bytes_and_no_path_of_this_machine(tmp_path: Path) -> None:
    model = _with_lora(make_hllm(), ("item_llm",))
    save_hllm(model, tmp_path / "a")
    save_hllm(load_hllm(tmp_path / "a"), tmp_path / "b")
    names = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    for name in names:
        content = (tmp_path / "a" / name).read_bytes()
        assert content == (tmp_path / "b" / name).read_bytes(), name
        assert str(tmp_path).encode() not in content, name
        assert not name.name.endswith((".bin", ".pt", ".pkl", ".md"))


def test_a_model_does_not_change_by_being_used(tmp_path: Path) -> None:
    model = make_hllm()
    save_hllm(model, tmp_path / "before")
    assert model.item_tokenizer is not None
    model.item_tokenizer.encode(["a long title " * 200])
    save_hllm(model, tmp_path / "after")
    assert item_tower_hash(tmp_path / "before") == item_tower_hash(tmp_path / "after")
    for path in (tmp_path / "before").rglob("*.json"):
        assert path.read_bytes() == (tmp_path / "after" / path.relative_to(tmp_path / "before")).read_bytes(), path


def test_half_precision_computes_nearly_the_same(tmp_path: Path) -> None:
    model = make_hllm()
    save_hllm(model, tmp_path)
    half = load_hllm(tmp_path, dtype=torch.bfloat16)
    assert half.logit_scale.dtype == torch.float32
    assert half.item_vectors is not None
    assert half.item_vectors.weight.dtype == torch.bfloat16
    items, _ = _outputs(model)
    assert half.item_tokenizer is not None
    with torch.no_grad():
        text = half.encode_item_tokens(half.item_tokenizer.collate(half.item_tokenizer.encode(TEXTS)))
        half_items = half.combine(text, half.item_vectors.rows_of(["i2", "new", "i1"])).float()
        mask = torch.ones(1, 3, dtype=torch.bool)
        users = half.encode_users(items[None].bfloat16(), mask, torch.tensor([[1, 10**8, 10**9]])).float()
    assert torch.nn.functional.cosine_similarity(items, half_items).min() > 0.99
    assert torch.nn.functional.cosine_similarity(_outputs(model)[1], users).min() > 0.99


def test_a_service_loads_the_users_side_alone(tmp_path: Path) -> None:
    save_hllm(make_hllm(), tmp_path)
    for name in ("item_llm", "known_items.parquet"):  # proof that it is not even read
        path = tmp_path / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    model = load_model(tmp_path, parts={"user"})

    assert isinstance(model, HLLM)
    assert model.item_llm is None
    assert model.item_vectors is None
    assert model.user_llm is not None
    with pytest.raises(ArtifactIncompatible, match="only a part"):
        save_hllm(model, tmp_path / "again")


def test_the_id_twin_survives(tmp_path: Path) -> None:
    twin = make_hllm(item_input="id", has_joint=False)
    save_hllm(twin, tmp_path)
    loaded = load_hllm(tmp_path)
    assert not (tmp_path / "item_llm").exists()
    rows = torch.tensor([0, -1, 1])
    assert torch.equal(twin.combine(None, rows), loaded.combine(None, rows))


def test_the_item_tower_hash_knows_what_item_embeddings_depend_on(tmp_path: Path) -> None:
    def digest(name: str, model: HLLM) -> str:
        save_hllm(model, tmp_path / name)
        return item_tower_hash(tmp_path / name)

    original = digest("original", make_hllm())
    assert digest("same", make_hllm()) == original

    def changed(parameter: str) -> str:
        model = make_hllm()
        with torch.no_grad():
            model.get_parameter(parameter).view(-1)[0] += 1
        return digest(parameter, model)

    for parameter in (
        "item_llm.backbone.norm.weight",
        "item_llm.item_token",
        "item_llm.joint.bias",
        "item_vectors.weight",
    ):
        assert changed(parameter) != original, parameter
    for parameter in ("user_llm.backbone.norm.weight", "user_llm.time_features.hidden.bias", "logit_scale"):
        assert changed(parameter) == original, parameter
    assert digest("prompt", make_hllm(item_prompt="")) != original
    assert digest("ids", make_hllm(known_item_ids=("i1", "i3"))) != original
    assert digest("length", make_hllm(max_history_length=9)) == original
    assert digest("lora", _with_lora(make_hllm(), ("item_llm",))) != original
    assert digest("user lora", _with_lora(make_hllm(), ("user_llm",))) == original


def test_damage_is_named(tmp_path: Path) -> None:
    model = make_hllm()
    save_hllm(model, tmp_path)
    heads = tmp_path / "heads.safetensors"
    whole = heads.read_bytes()
    heads.write_bytes(whole[:100])
    with pytest.raises(ArtifactCorrupt, match="heads.safetensors"):
        load_hllm(tmp_path)
    heads.unlink()
    with pytest.raises(ArtifactNotFound, match="heads.safetensors"):
        load_hllm(tmp_path)
    heads.write_bytes(whole)
    (tmp_path / "known_items.parquet").write_bytes(b"no parquet")
    with pytest.raises(ArtifactCorrupt, match="known_items.parquet"):
        load_hllm(tmp_path)
    shutil.rmtree(tmp_path / "user_llm")
    with pytest.raises(ArtifactNotFound, match="user_llm"):
        load_hllm(tmp_path, parts={"user"})


def test_heads_of_another_model_are_refused(tmp_path: Path) -> None:
    save_hllm(make_hllm(), tmp_path / "a")
    save_hllm(make_hllm(known_item_ids=("i1", "i2", "i3")), tmp_path / "b")
    save_hllm(make_hllm(has_time_features=False), tmp_path / "c")
    for other, reason in (("b", "item_vectors.weight is"), ("c", "tensors missing: user_llm.time_features")):
        shutil.copy(tmp_path / other / "heads.safetensors", tmp_path / "a")
        with pytest.raises(ArtifactCorrupt, match=reason):
            load_hllm(tmp_path / "a")


@pytest.mark.parametrize(
    ("content", "error"),
    [("{", ArtifactCorrupt), ('{"kind": "telepathy"}', ArtifactIncompatible), ("[]", ArtifactIncompatible)],
)
def test_a_directory_of_an_unknown_kind_is_refused(content: str, error: type[Exception], tmp_path: Path) -> None:
    with pytest.raises(ArtifactNotFound, match="config.json"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(error, match="config.json"):
        load_model(tmp_path)


def test_the_kind_is_read_from_the_directory(tmp_path: Path) -> None:
    save_hllm(make_hllm(), tmp_path)
    assert read_kind(tmp_path) == "hllm"
