"""What is known of a request so far; handed from step to step."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from model_store.hatllm_config import Mode
from model_store.user_encoder import History
from service.engine.served_bundle import ServedBundle
from service.pipeline.constraints import Admissible, Filter, exclusions, filter_mask
from service.pipeline.query import Interaction, Query, Timing


@dataclass
class Progress:
    """One request on its way.

    Attributes:
        query: What was asked.
        served: The bundle that answers.
        mode: How its model recommends.
        num_erasures: Users erased until the history was read.
        interactions: The user's history, oldest first.
        history: What of it is in the catalogue.
        timing: Seconds per step.
        warnings: For the caller; each begins with its code and a colon.
        fallback_reason: The first thing that failed, if any.
    """

    query: Query
    served: ServedBundle
    mode: Mode
    num_erasures: int = 0
    interactions: Sequence[Interaction] = ()
    history: History = field(default_factory=lambda: History(np.empty(0, np.int64), np.empty(0, np.int64)))
    timing: Timing = field(default_factory=Timing)
    warnings: list[str] = field(default_factory=list)
    fallback_reason: str | None = None

    def fall_back(self, reason: str, warning: str | None = None) -> None:
        """Notes that a step failed; ``warning`` says what that means for the answer."""
        self.fallback_reason = self.fallback_reason or reason
        if warning is not None:
            self.warnings.append(f"{reason}: {warning}")

    @property
    def read_items(self) -> np.ndarray:
        """(W,) int64 item indices that the model reads: the latest ones of the history, oldest first."""
        items = self.history.item_indices
        return items[len(items) - self.served.encoder.window(len(items)) :] if len(items) else items

    @cached_property
    def admissible(self) -> Admissible:
        """Which items may be returned. The first look at it may take long: not in the event loop."""
        query, served = self.query, self.served
        seen = [interaction.item_id for interaction in self.interactions] if query.exclude_seen else []
        mask = None
        if query.filter:
            key = tuple(sorted(query.filter.items(), key=lambda named: named[0]))
            mask = served.masks.get(_typed_key(key), lambda: _mask(served, query.filter))
        excluded = exclusions(served.catalogue, [*query.exclude_item_ids, *seen])
        return Admissible(len(served.catalogue), mask, excluded)


def _typed_key(key: tuple[Any, ...]) -> str:
    # By text: as tuple elements 1, 1.0 and True are equal, but as conditions they are not.
    return repr(key)


def _mask(served: ServedBundle, conditions: Filter) -> np.ndarray:
    mask = filter_mask(served.catalogue, conditions)
    return np.ones(len(served.catalogue), dtype=bool) if mask is None else mask
