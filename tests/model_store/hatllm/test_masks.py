"""HatLLM's masks against tables written out by hand: a row looks, a column is looked at."""

from typing import Any

import pytest
import torch

from model_store.errors import InvalidInput
from model_store.hatllm.masks import (
    Band,
    MaskOptions,
    band_mask,
    last_tokens,
    layer_bands,
    layer_masks,
    resolve_bands,
)

# two tokens of no item, then items of 2, 1 and 2 tokens
ITEMS = torch.tensor([[0, 0, 1, 1, 2, 3, 3]])


def table(text: str) -> torch.Tensor:
    return torch.tensor([[int(cell) for cell in row.split()] for row in text.strip().splitlines()]).bool()[None]


IN = """
1 0 0 0 0 0 0
1 1 0 0 0 0 0
0 0 1 0 0 0 0
0 0 1 1 0 0 0
0 0 0 0 1 0 0
0 0 0 0 0 1 0
0 0 0 0 0 1 1
"""
IN_NONITEM = """
1 0 0 0 0 0 0
1 1 0 0 0 0 0
1 1 1 0 0 0 0
1 1 1 1 0 0 0
1 1 0 0 1 0 0
1 1 0 0 0 1 0
1 1 0 0 0 1 1
"""
OR = """
1 0 0 0 0 0 0
1 1 0 0 0 0 0
1 1 1 0 0 0 0
1 1 1 1 0 0 0
1 1 1 1 1 0 0
1 1 1 1 1 1 0
1 1 1 1 1 1 1
"""
CR = """
1 0 0 0 0 0 0
1 1 0 0 0 0 0
1 1 1 0 0 0 0
1 1 0 1 0 0 0
1 1 0 1 1 0 0
1 1 0 1 1 1 0
1 1 0 1 1 0 1
"""
CR_ALL = """
1 0 0 0 0 0 0
1 1 0 0 0 0 0
1 1 1 0 0 0 0
1 1 0 1 0 0 0
1 1 1 1 1 0 0
1 1 1 1 1 1 0
1 1 1 1 1 0 1
"""
CR_ITEMS_ONLY = """
1 0 0 0 0 0 0
1 1 0 0 0 0 0
0 0 1 0 0 0 0
0 0 0 1 0 0 0
0 0 0 1 1 0 0
0 0 0 1 1 1 0
0 0 0 1 1 0 1
"""
CR_NO_SELF = """
1 0 0 0 0 0 0
1 0 0 0 0 0 0
1 1 0 0 0 0 0
1 1 0 0 0 0 0
1 1 0 1 0 0 0
1 1 0 1 1 0 0
1 1 0 1 1 0 0
"""


@pytest.mark.parametrize(
    ("band", "options", "expected"),
    [
        ("in", MaskOptions(), IN),
        ("in", MaskOptions(nonitem_visible_in=True), IN_NONITEM),
        ("or", MaskOptions(), OR),
        ("cr", MaskOptions(), CR),
        ("cr", MaskOptions(cr_keys="all"), CR_ALL),
        ("cr", MaskOptions(nonitem_visible_cr=False), CR_ITEMS_ONLY),
        ("cr", MaskOptions(self_visible_cr=False), CR_NO_SELF),
    ],
)
def test_each_band_token_by_token(band: Band, options: MaskOptions, expected: str) -> None:
    assert torch.equal(band_mask(band, ITEMS, options=options), table(expected))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("band", ["in", "or", "cr"])
def test_padding_on_either_side_is_seen_by_nobody_and_changes_nothing(side: str, band: Band) -> None:
    padding = torch.zeros(1, 2, dtype=torch.int64)
    parts = (padding, ITEMS) if side == "left" else (ITEMS, padding)
    item_map = torch.cat(parts, dim=1)
    is_token = torch.cat([torch.full_like(part, part is ITEMS, dtype=torch.bool) for part in parts], dim=1)
    padded = band_mask(band, item_map, is_token=is_token)[0]
    inside = is_token[0]
    assert torch.equal(padded[inside][:, inside][None], band_mask(band, ITEMS))
    assert not padded[inside][:, ~inside].any()
    assert torch.equal(padded[~inside], torch.eye(9, dtype=torch.bool)[~inside])  # no row is empty


def test_no_row_is_ever_empty() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        item_map = torch.randint(0, 4, (3, 9), generator=generator).sort(dim=1).values
        is_token = torch.rand(3, 9, generator=generator) > 0.3
        for band in ("in", "or", "cr"):
            for options in (MaskOptions(), MaskOptions("all", self_visible_cr=False, nonitem_visible_cr=False)):
                assert band_mask(band, item_map, options=options, is_token=is_token).any(dim=-1).all()


def test_last_tokens_are_the_ends_of_items() -> None:
    assert last_tokens(ITEMS).tolist() == [[False, False, False, True, True, False, True]]


def test_layers_of_a_band_share_its_mask() -> None:
    bands = layer_bands(5, in_layers=2, cr_layers=1)
    assert bands == ("in", "in", "or", "or", "cr")
    masks = layer_masks(bands, ITEMS)
    assert [tuple(mask.shape) for mask in masks] == [(1, 1, 7, 7)] * 5
    assert masks[0] is masks[1]
    assert torch.equal(masks[4][:, 0], table(CR))
    assert layer_bands(3, in_layers=1, cr_layers=1, order=("cr", "or", "in")) == ("cr", "or", "in")


@pytest.mark.parametrize(
    ("in_band", "cr_band", "expected"), [(4, 8, (4, 8)), (0.25, 0.5, (4, 8)), (0, 0, (0, 0)), (1, 0.1, (1, 2))]
)
def test_bands_are_counts_or_fractions(in_band: float, cr_band: float, expected: tuple[int, int]) -> None:
    assert resolve_bands(16, in_band, cr_band) == expected


@pytest.mark.parametrize(
    ("in_band", "cr_band", "message"),
    [
        (10, 10, "deeper than the model: 10 IN and 10 CR layers, the model has 16"),
        (-1, 0, "IN band is -1"),
        (0, 2.5, "CR band is 2.5"),
    ],
)
def test_bands_that_cannot_be_are_refused(in_band: float, cr_band: float, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        resolve_bands(16, in_band, cr_band)
    with pytest.raises(InvalidInput, match="permutation of in,or,cr"):
        layer_bands(3, in_layers=1, cr_layers=1, order=("in", "in", "cr"))
    with pytest.raises(InvalidInput, match="deeper"):
        layer_bands(3, in_layers=2, cr_layers=2)
    of_a_file: Any = "first"  # where no type holds
    with pytest.raises(InvalidInput, match="cr_keys"):
        MaskOptions(cr_keys=of_a_file)
