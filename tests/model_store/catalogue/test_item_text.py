from typing import Any

import numpy as np
import pytest
import torch

from model_store.catalogue.item_text import ITEM_PROMPT, ItemTokenizer, content_hash, item_text
from model_store.hllm.network import HLLMConfig, Pooling
from tests.model_store.models import make_tokenizer

FIELDS = ("title", "tag", "description")


def test_text_is_prompt_then_fields_in_order_without_separator() -> None:
    fields = {"description": "warm", "title": "Red hat", "price": 3}
    assert item_text(fields, field_names=FIELDS) == f"{ITEM_PROMPT}title: Red hatdescription: warm"


@pytest.mark.parametrize("nothing", [None, "", "  ", float("nan"), np.float64("nan"), [], [None, ""], np.array([])])
def test_a_field_without_a_value_is_left_out(nothing: object) -> None:
    assert item_text({"title": "hat", "tag": nothing}, field_names=FIELDS) == f"{ITEM_PROMPT}title: hat"


def test_an_item_without_any_field_has_no_prompt_either() -> None:
    assert item_text({"title": None, "price": 3}, field_names=FIELDS) == ""


def test_values_of_all_types_become_text() -> None:
    fields = {
        "a": ["x", None, "y"],
        "b": np.int64(0),
        "c": False,
        "d": {"size": 3},
        "e": np.array(["p", "q"]),
        "f": 1.5,
    }
    assert item_text(fields, prompt="", field_names=list("abcdef")) == "a: x, yb: 0c: Falsed: size: 3e: p, qf: 1.5"


def test_content_hash_tells_ids_and_texts_apart() -> None:
    hashes = {
        content_hash("a", "bc"),
        content_hash("ab", "c"),
        content_hash("a", "b"),
        content_hash("a", "\ud800"),
    }
    assert len(hashes) == 4
    assert content_hash("a", "bc") == content_hash("a", "bc")


def _tokenizer(**settings: Any) -> ItemTokenizer:
    return ItemTokenizer(make_tokenizer(), HLLMConfig(embedding_dim=8, **settings))


def test_long_texts_are_cut_to_the_limit_and_keep_their_beginning() -> None:
    tokenizer = _tokenizer(max_text_tokens=8)
    short, long = tokenizer.encode(["red shoe", "red shoe " * 100])
    assert len(long) == 8
    assert long[: len(short)] == short


def test_a_huge_title_costs_no_more_than_its_first_part(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = _tokenizer(max_text_tokens=16)
    huge = "red " * 500_000
    assert tokenizer.encode([huge]) == tokenizer.encode([huge[:1000]])


def test_only_a_mean_needs_a_token_to_stand_for_nothing() -> None:
    plain = make_tokenizer()
    plain.backend_tokenizer.post_processor = None  # like Qwen's: no start token
    counts: dict[Pooling, int] = {"item_token": 0, "mean": 1}
    for pooling, count in counts.items():
        config = HLLMConfig(embedding_dim=8, pooling=pooling)
        assert len(ItemTokenizer(plain, config).encode([""])[0]) == count


def test_batches_are_padded_on_the_right() -> None:
    batch = _tokenizer().collate([[5, 6, 7], [], [8]])
    assert batch.input_ids.shape == (3, 3)
    assert batch.input_ids.dtype == batch.attention_mask.dtype == torch.int64
    assert batch.attention_mask.tolist() == [[1, 1, 1], [0, 0, 0], [1, 0, 0]]
    assert batch.input_ids[0].tolist() == [5, 6, 7]


def test_nothing_encodes_to_nothing() -> None:
    tokenizer = _tokenizer()
    assert tokenizer.encode([]) == []
    assert tokenizer.collate([]).input_ids.shape == (0, 0)
