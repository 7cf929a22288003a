"""Scenarios: what a place in a shop wants of its lists, by name, from one YAML file.

What a scenario forbids holds whatever the request says: filters must both pass, exclusions add up, and of two caps the
smaller one counts. What it prefers (model, mode, diversity, seen rules) holds where the request says nothing.
"""

import hashlib
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Self

import orjson
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from model_store.encoding import Mode
from model_store.errors import InvalidInput
from model_store.field_problems import describe_problem
from model_store.kind_names import Kind
from service.engine.served_bundle import ServedBundle
from service.errors import InvalidRequest
from service.recommend.ask import Boost, Pin, Query, ScenarioRef
from service.recommend.candidates.admissible import check_attributes, check_filter
from service.recommend.candidates.caps import MAX_CAPPED, check_capped
from service.recommend.candidates.filter_wire import Filter, FilterNode
from service.recommend.candidates.filters import All, Node, evaluate
from service.recommend.ranking.boosts import MAX_BOOSTS, boost_codes

LOGGER = logging.getLogger(__name__)

_MAX_SCENARIOS = 100
_MAX_FILE_BYTES = 1 << 20
_MAX_PINS = 50
_MAX_IDS = 1_000
_VERSION_DIGITS = 12

Identifier = Annotated[str, Field(min_length=1, max_length=256)]
Limit = Annotated[int, Field(ge=1, le=500)]
MaxPer = Annotated[dict[str, Limit], Field(max_length=MAX_CAPPED)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class PinRule(_Part):
    """An item with a place."""

    item_id: Identifier
    position: Annotated[int, Field(ge=1, le=500)]


class BoostRule(_Part):
    """What moves some items up (or down, with a multiply below 1 or an add below 0)."""

    item_ids: Annotated[list[Identifier], Field(min_length=1, max_length=_MAX_IDS)] | None = None
    filter: Filter | None = None
    multiply: Annotated[float, Field(gt=0, le=100)] = 1.0
    add: Annotated[float, Field(ge=-10, le=10)] = 0.0

    @model_validator(mode="after")
    def _says_which_and_how(self) -> Self:
        if (self.item_ids is None) == (self.filter is None):
            raise PydanticCustomError("boost", "expected either item_ids or filter")
        if self.multiply == 1.0 and self.add == 0.0:
            raise PydanticCustomError("boost", "expected multiply or add")
        return self


class Scenario(_Part):
    """What one scenario says; see ``docs/scenarios.md``."""

    description: Annotated[str, Field(max_length=1_000)] = ""
    filter: Filter = FilterNode()
    exclude_item_ids: Annotated[list[Identifier], Field(max_length=_MAX_IDS)] = []
    max_per: MaxPer = {}
    pins: Annotated[list[PinRule], Field(max_length=_MAX_PINS)] = []
    boosts: Annotated[list[BoostRule], Field(max_length=MAX_BOOSTS)] = []
    diversity: Annotated[float, Field(ge=0, le=1)] | None = None
    exclude_seen: bool | None = None
    seen_types: Annotated[list[Annotated[str, Field(min_length=1, max_length=64)]], Field(max_length=64)] | None = None
    seen_max_age_seconds: Annotated[int, Field(ge=1)] | None = None
    model: Kind | None = None
    mode: Mode | None = None

    @model_validator(mode="after")
    def _pins_once(self) -> Self:
        for name in ("item_id", "position"):
            values = [getattr(pin, name) for pin in self.pins]
            twice = next((value for value in values if values.count(value) > 1), None)
            if twice is not None:
                raise PydanticCustomError("pins", f"{name} {twice!r} is pinned twice")
        return self


class _File(_Part):
    scenarios: Annotated[dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")], Scenario], Field(min_length=1)]


@dataclass(frozen=True, slots=True)
class SeenDefaults:
    """What counts as seen where neither the request nor its scenario says; see ``Query``."""

    types: tuple[str, ...] = ()
    max_age_seconds: int | None = None


@dataclass(frozen=True)
class ReadyScenario:
    """A scenario as it is applied.

    Attributes:
        ref: Its name and version.
        rules: What it says.
        filter: Its filter; None lets everything pass.
        pins: Its pinned items.
        boosts: Its boosts.
    """

    ref: ScenarioRef
    rules: Scenario
    filter: Node | None
    pins: tuple[Pin, ...]
    boosts: tuple[Boost, ...]

    @classmethod
    def make(cls, name: str, rules: Scenario) -> Self:
        """Puts a scenario into the form that it is applied in."""
        said = orjson.dumps(rules.model_dump(mode="json", by_alias=True), option=orjson.OPT_SORT_KEYS)
        place = f"scenarios.{name}"
        boosts = tuple(
            Boost(
                tuple(rule.item_ids or ()),
                # without entries a filter passes everything, and so does this
                None if rule.filter is None else rule.filter.tree(f"{place}.boosts.{at}.filter") or All(()),
                rule.multiply,
                rule.add,
            )
            for at, rule in enumerate(rules.boosts)
        )
        return cls(
            ref=ScenarioRef(name, hashlib.sha256(said).hexdigest()[:_VERSION_DIGITS]),
            rules=rules,
            filter=rules.filter.tree(f"{place}.filter"),
            pins=tuple(Pin(rule.item_id, rule.position) for rule in rules.pins),
            boosts=boosts,
        )

    def marks(self, served: ServedBundle, item_ids: Sequence[str]) -> list[tuple[bool, bool]]:
        """Per item whether it is pinned and whether it is boosted; a pinned one has its place whatever else holds."""
        pinned = {pin.item_id for pin in self.pins}
        if not self.boosts:
            return [(item_id in pinned, False) for item_id in item_ids]
        codes = boost_codes(served, self.boosts)
        rows = (served.catalogue.index_of(item_id) - 1 for item_id in item_ids)
        return [
            (item_id in pinned, item_id not in pinned and bool(codes[row]))
            for item_id, row in zip(item_ids, rows, strict=True)
        ]

    def apply(self, query: Query, sent: Collection[str]) -> Query:
        """The query with what the scenario says.

        Args:
            query: As the request says.
            sent: Which fields the request set, as far as a scenario may set them otherwise.
        """
        rules = self.rules
        both = [node for node in (self.filter, query.filter) if node is not None]
        preferred = {
            name: getattr(rules, name)
            for name in ("diversity", "exclude_seen", "seen_types", "seen_max_age_seconds", "model", "mode")
            if name not in sent and getattr(rules, name) is not None
        }
        limits = {
            name: min(limit for limit in (rules.max_per.get(name), query.max_per.get(name)) if limit is not None)
            for name in {**rules.max_per, **query.max_per}
        }
        return replace(
            query,
            filter=None if not both else both[0] if len(both) == 1 else All(tuple(both)),
            exclude_item_ids=[*query.exclude_item_ids, *rules.exclude_item_ids],
            max_per=limits,
            pins=self.pins,
            boosts=self.boosts,
            scenario=self.ref,
            **preferred,
        )


class Scenarios:
    """All scenarios of a file.

    Args:
        path: The file, for errors; None if there is none.
        scenarios: By name.
    """

    def __init__(self, path: Path | None = None, scenarios: Mapping[str, Scenario] | None = None) -> None:
        self._path = path
        self._scenarios = {name: ReadyScenario.make(name, rules) for name, rules in (scenarios or {}).items()}

    @classmethod
    def load(cls, path: Path) -> "Scenarios":
        """Reads a file.

        Raises:
            InvalidInput: It cannot be read, or says something that is not a scenario; with the place.
        """
        try:
            text = path.read_bytes()
        except OSError as error:
            raise InvalidInput(f"{path}: {error.strerror}") from error
        if len(text) > _MAX_FILE_BYTES:
            raise InvalidInput(f"{path}: {len(text)} bytes, expected at most {_MAX_FILE_BYTES}")
        try:
            content = yaml.load(text, _Loader)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise InvalidInput(f"{path}: {' '.join(str(error).split())}") from error
        try:
            scenarios = _File.model_validate(content).scenarios
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(str(part) for part in first["loc"] if part != "[key]")
            raise InvalidInput(f"{path}: {place or 'the file'}: {describe_problem(first, _File)}") from error
        if len(scenarios) > _MAX_SCENARIOS:
            raise InvalidInput(f"{path}: {len(scenarios)} scenarios, expected at most {_MAX_SCENARIOS}")
        return cls(path, scenarios)

    def __len__(self) -> int:
        return len(self._scenarios)

    def __iter__(self) -> "Any":
        return iter(self._scenarios.values())

    def get(self, name: str) -> ReadyScenario:
        """One scenario.

        Raises:
            InvalidRequest: There is none of this name.
        """
        if name not in self._scenarios:
            known = sorted(self._scenarios) if self._scenarios else "none: HATSTAND_SCENARIOS names no file"
            raise InvalidRequest(f"scenario: no scenario {name!r}; there are {known}", code="unknown_scenario")
        return self._scenarios[name]

    def marks(self, ref: ScenarioRef | None, served: ServedBundle, item_ids: Sequence[str]) -> list[tuple[bool, bool]]:
        """Per item whether the scenario that made its list pins it, and whether it boosts it."""
        scenario = None if ref is None else self._scenarios.get(ref.name)
        if scenario is None or scenario.ref != ref:
            return [(False, False)] * len(item_ids)
        return scenario.marks(served, item_ids)

    def problems(self, served: ServedBundle) -> list[str]:
        """What of the scenarios does not fit a bundle: one line each, with file and key. May take a while."""
        found = []
        for scenario in self._scenarios.values():
            try:
                _check(scenario, served)
            except InvalidRequest as error:
                found.append(f"{self._path}: {error.detail} (bundle {served.bundle_id})")
        return found

    def warn(self, served: ServedBundle) -> None:
        """Logs what does not fit a bundle that is about to answer; requests that name such a scenario are refused."""
        for problem in (*self.problems(served), *self.unknown_items(served)):
            LOGGER.warning("%s", problem)

    def unknown_items(self, served: ServedBundle) -> list[str]:
        """Pinned items that a catalogue does not have: no mistake, as items come and go."""
        return [
            f"{self._path}: scenarios.{scenario.ref.name}.pins: no item {pin.item_id!r} in bundle {served.bundle_id}"
            for scenario in self._scenarios.values()
            for pin in scenario.pins
            if served.catalogue.index_of(pin.item_id) == 0
        ]


def _check(scenario: ReadyScenario, served: ServedBundle) -> None:
    """Evaluates everything once; what is computed is kept for requests.

    Raises:
        InvalidRequest: With the place.
    """
    place = f"scenarios.{scenario.ref.name}"
    for node in (scenario.filter, *(boost.filter for boost in scenario.boosts)):
        if node is not None:
            check_filter(served.catalogue, node)
            evaluate(node, served.catalogue, served.masks)
    boost_codes(served, scenario.boosts)
    for name in scenario.rules.max_per:
        check_attributes(served.catalogue, [name], place=f"{place}.max_per")
        check_capped(served, name, place=f"{place}.max_per")
    rules = scenario.rules
    if rules.model == served.kind and rules.mode not in (None, *served.modes):
        trained = " and ".join(served.modes)
        raise InvalidRequest(f"{place}.mode: model {served.model_id} was trained for {trained}, not {rules.mode}")


class _Loader(yaml.SafeLoader):
    """Refuses a key that occurs twice, of which YAML silently takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping whose keys are all different."""
        seen: set[object] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str | int | float | bool):
                if key in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"{key!r} occurs twice", key_node.start_mark)
                seen.add(key)
        return super().construct_mapping(node, deep)
