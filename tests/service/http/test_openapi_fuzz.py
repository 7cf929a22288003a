"""What the OpenAPI document promises, tried with requests that Schemathesis draws from it, valid ones and others.

No answer is a 500 (nor, with the ladder on, a 503 or 504), each status is documented, each body is what its schema
says, and what the schema forbids is refused. From a real process over real sockets.
"""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, GenerationMode
from schemathesis.checks import load_all_checks
from schemathesis.core.result import Ok
from schemathesis.schemas import APIOperation

from tests.processes.redis_processes import RedisProcess
from tests.processes.service_process import ServiceProcess, service_process
from tests.words import RAW_WORDS

DOCUMENT = Path(__file__).parents[3] / "docs/openapi.json"
NUM_DEFAULT = 300
NUM_SLOW = 10_000
# These read a body that has much in it.
HEAVY = {"/recommend": 4, "/events": 3}
# A bad event is rejected alone, in an answer of 200.
REJECTS_PARTS = {"/events"}
MODES = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
)


@pytest.fixture(scope="module")
def service(both_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    directory = tmp_path_factory.mktemp("fuzz")
    with (
        RedisProcess(directory / "redis") as redis,
        service_process(
            directory / "service.log", store=str(both_root), redis_url=redis.url, decision_max_mb="16"
        ) as process,
    ):
        yield process
        assert "Traceback" not in process.log()


def _operations() -> list[APIOperation[Any, Any, Any, Any]]:
    schema = schemathesis.openapi.from_dict(json.loads(DOCUMENT.read_text(encoding="utf-8")))
    return [result.ok() for result in schema.get_all_operations() if isinstance(result, Ok)]


class Fuzz:
    """Sends cases and checks the answers.

    Args:
        service: What is asked.
    """

    def __init__(self, service: ServiceProcess) -> None:
        load_all_checks()
        self._checks: list[Any] = [check for check in schemathesis.checks.CHECKS.get_all() if check.__name__ in CHECKS]
        assert len(self._checks) == len(CHECKS)
        self._service = service
        self._session = requests.Session()
        self.statuses: Counter[tuple[str, int]] = Counter()

    def run(self, operation: APIOperation[Any, Any, Any, Any], mode: GenerationMode, number: int, source: int) -> None:
        """Draws so many cases, or fewer where there are no more."""
        checks = [
            check
            for check in self._checks
            if operation.path not in REJECTS_PARTS or check.__name__ != "negative_data_rejection"
        ]

        @seeded(source)
        @settings(max_examples=number, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(operation.as_strategy(generation_mode=mode), st.booleans())
        def each_is_answered(case: Case[Any], is_grounded: bool) -> None:
            if is_grounded and mode is GenerationMode.POSITIVE and operation.path == "/recommend":
                case.body = _grounded(case.body)
            answer = case.call(base_url=self._service.url, session=self._session)
            self.statuses[operation.path, answer.status_code] += 1
            case.validate_response(answer, checks=checks)
            assert answer.status_code not in {500, 503, 504}, answer.text
            assert not RAW_WORDS.search(answer.text), answer.text

        try:
            each_is_answered()
        except Unsatisfiable:  # nothing can be wrong about a request without parameters
            assert mode is GenerationMode.NEGATIVE, operation.label


def _grounded(body: Any) -> Any:
    """The same request about things that there are: what is drawn names attributes and models that nobody has."""
    if not isinstance(body, dict):
        return body
    unknown = ("cursor", "scenario", "segment", "return_fields", "filter", "max_per", "mode")
    kept = {name: value for name, value in body.items() if name not in unknown}
    if not any(kept.get(name) for name in ("user_id", "session_id", "history")):
        kept["history"] = ["i1", "i2", *(kept.get("exclude_item_ids") or [])]
    if kept.get("model") is not None:
        kept["model"] = ("hllm", "hatllm")[len(kept["model"]) % 2]
    condition = body.get("filter")
    if isinstance(condition, dict) and condition:
        kept["filter"] = {"not": {"stock": {"gte": len(condition)}}}
    if body.get("max_per"):
        kept["max_per"] = dict(zip(("category", "tags", "price"), body["max_per"].values(), strict=False))
    return kept


def _run(service: ServiceProcess, least: int, rounds: int, capsys: pytest.CaptureFixture[str]) -> None:
    fuzz = Fuzz(service)
    operations = _operations()
    shares = {operation: HEAVY.get(operation.path, 1) for operation in operations}
    of_one = -(-least // (sum(shares.values()) * len(MODES) * rounds))
    # a few operations have nothing to draw, and are asked once each round: so it takes more rounds
    for source in range(2 * rounds):
        for operation, share in shares.items():
            for mode in MODES:
                if sum(fuzz.statuses.values()) < least:
                    fuzz.run(operation, mode, share * of_one, source)
    with capsys.disabled():
        print(f"\n{sum(fuzz.statuses.values())} cases: {dict(fuzz.statuses)}")  # noqa: T201
    assert sum(fuzz.statuses.values()) >= least
    # not all of them were turned away at the door
    assert fuzz.statuses["/recommend", 200] >= least / 100
    assert fuzz.statuses["/events", 200] >= least / 100


def test_answers_are_what_the_document_says(service: ServiceProcess, capsys: pytest.CaptureFixture[str]) -> None:
    _run(service, NUM_DEFAULT, 1, capsys)


@pytest.mark.slow
@pytest.mark.timeout(1_800)
def test_many_more_answers_are_what_the_document_says(
    service: ServiceProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    _run(service, NUM_SLOW, 10, capsys)
