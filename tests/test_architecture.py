"""Who may import whom, and where each library lives; read from the source, not run."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from model_store.kind_names import Kind

ROOT = Path(__file__).parent.parent
PACKAGES = ("service", "model_store", "offline")
FORBIDDEN = {
    "model_store": {"service", "offline", "benchmarks", "tests"},
    "service": {"offline", "benchmarks", "tests"},
    "offline": {"service", "benchmarks", "tests"},
}
# library -> the paths that may import it
HOMES = {
    "faiss": ("model_store/index/",),
    "redis": ("service/redis/", "offline/redis/"),
    "fastapi": ("service/app.py", "service/http/", "service/mcp/", "service/routes/", "service/workers/server.py"),
    "starlette": ("service/app.py", "service/http/", "service/routes/"),
    "mcp": ("service/mcp/",),
    "peft": ("model_store/", "offline/training/"),
    "transformers": ("model_store/", "offline/training/"),
    "prometheus_client": ("service/metrics/",),
}


def _sources() -> Iterator[Path]:
    for package in PACKAGES:
        yield from sorted((ROOT / package).rglob("*.py"))


def _imported_modules(path: Path) -> set[str]:
    modules: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules.add(node.module)
    return modules


@pytest.mark.parametrize("path", list(_sources()), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_one_way_and_each_library_has_one_home(path: Path) -> None:
    relative = path.relative_to(ROOT).as_posix()
    roots = {name.split(".")[0] for name in _imported_modules(path)}
    assert not roots & FORBIDDEN[relative.split("/")[0]]
    for library, homes in HOMES.items():
        if library in roots:
            assert relative.startswith(homes), f"{relative} imports {library}, whose home is {homes}"


def test_the_request_pipeline_knows_neither_http_nor_redis() -> None:
    for path in (ROOT / "service/recommend").rglob("*.py"):
        roots = {name.split(".")[0] for name in _imported_modules(path)}
        assert not roots & {"fastapi", "starlette", "redis", "torch", "faiss"}, path


def test_no_module_reads_the_environment_or_starts_work_when_imported() -> None:
    for path in _sources():
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Expr | ast.Assign | ast.AnnAssign) and "environ" in ast.dump(node):
                pytest.fail(f"{path.relative_to(ROOT)} reads the environment at import")


# Inside the service each room may import the rooms named here, its own, and those that everybody may.
_FOR_EVERYBODY = {"errors", "logs", "tasks"}
_ROOMS = {
    "workers": {"app", "wiring", "engine", "http", "metrics", "redis", "settings"},
    "app": {"wiring", "routes", "http", "metrics", "engine", "workers", "mcp", "settings"},
    "wiring": {"recommend", "people", "decisions", "engine", "redis", "metrics", "http", "workers", "settings"},
    "mcp": {"routes"},
    "http": {"wiring", "metrics", "settings"},
    "routes": {"http", "wiring", "recommend", "people", "decisions", "engine", "metrics", "console", "settings"},
    "recommend": {"people", "decisions", "engine"},
    "people": {"recommend", "engine"},
    "decisions": {"recommend", "people", "engine"},
    "redis": {"people", "decisions"},
    "settings": {"recommend"},
    "engine": set(),
    "metrics": set(),
    "console": set(),
    "errors": set(),
    "logs": set(),
    "tasks": set(),
}
# Files of the service's top level that belong to a room.
_ROOM_OF_FILE = {"__main__": "workers", "supervision": "wiring", "recording": "wiring"}
# Each of these crosses a border knowingly; the list may only become shorter.
_EXCEPTIONS = {
    ("http/openapi.py", "app"),  # a command: it writes the document of the application
    ("decisions/replay.py", "redis"),  # a command: it reads records where they are kept
    ("redis/rates.py", "http"),  # what a rate is
}


def _room(name: str) -> str:
    return _ROOM_OF_FILE.get(name, name)


def test_inside_the_service_imports_run_one_way() -> None:
    crossed = set()
    for path in sorted((ROOT / "service").rglob("*.py")):
        relative = path.relative_to(ROOT / "service").as_posix()
        room = _room(relative.split("/")[0].removesuffix(".py"))
        targets = {_room(name.split(".")[1]) for name in _imported_modules(path) if name.startswith("service.")}
        allowed = _ROOMS.get(room, set()) | _FOR_EVERYBODY | {room}
        crossed |= {(relative, target) for target in targets - allowed}
    assert crossed == _EXCEPTIONS


def test_no_folder_holds_more_modules_than_a_newcomer_reads() -> None:
    for package in (*PACKAGES, "benchmarks"):
        for folder in {path.parent for path in (ROOT / package).rglob("*.py")}:
            modules = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
            assert len(modules) <= 15, f"{folder.relative_to(ROOT)} holds {len(modules)} modules"


def test_only_the_table_of_kinds_and_the_kinds_themselves_tell_kinds_apart() -> None:
    """A third kind costs a folder and its entries in the tables, and no condition elsewhere."""
    homes = ("model_store/kinds.py", "model_store/kind_names.py", "model_store/hllm/", "model_store/hatllm/")
    homes += ("offline/training/kinds.py", "offline/training/hllm/", "offline/training/hatllm/")
    found = []
    for folder in ("service", "model_store", "offline"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            relative = path.relative_to(ROOT).as_posix()
            if relative.startswith(homes):
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Compare) and {"hllm", "hatllm"} & {
                    one.value for one in ast.walk(node) if isinstance(one, ast.Constant) and isinstance(one.value, str)
                }:
                    found.append(f"{relative}:{node.lineno}")
    assert found == []


def test_the_names_of_the_kinds_are_those_of_both_tables() -> None:
    from model_store.kinds import KINDS
    from offline.indexing.kinds import PREPARE_ITEMS
    from offline.training.kinds import KINDS as TRAINED_KINDS

    assert set(get_args(Kind)) == set(KINDS) == set(PREPARE_ITEMS) == set(TRAINED_KINDS) | {"blend"}


# Of transformers, prometheus_client and click, which have no public names for them.
NOT_OURS = {"_attn_implementation", "_labelnames", "_protected_args"}


def test_tests_ask_for_behaviour_and_not_for_private_attributes() -> None:
    found = []
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Attribute) or not node.attr.startswith("_") or node.attr.startswith("__"):
                continue
            is_own = isinstance(node.value, ast.Name) and node.value.id in {"self", "cls"}
            if not is_own and node.attr not in NOT_OURS:
                found.append(f"{path.relative_to(ROOT).as_posix()}:{node.lineno}: {ast.unparse(node)}")
    assert found == []
