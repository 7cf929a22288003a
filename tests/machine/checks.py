"""What every answer of the request path machine must be, whatever was broken when it was made."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx2
import numpy as np

from model_store.hatllm.config import window
from tests.machine.model import Model, counted
from tests.machine.shop import RULES, Version, World
from tests.oracles.random_shops import passes

_SCORE_TOLERANCE = 1e-3
_PATIENT_MS = 5_000
# A forward pass costs more than all other checks of an answer.
_CHECKED_EVERY = 4


@dataclass
class Tally:
    """What was seen so far.

    Attributes:
        num_recommendations: Answers that were checked.
        num_healthy: Of these, those of a known history, with time enough and nothing broken.
        num_needless: Of these, those that the model did not answer all the same.
        num_events: That were acknowledged.
        num_acknowledged: Reports, erasures, and changes of what is hidden.
        num_refused: The same, that were not, although Redis was there.
        num_counted: Answers of the model that were made of all acknowledged events.
        num_encoded: Of these, those whose scores were compared with another copy of the model.
        num_swaps: Of bundles.
        num_merges: Of sessions with events into users.
        num_whole_lists: That were read page by page to their end.
        num_repeated: Answers that were those of an earlier request.
        reasons: Of what was needless.
        failures: What an example ended with. Hypothesis says nothing of one that comes and goes with the time of day
            but that its data are inconsistent.
    """

    num_recommendations: int = 0
    num_healthy: int = 0
    num_needless: int = 0
    num_events: int = 0
    num_acknowledged: int = 0
    num_refused: int = 0
    num_counted: int = 0
    num_encoded: int = 0
    num_swaps: int = 0
    num_merges: int = 0
    num_whole_lists: int = 0
    num_repeated: int = 0
    sources: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)


class Checker:
    """Checks answers against a model.

    Args:
        world: Versions, by bundle id.
        model: What is known.
        tally: Counts.
    """

    def __init__(self, world: World, model: Model, tally: Tally) -> None:
        self._world, self._model, self._tally = world, model, tally

    def check(self, body: Mapping[str, Any], answer: httpx2.Response, *, is_whole: bool) -> None:
        """Checks one answer; ``is_whole``: nothing is broken."""
        said = f"{body}\nanswered {answer.status_code} {answer.text}"
        assert answer.status_code == 200, said
        data = answer.json()
        version = self._version(body, data, said)
        found = [item["item_id"] for item in data["items"]]
        assert len(set(found)) == len(found), said
        assert [item["rank"] for item in data["items"]] == list(range(1, len(found) + 1)), said
        for item in data["items"]:
            assert item["item_id"] in version.rows, said
            row = version.rows[item["item_id"]]
            fields = {name: row[name] for name in ("title", "price") if row[name] is not None}
            assert item["fields"] == fields, said
        is_away = any(warning.startswith("history_unavailable") for warning in data["warnings"])
        self._check_admissible(body, found, version, is_away=is_away, said=said)
        _check_scores(body, data, version, said)
        self._check_counted_in(body, data, version, is_away=is_away, said=said)
        self._note(body, data, version, is_whole=is_whole)

    def check_pages(
        self, body: Mapping[str, Any], found: Sequence[str], data: Mapping[str, Any], *, all_read: bool
    ) -> None:
        """Checks the pages of one list together, of a request without caps; ``all_read``: the last one was reached."""
        said = f"{body}\npages {found}"
        assert len(set(found)) == len(found), said
        is_away = any(warning.startswith("history_unavailable") for warning in data["warnings"])
        version = self._version(body, data, said)
        allowed, certain = self._admissible(body, version, is_away=is_away)
        assert set(found) <= allowed, f"not allowed: {set(found) - allowed}\n{said}"
        if all_read:
            assert certain <= set(found), f"missing: {certain - set(found)}\n{said}"
            self._tally.num_whole_lists += 1

    def _version(self, body: Mapping[str, Any], data: Mapping[str, Any], said: str) -> Version:
        assert data["bundle"] in self._model.live[body.get("model", "hllm")], f"{self._model.live} {said}"
        version = self._world.versions[data["bundle"]]
        assert data["model"] == {"kind": version.kind, "version": version.model_id}, said
        return version

    def _check_admissible(
        self, body: Mapping[str, Any], found: list[str], version: Version, *, is_away: bool, said: str
    ) -> None:
        rules = _rules(body)
        allowed, certain = self._admissible(body, version, is_away=is_away)
        said = f"not allowed: {set(found) - allowed}, allowed: {len(allowed)}, certain: {len(certain)}\n{said}"
        assert set(found) <= allowed, said
        caps = dict(rules["max_per"])
        for name, limit in body.get("max_per", {}).items():
            caps[name] = min(limit, caps.get(name, limit))
        used = {name: Counter(one for item in found for one in counted(version.rows[item][name])) for name in caps}
        for name, limit in caps.items():
            assert max(used[name].values(), default=0) <= limit, said
        if caps and len(found) < body["k"]:
            # nothing that is left would fit
            for item_id in certain - set(found):
                row = version.rows[item_id]
                assert any(used[name][one] >= limit for name, limit in caps.items() for one in counted(row[name])), said
        elif not caps:
            assert min(body["k"], len(certain)) <= len(found) <= min(body["k"], len(allowed)), said
        for position, item_id in rules["pins"].items():
            if item_id in certain and position <= len(found) and not caps:
                others = [at for at, pinned in rules["pins"].items() if at < position and pinned not in certain]
                assert others or found[position - 1] == item_id, said

    def _admissible(self, body: Mapping[str, Any], version: Version, *, is_away: bool) -> tuple[set[str], set[str]]:
        """The items that may be returned, and those of them that may be for certain."""
        rules = _rules(body)
        seen, maybe_seen = self._model.seen(body, is_away=is_away)
        excluded = {*body.get("exclude_item_ids", ()), *rules["exclude"], *seen, *self._model.hidden}
        allowed = version.rows.keys() - excluded
        for sent in (body.get("filter"), rules["filter"]):
            if sent:
                allowed = {item_id for item_id in allowed if passes(version.rows[item_id], sent)}
        return allowed, allowed - maybe_seen - self._model.maybe_hidden

    def _check_counted_in(
        self, body: Mapping[str, Any], data: Mapping[str, Any], version: Version, *, is_away: bool, said: str
    ) -> None:
        """Each acknowledged event is in what the model has read."""
        people = self._model.people(body)
        if data["source"] != "model" or is_away or not all(person.is_certain for person in people):
            return
        if "history" in body:
            history = [(entry["item_id"] if isinstance(entry, dict) else entry, 0) for entry in body["history"]]
        else:
            history = [(event.item_id, event.timestamp) for person in people for event in person.events]
        history = [(item_id, timestamp) for item_id, timestamp in history if item_id in version.rows]
        known = len(history)
        read = min(known, version.window) if version.kind == "hllm" else window(known, version.window)
        assert data["history_length"] == read, f"{known} known, {read} to be read\n{said}"
        self._tally.num_counted += 1
        # the order of two histories in one is told elsewhere
        if self._tally.num_counted % _CHECKED_EVERY == 0 and data["mode"] == "retrieve" and len(people) < 2:
            self._check_model(data, version, history, said)
        if "min_event_token" in body:
            assert not any(warning.startswith("event_token_unknown") for warning in data["warnings"]), said

    def _check_model(
        self, data: Mapping[str, Any], version: Version, history: Sequence[tuple[str, int]], said: str
    ) -> None:
        """The scores are those of this version's model and embeddings, and of nothing else."""
        if any("popular_fill" in warning for warning in data["warnings"]):
            return
        scores = version.scores(history, [item["item_id"] for item in data["items"]])
        np.testing.assert_allclose(
            [item["score"] for item in data["items"]], scores, atol=_SCORE_TOLERANCE, err_msg=said
        )
        self._tally.num_encoded += 1

    def _note(self, body: Mapping[str, Any], data: Mapping[str, Any], version: Version, *, is_whole: bool) -> None:
        people = self._model.people(body)
        tally = self._tally
        tally.num_recommendations += 1
        tally.sources[data["source"]] += 1
        is_patient = body.get("timeout_ms", _PATIENT_MS) >= _PATIENT_MS and body.get("mode") != "generate"
        is_known = any(event.item_id in version.rows for person in people for event in person.events)
        if is_whole and is_patient and is_known:
            tally.num_healthy += 1
            tally.num_needless += data["source"] != "model"
            tally.reasons.update(w.partition(":")[0] for w in data["warnings"] if data["source"] != "model")


