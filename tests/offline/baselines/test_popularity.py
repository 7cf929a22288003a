import numpy as np

from offline.baselines.popularity import interaction_counts, popularity_scores
from offline.dataset.dataset import UserSequences


def test_popularity_orders_by_count_then_by_item_index() -> None:
    assert popularity_scores(np.array([2, 5, 0, 5])).tolist() == [2.0, 4.0, 1.0, 3.0]


def test_counts_leave_room_for_items_that_nobody_touched() -> None:
    sequences = UserSequences(
        user_ids=["a", "b"],
        offsets=np.array([0, 2, 3]),
        item_indices=np.array([1, 3, 3], dtype=np.int32),
        timestamps=np.array([0, 1, 0]),
    )

    assert interaction_counts(sequences, 4).tolist() == [1, 0, 2, 0]
