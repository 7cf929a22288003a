"""What lists lead to: the events that name a list, counted by the model that made it and by arm of an experiment."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from model_store.people.event_log import CONSOLE_ORIGIN, LoggedEvent

_MODEL = "model"
_NO_ARM = "none"


def count_outcomes(documents: Sequence[Mapping[str, Any]], events: Iterable[LoggedEvent]) -> list[dict[str, Any]]:
    """Counts lists, and the events that they led to; events of the console do not count.

    Args:
        documents: Decision records, as ``decode`` reads them.
        events: Of the same time; those that name none of these records do not count.

    Returns:
        For each kind of model and arm (``none``: of no experiment) ``kind``, ``arm``, number of ``lists``, how many of
        them are ``by_model`` and no fallback, and number of ``events`` by type; in the order of kind and arm.
    """
    groups = {document["recommendation_id"]: _group(document) for document in documents}
    lists = Counter(groups.values())
    by_model = Counter(groups[it["recommendation_id"]] for it in documents if it["source"] == _MODEL)
    led_to: dict[tuple[str, str], Counter[str]] = {group: Counter() for group in lists}
    for event in events:
        group = groups.get(event.recommendation_id or "")
        if group is not None and event.properties.get("origin") != CONSOLE_ORIGIN:
            led_to[group][event.type] += 1
    return [
        {"kind": kind, "arm": arm, "lists": count, "by_model": by_model[kind, arm], "events": dict(led_to[kind, arm])}
        for (kind, arm), count in sorted(lists.items())
    ]


def _group(document: Mapping[str, Any]) -> tuple[str, str]:
    experiment = document["experiment"]
    return document["versions"]["kind"], _NO_ARM if experiment is None else experiment["arm"]
