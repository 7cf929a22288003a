"""The service's configuration, from ``HATSTAND_*`` variables."""

import ipaddress
import json
import re
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from model_store.errors import InvalidInput
from model_store.field_problems import describe_problem
from model_store.people.redis_url import parse_redis_url
from service.recommend.experiment import Experiment

PREFIX = "HATSTAND_"
# Read by the tests, never by the service.
_TEST_PREFIX = "HATSTAND_TEST_"
EMBEDDED = "embedded"
MIN_DECISION_MB = 4
_HOST_NAME = re.compile(r"\*|(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")

Scope = Literal["recommend", "events", "admin"]


class ApiKey(BaseModel):
    """One caller's key; only its hash is configured.

    Attributes:
        name: Who holds it, for the log.
        sha256: Hexadecimal SHA-256 of the key.
        scopes: What it may be used for.
        requests_per_minute: How often; what the settings say by default, 0 = no limit.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    scopes: frozenset[Scope]
    requests_per_minute: Annotated[int | None, Field(ge=0, le=10_000_000)] = None


class Settings(BaseModel):
    """All settings; each is the environment variable of its name in capitals after ``HATSTAND_``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    store: Annotated[str, Field(description="Model store: a folder, or an s3:// or gs:// url")] = ".hatstand/store"
    store_poll_seconds: Annotated[
        float,
        Field(
            ge=0,
            le=86_400,
            description="The service looks for a new live bundle this often (plus or minus a quarter); 0 = only "
            "after POST /admin/reload",
        ),
    ] = 5.0
    memory_reserve_mb: Annotated[
        int,
        Field(
            ge=-1,
            le=1_048_576,
            description="A new bundle is refused if less than this many MiB would stay free; -1 = no check",
        ),
    ] = 256
    host: Annotated[str, Field(description="The service listens on this address")] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535, description="The service listens on this port")] = 8_000
    workers: Annotated[
        int,
        Field(
            ge=0,
            le=256,
            description="Number of processes that answer requests; 0 = one per core, as far as the memory allows",
        ),
    ] = 0
    allow_anonymous: Annotated[bool, Field(description="The service may listen beyond loopback without API keys")] = (
        False
    )
    api_keys: Annotated[
        tuple[ApiKey, ...],
        Field(
            repr=False,
            description='API keys: JSON list of {"name", "sha256", "scopes"}; scopes are recommend, events, admin',
        ),
    ] = ()
    cors_origins: Annotated[
        tuple[str, ...],
        Field(description='Pages of these origins may call the API: JSON list, such as ["https://shop.example"]'),
    ] = ()
    allowed_hosts: Annotated[
        str,
        Field(
            description="Host names that requests may use, separated by commas; *.shop.example and * are patterns; "
            "empty = "
            "only localhost on loopback without API keys, else all"
        ),
    ] = ""
    trusted_proxies: Annotated[
        str,
        Field(
            description="The service believes X-Forwarded-For from these addresses or networks, separated by commas; "
            "empty = from none"
        ),
    ] = ""
    rate_limit_per_minute: Annotated[
        int,
        Field(
            ge=0,
            le=10_000_000,
            description="Requests per minute for each API key without a requests_per_minute of its own; 0 = no limit",
        ),
    ] = 0
    rate_limit_anonymous_per_minute: Annotated[
        int,
        Field(
            ge=0, le=10_000_000, description="Requests per minute for each address that sends no API key; 0 = no limit"
        ),
    ] = 0
    rate_limit_burst: Annotated[
        int,
        Field(
            ge=0,
            le=1_000_000,
            description="Requests that may come at once within the limits; 0 = a sixth of the limit per minute",
        ),
    ] = 0
    auth_failures_per_minute: Annotated[
        int, Field(ge=1, le=1_000_000, description="Wrong API keys per minute for each address; more are answered 429")
    ] = 30
    log_level: Annotated[
        Literal["DEBUG", "INFO", "WARNING", "ERROR"], Field(description="The service logs messages from this level on")
    ] = "INFO"
    log_format: Annotated[
        Literal["text", "json"], Field(description="Format of the log: lines for people, or one JSON object per line")
    ] = "text"
    log_requests: Annotated[
        bool,
        Field(description="The service logs every request (route, status, time, request id), not only the failed ones"),
    ] = False
    console: Annotated[
        bool | None,
        Field(description="The service shows the console at /; empty = only where it listens on loopback"),
    ] = None
    mcp: Annotated[
        bool,
        Field(description="The service offers tools for agents at /mcp (Model Context Protocol); needs the extra mcp"),
    ] = False

    redis_url: Annotated[
        str,
        Field(
            repr=False,
            description='"embedded", or redis://, rediss:// or unix:// of a server; special characters percent-encoded',
        ),
    ] = EMBEDDED
    redis_cluster: Annotated[
        bool, Field(description="The url names nodes of a Redis Cluster: redis://a:6379,b:6379")
    ] = False
    redis_directory: Annotated[
        Path | None,
        Field(description="The embedded Redis keeps its data in this folder; empty = beside the store, one per store"),
    ] = None
    redis_timeout_seconds: Annotated[
        float, Field(gt=0, le=60, description="A call to Redis may take this long, retries included")
    ] = 2.0
    redis_required: Annotated[
        bool,
        Field(
            description="Without Redis, /readyz answers 503; false = the service stays ready and answers by fallbacks"
        ),
    ] = False

    history_max_events: Annotated[
        int,
        Field(
            ge=1,
            le=10_000,
            description="Redis keeps this many newest events per user; older events are dropped a tenth at a time",
        ),
    ] = 500
    history_max_event_ids: Annotated[
        int,
        Field(ge=1, le=100_000, description="Redis recognises duplicates among this many newest event ids per user"),
    ] = 2_000
    history_ttl_days: Annotated[
        int, Field(ge=1, le=3_650, description="Redis forgets a user this long after the latest event")
    ] = 90
    session_ttl_hours: Annotated[
        int,
        Field(
            ge=1,
            le=87_600,
            description="Redis forgets a session this long after the latest event, unless it was merged into a user",
        ),
    ] = 24
    event_log_max_events: Annotated[
        int,
        Field(
            ge=0,
            le=1_000_000_000,
            description="Events that may wait for offline.export_events; more events are refused with 503; 0 = no "
            "event log",
        ),
    ] = 1_000_000
    counted_event_types: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=64)], ...],
        Field(
            max_length=32, description="Event types that the metrics tell apart: JSON list; all others count as other"
        ),
    ] = ("view", "click", "add_to_cart", "purchase")
    decision_max_mb: Annotated[
        int,
        Field(
            ge=0,
            le=1_048_576,
            description="Redis keeps decision records in this many MiB, and drops the oldest first; 0 = no records",
        ),
    ] = 64
    decision_ttl_hours: Annotated[int, Field(ge=1, le=8_760, description="Redis keeps a decision record this long")] = (
        168
    )

    device: Annotated[
        str, Field(pattern=r"^(cpu|cuda(:\d+)?)$", description="The model runs on this device: cpu, cuda or cuda:N")
    ] = "cpu"
    torch_threads: Annotated[
        int, Field(ge=0, le=256, description="Threads of one forward pass; 0 = the cores divided by the workers")
    ] = 0
    state_cache_mb: Annotated[
        int,
        Field(
            ge=0,
            le=1_048_576,
            description="A HatLLM keeps users' states in this many MiB between requests; 0 = no states",
        ),
    ] = 256
    hatllm_mode: Annotated[
        Literal["retrieve", "generate"],
        Field(description="Mode of a HatLLM that was trained for both, where a request names no mode"),
    ] = "retrieve"
    experiment: Annotated[
        Experiment | None,
        Field(
            description='Users are split between kinds of models: JSON {"name", "arms": {kind: weight}}; empty = no '
            "experiment"
        ),
    ] = None
    scenarios: Annotated[Path | None, Field(description="YAML file of the scenarios; empty = no scenarios")] = None
    seen_types: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=64)], ...],
        Field(
            max_length=64,
            description="Events of these types count as seen, where a request names none: JSON list; [] = all types",
        ),
    ] = ()
    seen_max_age_seconds: Annotated[
        int,
        Field(
            ge=0,
            le=4_102_444_800,
            description="Events older than this do not count as seen, where a request sets no age; 0 = no limit",
        ),
    ] = 0
    pages_ttl_seconds: Annotated[
        int, Field(ge=1, le=86_400, description="The further pages of an answer can be asked for this long")
    ] = 600
    batch_max_users: Annotated[
        int, Field(ge=1, le=1_024, description="At most this many users in one forward pass")
    ] = 32
    batch_max_wait_ms: Annotated[
        float,
        Field(ge=0, le=1_000, description="An idle model waits this long for more users before a forward pass"),
    ] = 0.0
    queue_max_users: Annotated[
        int,
        Field(
            ge=1,
            le=100_000,
            description="At most this many users wait for the model; more are answered by a fallback, or 429 without "
            "fallbacks",
        ),
    ] = 256
    request_timeout_ms: Annotated[
        int, Field(ge=1, le=600_000, description="Time for an answer, where a request sends no timeout_ms")
    ] = 10_000
    model_stuck_seconds: Annotated[
        float,
        Field(
            ge=0.1,
            le=600,
            description="A forward pass that takes longer counts as stuck: /readyz answers 503, requests get fallbacks",
        ),
    ] = 1.5
    model_hung_seconds: Annotated[
        float,
        Field(
            ge=0,
            le=86_400,
            description="A model that is stuck this long needs a restart: /livez answers 503; 0 = never",
        ),
    ] = 60.0
    max_in_flight: Annotated[
        int, Field(ge=1, le=100_000, description="At most this many requests at once; more are answered 429")
    ] = 512
    max_connections: Annotated[
        int, Field(ge=1, le=1_000_000, description="At most this many open connections; more are closed with 503")
    ] = 2_000
    fallback: Annotated[
        Literal["on", "off"],
        Field(
            description="on = where model or Redis fail or are late, the next step of the ladder answers; off = 429, "
            "503 or 504"
        ),
    ] = "on"
    last_known_mb: Annotated[
        int,
        Field(
            ge=0,
            le=1_048_576,
            description="A process remembers users' last embeddings, histories and answers in this many MiB, for "
            "repeated "
            "requests and for fallbacks",
        ),
    ] = 64
    last_known_max_age_seconds: Annotated[
        int, Field(ge=1, le=31_536_000, description="A process forgets what it remembers of a user after this long")
    ] = 86_400
    inline_search_values: Annotated[
        int,
        Field(
            ge=0,
            le=1 << 30,
            description="Catalogues of at most this many numbers (items x width) are searched without a thread; 0 = "
            "none",
        ),
    ] = 1 << 23
    segment_attribute: Annotated[
        str,
        Field(
            max_length=256,
            description="Attribute of the segments whose popular items a fallback shows; empty = a category-like "
            "attribute",
        ),
    ] = ""
    max_body_bytes: Annotated[int, Field(ge=1_024, le=1 << 30, description="Larger bodies are refused with 413")] = (
        1 << 20
    )
    max_json_depth: Annotated[
        int, Field(ge=2, le=200, description="More deeply nested bodies are refused with 400")
    ] = 32
    max_headers: Annotated[int, Field(ge=10, le=10_000, description="More header lines are refused with 431")] = 100
    max_header_bytes: Annotated[
        int, Field(ge=1_024, le=1_048_576, description="More bytes of path and header lines are refused with 431")
    ] = 16_384
    header_timeout_seconds: Annotated[
        float, Field(gt=0, le=600, description="Header lines that take longer to arrive are refused with 408")
    ] = 10.0
    body_timeout_seconds: Annotated[
        float, Field(gt=0, le=600, description="A body that takes longer to arrive is refused with 408")
    ] = 10.0
    keep_alive_seconds: Annotated[
        int,
        Field(
            ge=1,
            le=3_600,
            description="An idle connection is closed after this long; set it longer than the proxy's own",
        ),
    ] = 75
    shutdown_seconds: Annotated[
        int, Field(ge=0, le=600, description="Requests in flight may take this long to end after SIGTERM")
    ] = 20
    shutdown_delay_seconds: Annotated[
        int,
        Field(
            ge=0,
            le=600,
            description="The service still accepts requests this long after SIGTERM, with /readyz at 503, for load "
            "balancers to notice",
        ),
    ] = 0

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            parts = urlsplit(origin)
            if origin != "*" and (
                parts.scheme not in {"http", "https"} or origin != f"{parts.scheme}://{parts.netloc}"
            ):
                raise ValueError(f"{origin!r} is no origin; expected such as https://shop.example, or *")
        return value

    @field_validator("allowed_hosts")
    @classmethod
    def _are_host_names(cls, value: str) -> str:
        for name in split_names(value):
            if not _HOST_NAME.fullmatch(name):
                raise ValueError(f"{name!r} is no name of a host; expected such as shop.example, *.shop.example or *")
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _are_networks(cls, value: str) -> str:
        for part in split_names(value):
            if part != "*":
                ipaddress.ip_network(part, strict=False)
        return value

    @field_validator("api_keys", "cors_origins", "seen_types", "counted_event_types", "experiment", mode="before")
    @classmethod
    def _from_json(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value)
        except ValueError as error:
            raise ValueError(f"expected JSON: {error}") from error

    # Defined last, so it is called first.
    @field_validator("experiment", "console", "scenarios", "redis_directory", mode="before")
    @classmethod
    def _or_unset(cls, value: object) -> object:
        return None if isinstance(value, str) and not value.strip() else value

    @model_validator(mode="after")
    def _has_redis_url(self) -> Self:
        if self.redis_url != EMBEDDED:
            try:
                parse_redis_url(self.redis_url, cluster=self.redis_cluster)
            except InvalidInput as error:
                raise ValueError(f"HATSTAND_REDIS_URL: {error}") from error
        return self

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the service."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def hosts(self) -> tuple[str, ...]:
        """Names that callers may call the service by; addresses are none."""
        if self.allowed_hosts:
            return split_names(self.allowed_hosts)
        # Where every caller needs a key, a page that got here by a trick has none.
        return ("localhost",) if self.is_loopback and not self.api_keys else ("*",)

    @property
    def has_console(self) -> bool:
        """Whether the console is served."""
        return self.is_loopback if self.console is None else self.console

    def check_access(self) -> None:
        """Refuses to serve strangers by accident.

        Raises:
            InvalidInput: The service would listen beyond loopback, without keys, and nobody said that this
                is meant.
        """
        if not (self.is_loopback or self.api_keys or self.allow_anonymous):
            raise InvalidInput(
                f"HATSTAND_HOST is {self.host}, which is not loopback, and HATSTAND_API_KEYS is empty: "
                "configure keys, or set HATSTAND_ALLOW_ANONYMOUS=1 if something else guards the port"
            )


