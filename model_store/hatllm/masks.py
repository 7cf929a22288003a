"""HatLLM's attention masks (arXiv 2510.10955): who may look at whom in each band of layers.

Three bands, intersected with causality and padding: **IN**, a token sees its own item only; **OR**, the plain
causal mask; **CR**, a token sees itself and the last token of every earlier item. What the paper's text does
not tell (tokens of no item, the diagonal, which keys CR shows) is an option of :class:`MaskOptions`.

A mask is a pure function of an *item map*: (B, T) int64, from 1 on the ordinal of the item that a token
belongs to, 0 for a token of no item (a prompt). The layers get theirs through
:mod:`model_store.backbone.layered_attention`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from model_store.errors import InvalidInput

Band = Literal["in", "or", "cr"]
BANDS: tuple[Band, ...] = get_args(Band)
CrKeys = Literal["last", "all"]


@dataclass(frozen=True)
class MaskOptions:
    """What the paper leaves open, and its ablation.

    Attributes:
        cr_keys: What CR shows of other items: their ``last`` token, or ``all`` tokens (the ablation).
        nonitem_visible_in: Whether, in IN, tokens of no item are seen by items and see them.
        nonitem_visible_cr: The same in CR.
        self_visible_cr: Whether, in CR, a token sees itself. Without it a row that would see nothing still does.
    """

    cr_keys: CrKeys = "last"
    nonitem_visible_in: bool = False
    nonitem_visible_cr: bool = True
    self_visible_cr: bool = True

    def __post_init__(self) -> None:
        if self.cr_keys not in get_args(CrKeys):
            raise InvalidInput(f"cr_keys is {self.cr_keys!r}, expected one of {', '.join(get_args(CrKeys))}")


DEFAULT_OPTIONS = MaskOptions()


def resolve_bands(num_layers: int, in_band: float, cr_band: float) -> tuple[int, int]:
    """Turns band sizes into numbers of layers.

    Args:
        num_layers: Depth of the model.
        in_band: Size of the IN band: a number of layers from 1 on, a fraction of the depth below 1 (rounded), or 0.
        cr_band: Likewise of the CR band.

    Raises:
        InvalidInput: A size is negative or no whole number, or the two together are deeper than the model.
    """
    counts = tuple(_count(num_layers, size, name) for name, size in (("IN", in_band), ("CR", cr_band)))
    if sum(counts) > num_layers:
        raise InvalidInput(
            f"the masks are deeper than the model: {counts[0]} IN and {counts[1]} CR layers, the model has {num_layers}"
        )
    return counts[0], counts[1]


def _count(num_layers: int, size: float, name: str) -> int:
    if size < 0 or (size >= 1 and size != int(size)):
        raise InvalidInput(f"the {name} band is {size}, expected a number of layers or a fraction below 1")
    return int(size) if size >= 1 else round(size * num_layers)


def layer_bands(num_layers: int, *, in_layers: int, cr_layers: int, order: Sequence[Band] = BANDS) -> tuple[Band, ...]:
    """The band of each layer, the first one first; OR takes the layers that the other two leave.

    Raises:
        InvalidInput: The bands are deeper than the model, or ``order`` is no permutation of the three.
    """
    if sorted(order) != sorted(BANDS):
        raise InvalidInput(f"the order of the bands is {','.join(order)}, expected a permutation of in,or,cr")
    if min(in_layers, cr_layers) < 0 or in_layers + cr_layers > num_layers:
        raise InvalidInput(
            f"the masks are deeper than the model: {in_layers} IN and {cr_layers} CR layers, the model has {num_layers}"
        )
    sizes = {"in": in_layers, "or": num_layers - in_layers - cr_layers, "cr": cr_layers}
    return tuple(band for band in order for _ in range(sizes[band]))


def band_mask(
    band: Band,
    item_map: torch.Tensor,
    *,
    options: MaskOptions = DEFAULT_OPTIONS,
    is_token: torch.Tensor | None = None,
) -> torch.Tensor:
    """Who may look at whom in one band.

    Args:
        band: Which one.
        item_map: (B, T) int64, the item of each token from 1 on, 0 = of none. An item's tokens are neighbours.
        options: What the paper leaves open.
        is_token: (B, T) bool, False = padding, on either side; None = no padding.

    Returns:
        (B, T, T) bool, [b, j, k] True = token j sees token k. No row is empty: one that would be sees itself.
    """
    num_tokens = item_map.shape[1]
    causal = torch.ones(num_tokens, num_tokens, dtype=torch.bool, device=item_map.device).tril()
    diagonal = torch.eye(num_tokens, dtype=torch.bool, device=item_map.device)
    if band == "in":
        mask = _in_mask(item_map, options)
    elif band == "cr":
        mask = _cr_mask(item_map, options, diagonal)
    else:
        mask = torch.ones_like(causal).expand(len(item_map), -1, -1)
    mask = mask & causal
    if is_token is not None:
        mask = mask & is_token[:, None, :] & is_token[:, :, None]
    is_empty = ~mask.any(dim=-1, keepdim=True)
    return mask | (is_empty & diagonal)


def _in_mask(item_map: torch.Tensor, options: MaskOptions) -> torch.Tensor:
    mask = item_map[:, :, None] == item_map[:, None, :]
    return mask | _touches_no_item(item_map) if options.nonitem_visible_in else mask


def _cr_mask(item_map: torch.Tensor, options: MaskOptions, diagonal: torch.Tensor) -> torch.Tensor:
    is_item = item_map > 0
    is_other = item_map[:, :, None] != item_map[:, None, :]
    is_key = is_item if options.cr_keys == "all" else last_tokens(item_map)
    mask = is_other & is_item[:, :, None] & is_key[:, None, :]
    # tokens of no item see each other: a prompt is no item whose inside could be masked
    mask = mask | ~(is_item[:, :, None] | is_item[:, None, :])
    if options.nonitem_visible_cr:
        mask = mask | _touches_no_item(item_map)
    return mask | diagonal if options.self_visible_cr else mask & ~diagonal


def _touches_no_item(item_map: torch.Tensor) -> torch.Tensor:
    is_none = item_map == 0
    return is_none[:, :, None] | is_none[:, None, :]


def last_tokens(item_map: torch.Tensor) -> torch.Tensor:
    """(B, T) bool: whether a token is the last one of its item."""
    is_item = item_map > 0
    ends = torch.ones_like(is_item)
    ends[:, :-1] = item_map[:, :-1] != item_map[:, 1:]
    return is_item & ends


def layer_masks(
    bands: Sequence[Band],
    item_map: torch.Tensor,
    *,
    options: MaskOptions = DEFAULT_OPTIONS,
    is_token: torch.Tensor | None = None,
) -> list[torch.Tensor]:
    """One mask per layer, (B, 1, T, T) bool; layers of a band share the tensor."""
    masks = {band: band_mask(band, item_map, options=options, is_token=is_token)[:, None] for band in set(bands)}
    return [masks[band] for band in bands]
