"""How to look for the nearest admissible items: decided by how many there are, not by how the filter is written.

Three plans, each exact but for what the index itself leaves out:

- ``over_fetch``: ask the index for more than is wanted, and leave out what may not be returned;
- ``selector``: hand the admissible items to the index as a bitmap;
- ``exact_scan``: compare with each admissible item, without the index.

Measured on one core, 10 wanted, milliseconds (``python -m benchmarks.filters``, and the same with an IVF index):

====================  ==========  =========  ==========
admissible            over_fetch  selector   exact_scan
====================  ==========  =========  ==========
Flat, 100,000 x 64, plain search 1.6
-------------------------------------------------------
90,000                1.9         2.2        21
20,000                2.0         3.1        4.7
5,000                 1.9         1.5        1.1
1,000                 2.1         0.7        0.3
IVF1024, 200,000 x 64, plain search 0.1
-------------------------------------------------------
100,000               0.1         7.7        --
20,000                0.1         5.0        --
2,000                 0.3         2.1        0.1
====================  ==========  =========  ==========
"""

import math
from dataclasses import dataclass
from typing import Literal

PlanName = Literal["over_fetch", "selector", "exact_scan"]

# Fewer admissible items than this, or than this share of all, are compared one by one.
_FEW_ITEMS = 2_000
_FEW_SHARE = 1 / 200
# Admissible items are not spread evenly over the neighbourhood: fetch this many times what an even spread asks for.
_MARGIN = 2.0
# Where a search compares with every item, a filter that leaves less than this share makes it cheaper,
_LEAST_SHARE = 1 / 8
# and where it looks at few of them, a filter makes it look at all.
_LEAST_SHARE_APPROXIMATE = 1 / 100
# More items than this are not fetched and thrown away.
_MANY_SPARE = 1_000
_MANY_SPARE_APPROXIMATE = 2_000
# Parts of the factory strings of indexes that do not compare with every item.
_APPROXIMATE = ("IVF", "HNSW", "NSG")


@dataclass(frozen=True, slots=True)
class Choice:
    """A plan.

    Attributes:
        name: Which one.
        fetch: How many items to ask the index for, or to compare.
    """

    name: PlanName
    fetch: int


def choose(
    *, num_items: int, num_admissible: int, num_excluded: int, want: int, is_filtered: bool, factory: str = "Flat"
) -> Choice:
    """Picks the cheapest plan.

    Args:
        num_items: N.
        num_admissible: Items that may be returned, at least ``want``.
        num_excluded: Items that may not be returned whatever the filter says; as a user's history lies where its user
            looks, all of them are expected among the nearest.
        want: At least 1.
        is_filtered: Whether there is a filter; without one, over-fetching by ``num_excluded`` always suffices.
        factory: What the index is.
    """
    is_approximate = any(part in factory for part in _APPROXIMATE)
    least_share = _LEAST_SHARE_APPROXIMATE if is_approximate else _LEAST_SHARE
    many_spare = _MANY_SPARE_APPROXIMATE if is_approximate else _MANY_SPARE
    share = num_admissible / num_items
    spread = math.ceil(_MARGIN * want / share) if is_filtered else want
    fetch = min(spread + num_excluded, num_items)
    filtered = choose_filtered(num_items=num_items, num_admissible=num_admissible, want=want)
    is_small = filtered.name == "exact_scan" and share < _LEAST_SHARE
    if share >= least_share and fetch - want <= many_spare and not is_small:
        return Choice("over_fetch", fetch)
    return filtered


def choose_filtered(*, num_items: int, num_admissible: int, want: int) -> Choice:
    """The same where over-fetching is out of the question, or fell short."""
    if num_admissible <= max(_FEW_ITEMS, num_items * _FEW_SHARE):
        return Choice("exact_scan", num_admissible)
    return Choice("selector", want)
