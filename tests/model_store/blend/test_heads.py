from pathlib import Path

import numpy as np
import pytest

from model_store.blend.heads import HEADS_FILE, Head, Heads, read_heads
from model_store.errors import ArtifactCorrupt, InvalidInput
from model_store.index.vectors import normalize

HEADS = Heads((Head("both", 3, 2.0), Head("ids", 2, 0.5), Head("text", 4, 1.5)))


def _raw(num_items: int, *, without_ids: int = 0) -> np.ndarray:
    raw = np.random.default_rng(0).normal(size=(num_items, HEADS.embedding_dim)).astype(np.float32)
    raw[:, 3:5] *= 10
    raw[:without_ids, 3:5] = 0
    raw[:, -1] = 0
    return raw


def test_one_inner_product_is_the_weighted_sum_of_cosines() -> None:
    items, users = _raw(7, without_ids=2), _raw(3)
    queries = HEADS.queries(users)
    expected = sum(
        share * normalize(users[:, part]) @ normalize(items[:, part]).T
        for share, part in zip((0.5, 0.125, 0.375), HEADS.slices(), strict=True)
    )
    found = queries @ HEADS.directions(items).T
    np.testing.assert_allclose(found, expected, atol=1e-6)
    for query, row in zip(queries, found, strict=True):
        np.testing.assert_allclose(HEADS.contributions(items, query).sum(axis=1), row, atol=1e-6)


def test_directions_have_unit_norm_whatever_an_item_lacks() -> None:
    raw = _raw(5, without_ids=2)
    raw[4] = 0
    directions = HEADS.directions(raw)
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1, atol=1e-6)
    assert directions[0, -1] == pytest.approx(0.125**0.5, abs=1e-6)
    assert directions[3, -1] == pytest.approx(0, abs=1e-3)
    assert (HEADS.queries(raw)[:, -1] == 0).all()


def test_heads_are_saved_and_loaded(tmp_path: Path) -> None:
    HEADS.save(tmp_path)
    assert read_heads(tmp_path) == HEADS


@pytest.mark.parametrize("text", ["", "{}", '[{"name": "a"}]', '[{"name": "a", "width": 0, "weight": 1}]'])
def test_a_file_that_is_none_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / HEADS_FILE).write_text(text)
    with pytest.raises(ArtifactCorrupt, match=HEADS_FILE):
        read_heads(tmp_path)


@pytest.mark.parametrize(("width", "weight"), [(0, 1.0), (2, 0.0), (2, -1.0), (2, float("nan")), (2, float("inf"))])
def test_a_head_without_width_or_weight_is_refused(width: int, weight: float) -> None:
    with pytest.raises(InvalidInput, match="expected at least 1 and above 0"):
        Head("a", width, weight)
