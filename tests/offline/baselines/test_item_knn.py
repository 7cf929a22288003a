import math

import numpy as np
import pytest

from model_store.people.histories import History
from offline.baselines.item_knn import ItemNeighbours
from offline.dataset.dataset import UserSequences

# a: 1, 2; b: 1, 2, 2; c: 1, 3. Item 1 has three users, item 2 two, item 3 one, item 4 none.
SEQUENCES = UserSequences(
    user_ids=["a", "b", "c"],
    offsets=np.array([0, 2, 5, 7]),
    item_indices=np.array([1, 2, 1, 2, 2, 1, 3], dtype=np.int32),
    timestamps=np.arange(7),
)


def history(*items: int) -> History:
    return History(np.array(items), np.arange(len(items)))


def test_scores_are_cosines_of_the_users_of_two_items() -> None:
    scores = ItemNeighbours(SEQUENCES, 4).score([history(1), history(2, 3)]).numpy()

    one_two, one_three = 2 / math.sqrt(3 * 2), 1 / math.sqrt(3 * 1)
    assert scores == pytest.approx(np.array([[0, one_two, one_three, 0], [one_two + one_three, 0, 0, 0]]))


def test_only_the_nearest_neighbours_count() -> None:
    scores = ItemNeighbours(SEQUENCES, 4, num_neighbours=1).score([history(1)])[0].tolist()

    assert scores[1] > 0
    assert scores[2] == 0


def test_an_item_that_is_there_twice_counts_once() -> None:
    neighbours = ItemNeighbours(SEQUENCES, 4)

    assert neighbours.score([history(1, 1)]).tolist() == neighbours.score([history(1)]).tolist()
