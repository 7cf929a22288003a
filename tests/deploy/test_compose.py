"""The compose file: hardened containers, ports on loopback, a Redis that keeps what was acknowledged."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.settings import Settings, split_names

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(TEXT)["services"]


def _resolved(value: str) -> str:
    """A value as compose reads it when no variable is set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value)


def _ports() -> list[tuple[str, str]]:
    return [(name, _resolved(port)) for name, service in SERVICES.items() for port in service.get("ports", [])]


def test_every_port_is_published_on_loopback_only() -> None:
    assert ("service", "127.0.0.1:8000:8000") in _ports()
    assert all(port.startswith("127.0.0.1:") for _, port in _ports())
    assert not SERVICES["redis"].get("ports")


def test_published_ports_do_not_collide() -> None:
    published = [port.split(":")[1] for _, port in _ports()]

    assert len(set(published)) == len(published)


@pytest.mark.parametrize("name", SERVICES)
def test_containers_are_hardened(name: str) -> None:
    service = SERVICES[name]

    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]


@pytest.mark.parametrize("name", SERVICES)
def test_images_can_be_replaced(name: str) -> None:
    assert re.fullmatch(r"\$\{\w+_IMAGE:-[^}@]+:[^}@]+\}", SERVICES[name]["image"])


def test_redis_persists_before_it_acknowledges_and_never_evicts() -> None:
    command = SERVICES["redis"]["command"]
    options = dict(zip(command[1::2], command[2::2], strict=True))

    assert options["--appendonly"] == "yes"
    assert options["--appendfsync"] == "always"
    assert options["--maxmemory-policy"] == "noeviction"
    assert _resolved(options["--maxmemory"]) == "512mb"
    assert "redis:/data" in SERVICES["redis"]["volumes"]
    assert "healthcheck" in SERVICES["redis"]


def test_the_demo_is_built_once_and_before_the_service() -> None:
    builder = SERVICES["builder"]

    assert builder["command"] == ["python", "-m", "offline.demo", "--store", "/store"]
    assert builder["restart"] == "no"
    assert SERVICES["service"]["depends_on"] == {
        "redis": {"condition": "service_healthy"},
        "builder": {"condition": "service_completed_successfully"},
    }


@pytest.mark.parametrize("name", ["service", "service-gpu"])
def test_variables_of_the_service_are_settings(name: str) -> None:
    known = {f"HATSTAND_{field.upper()}" for field in Settings.model_fields}
    environment = SERVICES[name]["environment"]

    assert set(environment) <= known
    assert environment["HATSTAND_ALLOW_ANONYMOUS"] == "1"
    assert environment["HATSTAND_REDIS_URL"].startswith("redis://redis:")


@pytest.mark.parametrize("name", ["service", "service-gpu"])
def test_the_console_is_on_because_only_this_machine_reaches_the_port(name: str) -> None:
    environment = SERVICES[name]["environment"]

    assert environment["HATSTAND_CONSOLE"] == "1"
    assert all(port.startswith("127.0.0.1:") for port in SERVICES[name]["ports"])
    # anonymous and on loopback, so other sites' names must not lead there; others in the network use the service's own
    names = split_names(_resolved(environment["HATSTAND_ALLOWED_HOSTS"]))
    assert {"localhost", name} <= set(names)
    assert not any("*" in one for one in names)


def test_default_services_need_no_profile_and_optional_ones_have_theirs() -> None:
    profiles = {name: service.get("profiles", []) for name, service in SERVICES.items()}

    assert profiles == {
        "redis": [],
        "builder": [],
        "service": [],
        "service-gpu": ["gpu"],
        "prometheus": ["observability"],
        "grafana": ["observability"],
    }


def test_build_arguments_exist_in_the_dockerfile() -> None:
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")
    declared = set(re.findall(r"^ARG (\w+)", dockerfile, re.MULTILINE))

    for service in SERVICES.values():
        assert set(service.get("build", {}).get("args", {})) <= declared


def test_gpu_service_gets_a_gpu_and_its_own_faiss() -> None:
    service = SERVICES["service-gpu"]

    assert service["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]
    assert _resolved(service["build"]["args"]["FAISS_REQUIREMENT"]).startswith("faiss-gpu")
    assert service["environment"]["HATSTAND_DEVICE"] == "cuda"


def test_image_is_tagged_with_the_projects_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]

    assert _resolved(SERVICES["service"]["image"]) == _resolved(SERVICES["builder"]["image"]) == f"hatstand:{version}"


def test_mounted_files_exist() -> None:
    mounts = [
        volume for service in SERVICES.values() for volume in service.get("volumes", []) if volume.startswith("./")
    ]

    assert len(mounts) == 3
    for mount in mounts:
        assert (ROOT / mount.split(":")[0]).is_dir()
