from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from model_store.errors import InvalidInput
from offline.dataset.dataset import Dataset
from offline.dataset.splits import leave_one_out
from offline.shop.demo_shop import generate_shop


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    out = tmp_path_factory.mktemp("shop") / "dataset"
    generate_shop(out, num_users=1_500)
    return Dataset.open(out)


def test_every_product_has_a_title_of_its_own_category_brand_and_price(shop: Dataset) -> None:
    products = shop.items.to_pylist()

    assert len(products) == 2_000
    assert len({product["title"] for product in products}) == 2_000
    assert all(product["brand"] in product["title"] for product in products)
    assert all(product["category"] and product["department"] for product in products)
    assert min(product["price"] for product in products) > 0
    assert shop.catalogue().index_of("item-00001") == 1


def test_visitors_come_for_half_a_year_and_look_at_a_dozen_items(shop: Dataset) -> None:
    sequences = shop.sequences()

    assert shop.time_unit == "seconds"
    assert 12 < sequences.lengths.mean() < 20
    assert sequences.lengths.min() >= 3
    assert sequences.timestamps.max() - sequences.timestamps.min() > 150 * 86_400
    types = set(pq.read_table(shop.directory / "interactions.parquet").column("type").to_pylist())
    assert types == {"view", "cart", "purchase"}


def test_what_came_before_tells_far_more_than_popularity(shop: Dataset) -> None:
    split = leave_one_out(shop.sequences())
    following: dict[int, Counter[int]] = defaultdict(Counter)
    for row in range(len(split.train)):
        history = split.train.user(row).item_indices.tolist()
        for before, after in zip(history, history[1:], strict=False):
            following[before][after] += 1
    counts = np.bincount(split.train.item_indices, minlength=2_001)
    popular = set(np.argsort(-counts)[:10].tolist())
    sequences, ends = split.test.sequences, split.test.history_ends
    latest = sequences.item_indices[ends - 1].tolist()
    targets = split.test.targets.tolist()

    by_popularity = np.mean([target in popular for target in targets])
    by_latest = np.mean(
        [target in dict(following[item].most_common(10)) for item, target in zip(latest, targets, strict=True)]
    )

    assert by_latest > 0.3
    assert by_latest > 10 * by_popularity


def test_the_same_seed_makes_the_same_shop_and_another_one_another(tmp_path: Path) -> None:
    for name, seed in (("one", 1), ("same", 1), ("other", 2)):
        generate_shop(tmp_path / name, num_items=100, num_users=40, seed=seed)
    one, same, other = (Dataset.open(tmp_path / name) for name in ("one", "same", "other"))

    assert one.items.equals(same.items)
    assert not one.items.equals(other.items)
    logs = [pq.read_table(tmp_path / name / "interactions.parquet") for name in ("one", "same", "other")]
    assert logs[0].equals(logs[1])
    assert not logs[0].equals(logs[2])


def test_large_shops_keep_titles_apart(tmp_path: Path) -> None:
    generate_shop(tmp_path / "large", num_items=8_000, num_users=10)

    titles = Dataset.open(tmp_path / "large").items.column("title").to_pylist()
    assert len(set(titles)) == 8_000


def test_a_shop_too_small_for_its_vocabulary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="a shop of 10 items, expected at least 50"):
        generate_shop(tmp_path / "small", num_items=10)
