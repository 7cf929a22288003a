"""What is known of a request so far; handed from step to step."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property

import numpy as np

from model_store.encoding import Mode
from model_store.people.histories import History
from service.engine.served_bundle import ServedBundle
from service.people.hidden_set import NOTHING_HIDDEN, HiddenItems
from service.people.known_history import known_history
from service.recommend.ask import Interaction, Query, StepNote, Timing
from service.recommend.candidates.admissible import Admissible, admissible_items
from service.recommend.candidates.segments import Segments
from service.recommend.deadline import Deadline


@dataclass
class Progress:
    """One request on its way.

    Attributes:
        query: What was asked.
        served: The bundle that answers.
        mode: How its model recommends.
        deadline: When its time is over.
        segments: Knows the segments of the catalogue; None: only popularity overall is served.
        num_erasures: Users erased until the history was read.
        num_forgotten: Users and sessions that this process was told to forget until then.
        interactions: The history, oldest first: the one in the request, else the stored one, else the last known one.
        history_version: Of the stored history; None where it is none, or one of several owners.
        is_current: False where the stored history could not be read. The model is not asked then.
        hidden: What operators have hidden.
        timing: Seconds per step.
        warnings: For the caller; each begins with its code and a colon.
        fallback_reason: The first thing that failed, if any.
        steps: What became of each step that was due.
        counts: How many candidates there were at each stage, for the decision record.
        earlier_embedding: (D,) float32 of an earlier request, where that is what was searched with.
    """

    query: Query
    served: ServedBundle
    mode: Mode
    deadline: Deadline
    segments: Segments | None = None
    num_erasures: int = 0
    num_forgotten: int = 0
    interactions: Sequence[Interaction] = ()
    history_version: bytes | None = None
    is_current: bool = True
    hidden: HiddenItems = NOTHING_HIDDEN
    timing: Timing = field(default_factory=Timing)
    warnings: list[str] = field(default_factory=list)
    fallback_reason: str | None = None
    steps: list[StepNote] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    earlier_embedding: np.ndarray | None = None

    def note(self, step: str, reason: str) -> None:
        """Notes what became of a step; both are of a few fixed words, as the metrics count them."""
        self.steps.append(StepNote(step, reason))

    def attempt(self) -> "Progress":
        """A copy for a thread that may be given up: what it writes is lost with it. What is computed is shared."""
        copy = replace(
            self,
            timing=replace(self.timing),
            warnings=list(self.warnings),
            steps=list(self.steps),
            counts=dict(self.counts),
        )
        names = {one.name for one in fields(self)}
        copy.__dict__.update({name: value for name, value in self.__dict__.items() if name not in names})
        return copy

    def fall_back(self, reason: str, warning: str | None = None) -> None:
        """Notes that a step failed; ``warning`` says what that means for the answer."""
        self.fallback_reason = self.fallback_reason or reason
        if warning is not None:
            self.warnings.append(f"{reason}: {warning}")

    @cached_property
    def history(self) -> History:
        """What of the interactions is in the catalogue; look at it once they are known."""
        return known_history(self.served.catalogue, self.interactions)

    @property
    def read_items(self) -> np.ndarray:
        """(W,) int64 item indices that the model reads: the latest ones of the history, oldest first."""
        items = self.history.item_indices
        return items[len(items) - self.served.encoder.window(len(items)) :] if len(items) else items

    @property
    def seen(self) -> Sequence[Interaction]:
        """What does not come back when seen items are excluded, as far as it is known."""
        return self.interactions

    @cached_property
    def segment(self) -> np.ndarray | None:
        """(M,) int64 item indices of the user's segment, the most popular first; None where that is not known (yet).

        Not in the event loop.
        """
        catalogue, wish = self.served.catalogue, self.query.segment
        if self.segments is None or not self.segments.is_built(catalogue, wish):
            return None
        return self.segments.order(catalogue, wish, self.history.item_indices)

    @cached_property
    def admissible(self) -> Admissible:
        """Which items may be returned. The first look at it may take long: not in the event loop."""
        return admissible_items(self.served, self.query, self.seen, self.hidden)