def _rules(body: Mapping[str, Any]) -> dict[str, Any]:
    return RULES.get(body.get("scenario", ""), {"filter": {}, "exclude": set(), "pins": {}, "max_per": {}})


def _check_scores(body: Mapping[str, Any], data: Mapping[str, Any], version: Version, said: str) -> None:
    """All scores are cosines of one vector with this version's embeddings, and the best come first."""
    is_filled = any("popular_fill" in warning for warning in data["warnings"])
    is_searched = data["source"] in {"model", "fallback:last_embedding", "fallback:similar_items"}
    if not is_searched or is_filled or data["mode"] == "generate":
        return
    scores = np.array([item["score"] for item in data["items"]])
    assert (np.abs(scores) <= 1 + _SCORE_TOLERANCE).all(), said
    # under caps the index is searched again, and one that looks into few of its cells may find better items then
    if not {"diversity", "scenario", "max_per"} & body.keys():
        assert (np.diff(scores) <= 0).all(), said
    vectors = version.unit[[version.row_of[item["item_id"]] for item in data["items"]]]
    if len(scores) > vectors.shape[1]:
        user, *_ = np.linalg.lstsq(vectors, scores, rcond=None)
        assert np.abs(vectors @ user - scores).max() < _SCORE_TOLERANCE, said
