"""What is served when the model cannot answer: the most popular items, under the same constraints."""

import numpy as np

from model_store.catalogue import Catalogue
from service.pipeline.constraints import Admissible


def popular_items(catalogue: Catalogue, want: int, admissible: Admissible) -> np.ndarray:
    """The most popular admissible items.

    Returns:
        ``min(want, admissible.count())`` item indices, int64, the most popular first.
    """
    popular = catalogue.popular()
    if admissible.mask is None:
        popular = popular[: want + len(admissible.excluded)]
    return popular[admissible.keep(popular)][:want]
