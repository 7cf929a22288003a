"""The dense forward against a plain one, and the fast forward against the dense one."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from model_store.backbone.layered_attention import LAYERED
from model_store.backbone.load import Backbone, load_backbone
from model_store.backbone.lora import LoraSettings, apply_lora
from model_store.errors import ArtifactCorrupt, ArtifactIncompatible, ArtifactNotFound, InvalidInput
from model_store.hatllm.config import HatLLMConfig, window
from model_store.hatllm.files import item_tower_hash, load_hatllm, save_hatllm
from model_store.hatllm.network import HatLLM, build_hatllm
from model_store.kinds import load_model, read_kind
from tests.model_store.hat_models import TITLES, make_hatllm, title_tokens
from tests.model_store.models import make_directory, needs_pretrained
from tests.oracles.plain_forward import plain_states, word_embeddings

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
# rounding of float32 over six layers of states of size about 1 to 10
TOLERANCE = 1e-4
PLACES = torch.tensor([[3, 1, 2, 5, 9], [7, 3, -1, -1, -1], [0, 0, 0, 8, -1]])
IS_ITEM = PLACES >= 0


def sliding_free(family: str) -> dict[str, object]:
    # mistral's test model slides over 4 tokens: its histories must fit that
    return {"max_history_length": 1, "max_item_tokens": 4} if family == "mistral" else {}


def with_lora(model: HatLLM) -> HatLLM:
    backbone = Backbone(model.layers.model, model.item_tokenizer.tokenizer, model.layers.model.config.hidden_size)
    adapted = apply_lora(backbone, LoraSettings(targets=("q_proj", "v_proj")))
    for name, parameter in adapted.model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    built = build_hatllm(config=model.config, backbone=adapted, known_item_ids=("i1", "i2")).eval()
    built.user_head.load_state_dict(model.user_head.state_dict())
    return built


@pytest.mark.parametrize("has_lora", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_dense_forward_is_a_plain_softmax_under_the_masks(family: str, has_lora: bool, tmp_path: Path) -> None:
    model = make_hatllm(tmp_path, family=family, **sliding_free(family))
    if has_lora:
        model = with_lora(model)
    token_ids = torch.randint(3, 40, (9,), generator=torch.Generator().manual_seed(1)).tolist()
    item_of = [0, 1, 1, 1, 2, 3, 3, 4, 4]
    with torch.no_grad():
        expected = plain_states(model, token_ids, item_of)
        alone = model.dense_states(torch.tensor([token_ids]), torch.tensor([item_of]))[0]
        torch.testing.assert_close(alone, expected, atol=TOLERANCE, rtol=0)
        for left, right in ((3, 0), (0, 3)):  # padding on either side, with any tokens in it
            ids = torch.tensor([[5] * left + token_ids + [7] * right])
            items = torch.tensor([[9] * left + item_of + [9] * right])
            is_token = torch.tensor([[False] * left + [True] * 9 + [False] * right])
            padded = model.dense_states(ids, items, is_token)[0, left : left + 9]
            torch.testing.assert_close(padded, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(("in_layers", "cr_layers"), [(2, 2), (0, 0), (3, 0), (0, 4), (1, 5), (6, 0), (0, 6), (3, 3)])
def test_fast_equals_dense_for_every_split_of_the_depth(in_layers: int, cr_layers: int, tmp_path: Path) -> None:
    model = make_hatllm(tmp_path, in_layers=in_layers, cr_layers=cr_layers)
    tokens = title_tokens(model)
    assert model.runs_fast
    with torch.no_grad():
        fast, dense = model.window_queries(tokens, PLACES), model.dense_queries(tokens, PLACES)
    torch.testing.assert_close(fast[IS_ITEM], dense[IS_ITEM], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("item_end", ["title", "quote", "end_token"])
@pytest.mark.parametrize("family", FAMILIES)
def test_fast_equals_dense_for_every_family(family: str, item_end: str, tmp_path: Path) -> None:
    settings = {**sliding_free(family), "item_end": item_end, "modes": ("retrieve",)}
    model = with_lora(make_hatllm(tmp_path, family=family, **settings))
    tokens = title_tokens(model)
    with torch.no_grad():
        fast, dense = model.window_queries(tokens, PLACES), model.dense_queries(tokens, PLACES)
        queries, items = model.window_queries_and_items(tokens, PLACES)
    torch.testing.assert_close(fast[IS_ITEM], dense[IS_ITEM], atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(queries, fast)
    torch.testing.assert_close(items, model.encode_item_tokens(tokens))
    alone = model.encode_item_tokens(model.item_tokenizer.collate(model.item_tokenizer.encode(TITLES[4:5])))
    torch.testing.assert_close(items[4:5], alone, atol=TOLERANCE, rtol=0)  # an item does not depend on the others


@pytest.mark.parametrize(
    "settings",
    [
        {"band_order": ("cr", "or", "in")},
        {"cr_keys": "all"},
        {"self_visible_cr": False},
        {"prompt": "bought: "},
        {"prompt": "bought: ", "nonitem_visible_in": True, "nonitem_visible_cr": False},
    ],
)
def test_what_the_fast_forward_cannot_do_exactly_runs_dense(settings: dict[str, object], tmp_path: Path) -> None:
    model = make_hatllm(tmp_path, **settings)
    tokens = title_tokens(model)
    assert not model.runs_fast
    with torch.no_grad():
        queries, items = model.window_queries_and_items(tokens, PLACES)
        torch.testing.assert_close(queries, model.dense_queries(tokens, PLACES))
        one_by_one = model.window_queries(tokens, PLACES[2:, :4])
    torch.testing.assert_close(queries[2:, :4], one_by_one, atol=TOLERANCE, rtol=0)
    assert items.shape == (len(TITLES), 16)


def test_the_masks_change_the_answer(tmp_path: Path) -> None:
    masked = make_hatllm(tmp_path)
    plain = make_hatllm(tmp_path, in_layers=0, cr_layers=0)
    plain.load_state_dict(masked.state_dict())
    tokens = title_tokens(masked)
    with torch.no_grad():
        difference = (masked.window_queries(tokens, PLACES) - plain.window_queries(tokens, PLACES))[IS_ITEM]
    assert difference.abs().max() > 0.1


def test_fast_and_dense_have_the_same_gradients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_hatllm(tmp_path)
    tokens = title_tokens(model)
    target = torch.randn(int(IS_ITEM.sum()), 16, generator=torch.Generator().manual_seed(2))

    def gradients() -> dict[str, torch.Tensor]:
        model.zero_grad()
        queries, items = model.window_queries_and_items(tokens, PLACES)
        loss = (queries[IS_ITEM] * target).sum() + items.pow(2).sum() + model.next_token_loss(tokens, PLACES)
        loss.backward()
        return {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}

    fast = gradients()
    monkeypatch.setattr(HatLLM, "runs_fast", False)
    dense = gradients()
    assert fast.keys() == dense.keys()
    assert len(fast) > 50
    for name, gradient in dense.items():
        scale = float(gradient.abs().max())
        assert scale > 0, name
        torch.testing.assert_close(fast[name], gradient, atol=1e-4 * scale, rtol=1e-3, msg=name)


def test_checkpointing_gives_the_same_gradients(tmp_path: Path) -> None:
    model = make_hatllm(tmp_path).train()
    tokens = title_tokens(model)

    def gradient() -> torch.Tensor:
        model.zero_grad()
        model.window_queries(tokens, PLACES)[IS_ITEM].pow(2).sum().backward()
        weight = model.layers.model.get_input_embeddings().weight
        assert isinstance(weight, torch.nn.Parameter)
        assert weight.grad is not None
        return weight.grad.clone()

    plain = gradient()
    model.enable_gradient_checkpointing()
    torch.testing.assert_close(gradient(), plain)


@pytest.mark.parametrize("settings", [{}, {"cr_layers": 0}, {"target_as_item": False}, {"prompt": "read: "}])
def test_next_token_loss_is_the_cross_entropy_of_each_target_after_its_history(
    settings: dict[str, object], tmp_path: Path
) -> None:
    model = make_hatllm(tmp_path, **settings)
    tokens = title_tokens(model)
    segments = model.item_tokenizer.encode(TITLES)
    prompt = model.item_tokenizer.encode_prompt(model.config.prompt)
    history = [3, 1, 2]
    losses = []
    with torch.no_grad():
        table = word_embeddings(model)
        for target in range(1, 3) if model.config.target_as_item else (2,):
            ids, items = list(prompt), [0] * len(prompt)
            for ordinal, place in enumerate(history[:target], start=1):
                ids += segments[place]
                items += [ordinal] * len(segments[place])
            title = segments[history[target]]
            own = target + 1 if model.config.target_as_item else 0
            states = plain_states(model, ids + title, items + [own] * len(title))
            logits = states[len(ids) - 1 : -1] @ table.T
            losses += torch.nn.functional.cross_entropy(logits, torch.tensor(title), reduction="none").tolist()
        loss = model.next_token_loss(tokens, torch.tensor([[*history, -1]]))
    assert float(loss) == pytest.approx(sum(losses) / len(losses), abs=1e-4)


@pytest.mark.parametrize("has_lora", [False, True])
def test_saved_equals_loaded(has_lora: bool, tmp_path: Path) -> None:
    model = make_hatllm(tmp_path, has_item_vectors=True)
    assert model.item_vectors is not None
    torch.nn.init.normal_(model.item_vectors.weight)
    if has_lora:
        vectors = model.item_vectors
        model = with_lora(model)
        model.item_vectors = vectors
    save_hatllm(model, tmp_path / "saved")
    loaded = load_model(tmp_path / "saved")
    assert isinstance(loaded, HatLLM)
    assert read_kind(tmp_path / "saved") == "hatllm"
    assert loaded.config == model.config
    tokens = title_tokens(model)
    rows = loaded.item_vectors.rows_of(["i2", "new"]) if loaded.item_vectors else None
    with torch.no_grad():
        torch.testing.assert_close(loaded.window_queries(tokens, PLACES), model.window_queries(tokens, PLACES))
        torch.testing.assert_close(loaded.encode_item_tokens(tokens), model.encode_item_tokens(tokens))
        merged = load_hatllm(tmp_path / "saved", merge_adapters=True)
        torch.testing.assert_close(
            merged.window_queries(tokens, PLACES), model.window_queries(tokens, PLACES), atol=TOLERANCE, rtol=0
        )
        text = torch.zeros(2, 16)
        torch.testing.assert_close(loaded.combine(text, rows), model.combine(text, rows))
    save_hatllm(model, tmp_path / "again")
    assert item_tower_hash(tmp_path / "saved") == item_tower_hash(tmp_path / "again")


def test_the_item_tower_hash_covers_what_embeddings_depend_on_and_no_more(tmp_path: Path) -> None:
    model = make_hatllm(tmp_path)
    save_hatllm(model, tmp_path / "one")
    with torch.no_grad():
        model.user_head.bias += 1
    save_hatllm(model, tmp_path / "user")
    assert item_tower_hash(tmp_path / "user") == item_tower_hash(tmp_path / "one")
    assert model.item_head is not None
    with torch.no_grad():
        model.item_head.bias += 1
    save_hatllm(model, tmp_path / "item")
    assert item_tower_hash(tmp_path / "item") != item_tower_hash(tmp_path / "one")


def test_damage_is_named(tmp_path: Path) -> None:
    model = make_hatllm(tmp_path)
    save_hatllm(model, tmp_path / "saved")
    (tmp_path / "saved/heads.safetensors").write_bytes(b"nothing")
    with pytest.raises(ArtifactCorrupt, match=r"heads\.safetensors"):
        load_hatllm(tmp_path / "saved")
    (tmp_path / "saved/heads.safetensors").unlink()
    with pytest.raises(ArtifactNotFound, match=r"heads\.safetensors"):
        load_hatllm(tmp_path / "saved")
    (tmp_path / "saved/config.json").write_text('{"kind": "hatllm", "strange": 1}')
    with pytest.raises(ArtifactIncompatible, match="strange"):
        load_hatllm(tmp_path / "saved")


def test_an_attention_that_would_ignore_the_masks_is_refused(tmp_path: Path) -> None:
    source = make_directory("llama", tmp_path / "base")
    config = HatLLMConfig(embedding_dim=8, in_layers=1, cr_layers=1, max_item_tokens=8)
    for attention in ("sdpa", "eager"):
        with pytest.raises(ArtifactIncompatible, match=f"'{attention}', which ignores HatLLM's masks"):
            build_hatllm(config=config, backbone=load_backbone(str(source), attention=attention))
    build_hatllm(config=config, backbone=load_backbone(str(source), attention=LAYERED))


def test_parts_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    layered = load_backbone(str(make_directory("llama", tmp_path / "base")), attention=LAYERED)
    config = HatLLMConfig(embedding_dim=8, in_layers=1, cr_layers=1, max_item_tokens=8)
    with pytest.raises(InvalidInput, match="masks are deeper than the model: 2 IN and 1 CR layers, the model has 2"):
        build_hatllm(config=replace(config, in_layers=2), backbone=layered)
    with pytest.raises(InvalidInput, match="needs 800 positions, the language model has 512: at most 64 items"):
        build_hatllm(config=replace(config, max_history_length=100), backbone=layered)
    bert = load_backbone(str(make_directory("bert", tmp_path / "bert")))
    with pytest.raises(InvalidInput, match="needs a decoder, got bert"):
        build_hatllm(config=config, backbone=bert)
    with pytest.raises(InvalidInput, match="an HLLM was not given"):
        build_hatllm(config=replace(config, item_tower="hllm"), backbone=layered)
    with pytest.raises(InvalidInput, match="item_end is expected to be"):
        replace(config, item_end="title", modes=("generate",))
    with pytest.raises(InvalidInput, match="needs 3 tokens beside the title"):
        build_hatllm(config=replace(config, item_end="quote", max_item_tokens=3), backbone=layered)


def test_segments_have_exact_borders(tmp_path: Path) -> None:
    quoted = make_hatllm(tmp_path, item_end="quote").item_tokenizer
    ended = make_hatllm(tmp_path).item_tokenizer
    titles = ["red shoe", "", 'blue "best" hat', "red shoe" * 5_000, "</s> red"]
    end = ended.tokenizer.eos_token_id
    for segment in ended.encode(titles):
        assert segment[-1] == end
        assert segment.count(end) == 1  # not even a title that spells it
        assert len(segment) <= 12
    opening, closing = quoted.borders("quote")
    for segment in quoted.encode(titles):
        assert segment[: len(opening)] == opening
        assert segment[-len(closing) :] == closing
        assert len(segment) <= 12
    assert make_hatllm(tmp_path, item_end="title", modes=("retrieve",)).item_tokenizer.encode([""]) == [[0]]


def test_the_window_grows_and_begins_anew_at_half() -> None:
    assert [window(n, 4) for n in range(1, 12)] == [1, 2, 3, 4, 3, 4, 3, 4, 3, 4, 3]
    assert [window(n, 1) for n in range(4)] == [0, 1, 1, 1]
    for size in (1, 2, 3, 7, 50):
        starts = [n - window(n, size) for n in range(1, 500)]
        assert starts == sorted(starts)  # what was left out stays out
        assert all(size // 2 < window(n, size) <= size for n in range(size, 500))
        moves = sum(later > earlier for earlier, later in zip(starts, starts[1:], strict=False))
        assert moves <= math.ceil(500 / (size - size // 2))


@needs_pretrained
def test_pretrained_weights_load_with_their_own_token_head(tmp_path: Path) -> None:
    from tests.model_store.models import PRETRAINED

    backbone = load_backbone(str(PRETRAINED), attention=LAYERED, with_lm_head=True)
    config = HatLLMConfig(
        embedding_dim=16, in_layers=1, cr_layers=2, max_item_tokens=16, max_history_length=8, modes=("generate",)
    )
    model = build_hatllm(config=config, backbone=backbone).eval()
    save_hatllm(model, tmp_path / "saved")
    loaded = load_hatllm(tmp_path / "saved")
    tokens = title_tokens(model, ["Once upon a time", "there was a girl"])
    places = torch.tensor([[0, 1]])
    with torch.no_grad():
        torch.testing.assert_close(loaded.next_token_loss(tokens, places), model.next_token_loss(tokens, places))
