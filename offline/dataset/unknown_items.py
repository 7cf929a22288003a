"""Interactions with items that are not among the items: how many, which, and why that may be."""

from collections.abc import Iterable

_MAX_SAMPLES = 3


class UnknownItems:
    """What is remembered of interactions that are left out.

    Attributes:
        count: Of such interactions.
        samples: The first different item ids, at most three.
    """

    def __init__(self) -> None:
        self.count = 0
        self.samples: list[str] = []

    def add(self, item_ids: Iterable[str]) -> None:
        """Counts the items of interactions."""
        for item_id in item_ids:
            self.count += 1
            if len(self.samples) < _MAX_SAMPLES and item_id not in self.samples:
                self.samples.append(item_id)

    def sentence(self, known_ids: Iterable[str]) -> str:
        """Says what was found, in the words of a report.

        Args:
            known_ids: The ids of the items.
        """
        shown = ", ".join(map(repr, self.samples))
        cause = _likely_cause(self.samples, known_ids)
        return f"{self.count} are of items that are not among the items, such as {shown}{cause}"


def _likely_cause(unknown: list[str], known_ids: Iterable[str]) -> str:
    """Looks for items whose ids differ only by what programs do to ids on their way."""
    by_core = {_core(item_id): item_id for item_id in unknown}
    for known in known_ids:
        if item_id := by_core.get(_core(known)):
            return f"; the items have {known!r} instead of {item_id!r}: {_difference(item_id, known)}"
    return ""


def _core(item_id: str) -> str:
    """What is left of an id by a spreadsheet or a hasty export, in whatever way the id came through."""
    text = item_id.strip().casefold()
    if text.replace(".", "", 1).isdigit() and text.isascii():
        text = text.removesuffix(".0").lstrip("0")
    return text


def _difference(unknown: str, known: str) -> str:
    if unknown.strip() == known.strip():
        return "blanks around ids are part of them; remove them from the file that has them"
    one, other = unknown.strip(), known.strip()
    if one.removesuffix(".0") == other.removesuffix(".0"):
        return "a spreadsheet or a column of decimals added the .0; write the column of ids as text or as whole numbers"
    if one.casefold() == other.casefold():
        return "upper and lower case are different ids; write them in one way"
    return "zeros at the beginning were lost, as in a spreadsheet; write the column of ids as text"
