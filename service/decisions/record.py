"""What an answer was made of: enough to see why it is as it is, and to make it again.

A ``Decision`` holds on to the values that the answer was made of. It is written down soon, by whoever takes it
(``DecisionSink``), and until then keeps the bundle that answered in memory.
"""

from dataclasses import dataclass

from service.recommend.ask import Ask
from service.recommend.known import Known
from service.recommend.ranking.answering import Answer
from service.recommend.trace import Trace


@dataclass(frozen=True, slots=True)
class Decision:
    """One answer, and what it was made of.

    Attributes:
        recommendation_id: Names the answer.
        created_at: When it was made, in seconds since 1970.
        ask: What was asked, with what the scenario and the settings say.
        known: The history, and what operators had hidden.
        answer: The answer.
        trace: What happened on the way.
    """

    recommendation_id: str
    created_at: float
    ask: Ask
    known: Known
    answer: Answer
    trace: Trace


class NoDecisions:
    """A DecisionSink that keeps nothing."""

    def record(self, decision: Decision) -> None:
        """Forgets it."""
