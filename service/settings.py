"""The service's configuration, from ``HATSTAND_*`` variables."""

import ipaddress
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from model_store.errors import InvalidInput
from service.experiment import Experiment

PREFIX = "HATSTAND_"
# Read by the tests, never by the service.
_TEST_PREFIX = "HATSTAND_TEST_"
EMBEDDED = "embedded"
_REDIS_SCHEMES = {"redis", "rediss", "unix"}

Scope = Literal["recommend", "events", "admin"]


class ApiKey(BaseModel):
    """One caller's key; only its hash is configured.

    Attributes:
        name: Who holds it, for the log.
        sha256: Hexadecimal SHA-256 of the key.
        scopes: What it may be used for.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    scopes: frozenset[Scope]


class Settings(BaseSettings):
    """All settings; each is the environment variable of its name in capitals after ``HATSTAND_``."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True, env_file=None)

    store: Annotated[str, Field(description="Model store: a folder, or an s3:// or gs:// url")] = ".hatstand/store"
    host: Annotated[str, Field(description="Address to listen on")] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535, description="Port to listen on")] = 8_000
    allow_anonymous: Annotated[bool, Field(description="Serve without API keys on other addresses than loopback")] = (
        False
    )
    api_keys: Annotated[
        tuple[ApiKey, ...],
        NoDecode,
        Field(description='JSON list of {"name", "sha256", "scopes"}; scopes are recommend, events, admin'),
    ] = ()
    log_level: Annotated[
        Literal["DEBUG", "INFO", "WARNING", "ERROR"], Field(description="How much the service logs")
    ] = "INFO"

    redis_url: Annotated[
        str, Field(repr=False, description='"embedded", or redis://, rediss:// or unix:// of a server')
    ] = EMBEDDED
    redis_cluster: Annotated[bool, Field(description="The url names a node of a Redis Cluster")] = False
    redis_directory: Annotated[Path, Field(description="Where the embedded Redis keeps its data")] = Path(
        ".hatstand/redis"
    )
    redis_timeout_seconds: Annotated[float, Field(gt=0, le=60, description="For one call, retries included")] = 2.0

    history_max_events: Annotated[
        int, Field(ge=1, le=10_000, description="Newest events kept per user; the oldest are dropped a tenth at a time")
    ] = 500
    history_max_event_ids: Annotated[
        int, Field(ge=1, le=100_000, description="Newest event ids recognised as duplicates, per user")
    ] = 2_000
    history_ttl_days: Annotated[int, Field(ge=1, le=3_650, description="A silent user is forgotten after")] = 90

    device: Annotated[str, Field(pattern=r"^(cpu|cuda(:\d+)?)$", description="Where the model runs")] = "cpu"
    torch_threads: Annotated[int, Field(ge=0, le=256, description="Threads of a forward pass; 0 = all cores")] = 0
    state_cache_mb: Annotated[
        int, Field(ge=0, le=1_048_576, description="MiB for what a HatLLM keeps of users between requests; 0 = nothing")
    ] = 256
    hatllm_mode: Annotated[
        Literal["retrieve", "generate"],
        Field(description="How a HatLLM that was trained for both answers when a request names no mode"),
    ] = "retrieve"
    experiment: Annotated[
        Experiment | None,
        NoDecode,
        Field(description='JSON {"name", "arms": {kind: weight}}: splits users between kinds of models; empty = off'),
    ] = None
    batch_max_users: Annotated[int, Field(ge=1, le=1_024, description="Users in one forward pass")] = 32
    batch_max_wait_ms: Annotated[float, Field(ge=0, le=1_000, description="How long the first of a batch waits")] = 1.0
    queue_max_users: Annotated[int, Field(ge=1, le=100_000, description="Waiting beyond this is refused: 429")] = 256
    request_timeout_ms: Annotated[int, Field(ge=1, le=600_000, description="When timeout_ms is not sent")] = 10_000
    max_body_bytes: Annotated[int, Field(ge=1_024, le=1 << 30, description="Larger bodies are refused: 413")] = 1 << 20
    shutdown_seconds: Annotated[int, Field(ge=0, le=600, description="Requests in flight may take this to end")] = 20

    @field_validator("api_keys", mode="before")
    @classmethod
    def _from_json(cls, value: object) -> object:
        # Decoded here, so that what is no JSON is refused like any other wrong value.
        return json.loads(value) if isinstance(value, str) else value

    @field_validator("experiment", mode="before")
    @classmethod
    def _from_json_or_off(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return json.loads(value) if value.strip() else None

    @field_validator("redis_url")
    @classmethod
    def _is_redis_url(cls, value: str) -> str:
        if value != EMBEDDED and urlsplit(value).scheme not in _REDIS_SCHEMES:
            raise ValueError("expected 'embedded' or a redis://, rediss:// or unix:// url")
        return value

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the service."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

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


def load_settings(environment: Mapping[str, str]) -> Settings:
    """Reads the settings, and refuses variables that carry our prefix but mean nothing.

    Pydantic ignores an environment variable that it does not know, so a misspelt one would silently be the
    default.

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
        raise InvalidInput(f"unknown setting {', '.join(strangers)}; known are {', '.join(sorted(known))}")
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = PREFIX + str(first["loc"][0]).upper()
        where = "".join(f"[{part}]" for part in first["loc"][1:])
        raise InvalidInput(f"{name}{where}: {first['msg']}") from error
