"""A dataset in which the next item follows from the last one: what a sequence model learns in seconds."""

import random
from pathlib import Path

from offline.dataset.formats.rows import Interaction, Item
from offline.dataset.writer import WriteOptions, write_dataset

NUM_ITEMS = 40


def write_chain_shop(out: Path, *, num_users: int = 240, seed: int = 0, title: str | None = None) -> Path:
    draw = random.Random(seed)
    items = [Item(f"i{row}", title or f"thing {row % 5} in colour {row // 5}", {}) for row in range(NUM_ITEMS)]
    interactions = []
    for user in range(num_users):
        item = draw.randrange(NUM_ITEMS)
        for rank in range(draw.randrange(4, 10)):
            interactions.append(Interaction(f"u{user}", f"i{item}", rank))
            item = (item + draw.choice((1, 1, 1, 7))) % NUM_ITEMS
    write_dataset(out, items=items, interactions=interactions, options=WriteOptions(source="test"))
    return out