def split_names(value: str) -> tuple[str, ...]:
    """What stands between commas."""
    return tuple(filter(None, (part.strip() for part in value.split(","))))


def load_settings(environment: Mapping[str, str]) -> Settings:
    """Reads the settings, and refuses variables that carry our prefix but mean nothing.

    A misspelt variable would otherwise silently be the default.

    Args:
        environment: All variables, such as ``os.environ``.

    Raises:
        InvalidInput: An unknown variable, or a value out of its range; the message names it.
    """
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    strangers = sorted(
        name
        for name in environment
        if name.upper().startswith(PREFIX) and not name.upper().startswith(_TEST_PREFIX) and name.upper() not in known
    )
    if strangers:
        raise InvalidInput("; ".join(_stranger(name, known) for name in strangers))
    given = {name.upper()[len(PREFIX) :].lower(): value for name, value in environment.items() if name.upper() in known}
    try:
        return Settings.model_validate(given)
    except ValidationError as error:
        raise InvalidInput(_problem(error)) from error


def _stranger(name: str, known: Collection[str]) -> str:
    near = get_close_matches(name.upper(), known, n=1)
    hint = f"did you mean {near[0]}?" if near else "docs/configuration.md and .env.example have all of them"
    return f"unknown setting {name}; {hint}"


def _problem(error: ValidationError) -> str:
    """The first problem, with the name of the variable; the value only where it is no secret."""
    first = error.errors(include_url=False)[0]
    if not first["loc"]:
        return str(first["ctx"]["error"])
    name = str(first["loc"][0])
    shown = {key: one for key, one in first.items() if key != "input" or Settings.model_fields[name].repr}
    where = "".join(f"[{part}]" for part in first["loc"][1:])
    return f"{PREFIX}{name.upper()}{where}: {describe_problem(shown)}"
