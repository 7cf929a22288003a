from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from model_store.encoding import UserEncoder
from model_store.errors import InvalidInput
from model_store.hllm.files import load_hllm, save_hllm
from model_store.kinds import make_user_encoder
from model_store.people.histories import History
from tests.model_store.models import make_hllm


@dataclass(frozen=True)
class StoredEmbeddings:
    """The embeddings of a bundle, without its catalogue and index."""

    model_directory: Path
    table: np.ndarray  # (N + 1, D), row 0 zeros

    def item_embeddings(self, item_indices: np.ndarray) -> np.ndarray:
        return self.table[item_indices]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> StoredEmbeddings:
    directory = tmp_path_factory.mktemp("model")
    save_hllm(make_hllm(), directory)
    table = np.random.default_rng(0).normal(size=(101, 64)).astype(np.float32)
    table[0] = 0
    return StoredEmbeddings(directory, table)


@pytest.fixture(scope="module")
def encoder(bundle: StoredEmbeddings) -> UserEncoder:
    return make_user_encoder(bundle)


def _history(length: int, seed: int = 0) -> History:
    rng = np.random.default_rng((length, seed))
    return History(rng.integers(1, 101, length), np.sort(rng.integers(0, 2**31, length)))


def test_a_batch_gives_the_same_as_one_by_one(encoder: UserEncoder) -> None:
    histories = [_history(length) for length in (3, 1, 10, 7, 25)]
    together = encoder.encode(histories)
    assert together.shape == (5, 64)
    assert together.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)
    for row, history in enumerate(histories):
        np.testing.assert_allclose(together[row], encoder.encode([history])[0], atol=1e-5)


def test_it_is_the_state_at_the_last_item(bundle: StoredEmbeddings, encoder: UserEncoder) -> None:
    history = _history(6)
    model = load_hllm(bundle.model_directory)
    assert model.user_llm is not None
    with torch.no_grad():
        states = model.user_llm(
            torch.from_numpy(bundle.table[history.item_indices])[None],
            torch.ones(1, 6, dtype=torch.bool),
            torch.from_numpy(history.timestamps)[None],
        )
    expected = torch.nn.functional.normalize(states[0, -1], dim=0).numpy()
    np.testing.assert_allclose(encoder.encode([history])[0], expected, atol=1e-5)


def test_only_the_latest_events_of_a_long_history_count(encoder: UserEncoder) -> None:
    history = _history(40)
    latest = History(history.item_indices[-10:], history.timestamps[-10:])
    assert encoder.max_history_length == 10
    np.testing.assert_array_equal(encoder.encode([history]), encoder.encode([latest]))


def test_thousands_of_histories_run_in_bounded_passes_in_their_order(encoder: UserEncoder) -> None:
    histories = [_history(1 + seed % 10, seed) for seed in range(4000)]
    many = encoder.encode(histories)
    for row in (0, 9, 1234, 3999):
        np.testing.assert_allclose(many[row], encoder.encode([histories[row]])[0], atol=1e-5)
    assert np.isfinite(many).all()


def test_no_histories_give_no_rows(encoder: UserEncoder) -> None:
    assert encoder.encode([]).shape == (0, 64)


@pytest.mark.parametrize(
    "history",
    [
        History(np.array([], dtype=np.int64), np.array([], dtype=np.int64)),
        History(np.array([3, 0]), np.array([1, 2])),
        History(np.array([3, 4]), np.array([1])),
    ],
)
def test_a_history_that_says_nothing_is_refused(encoder: UserEncoder, history: History) -> None:
    with pytest.raises(InvalidInput, match="history"):
        encoder.encode([_history(3), history])


def test_half_precision_stays_close_and_answers_in_float32(bundle: StoredEmbeddings, encoder: UserEncoder) -> None:
    half = make_user_encoder(bundle, dtype=torch.bfloat16).encode([_history(8)])
    assert half.dtype == np.float32
    assert (half * encoder.encode([_history(8)])).sum() > 0.99
