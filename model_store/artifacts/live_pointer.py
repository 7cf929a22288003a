"""What is live, and what was live before: the rules, without the files.

A history is a list of bundle ids in the order they went live, oldest first, each once: so the live one has one place
in it, and what stands before it is what a rollback goes to. It is written before the pointer. Whoever is killed in
between leaves a last entry that never went live, which both rules below pass over.
"""

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict


class LivePointer(BaseModel):
    """Which bundle is served, per kind of model.

    Attributes:
        bundles: kind -> bundle_id.
        default: The kind that answers requests that name none; None if nothing is live.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    bundles: dict[str, str] = {}
    default: str | None = None


def earlier_bundles(history: Sequence[str], current: str) -> list[str]:
    """What a rollback may go to, the nearest first.

    Args:
        history: Of one kind.
        current: The live bundle.
    """
    if current not in history:
        return list(reversed(history))
    return list(reversed(history[: history.index(current)]))


def recorded(history: Sequence[str], *, before: str | None, after: str) -> list[str]:
    """The history once ``after`` is live.

    Args:
        history: Of one kind.
        before: What is live until then, or None.
        after: What goes live.
    """
    if before is None:
        past = list(history)
    elif before in history:
        # what follows the live one was rolled back, or never went live
        past = list(history[: history.index(before) + 1])
    else:
        past = [*history, before]
    return [one for one in past if one != after] + [after]
