"""The settings, .env.example and the documentation name the same variables with the same defaults."""

import re
from pathlib import Path

from service.settings import PREFIX, Settings, load_settings

ROOT = Path(__file__).parent.parent


def _example() -> dict[str, str]:
    lines = (ROOT / ".env.example").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def test_the_example_has_every_setting_once_and_no_other() -> None:
    lines = [line for line in (ROOT / ".env.example").read_text().splitlines() if line.startswith(PREFIX)]
    assert len(lines) == len(_example())
    assert set(_example()) == {PREFIX + name.upper() for name in Settings.model_fields}


def test_the_example_and_the_guide_have_the_same_groups_in_the_same_order() -> None:
    example, guide = ((ROOT / path).read_text() for path in (".env.example", "docs/configuration.md"))
    groups = re.findall(r"^## (.+)$", example, re.MULTILINE)
    assert groups == re.findall(r"^## (.+)$", guide, re.MULTILINE)[: len(groups)]
    assert re.findall(r"^\| `(\w+)`", guide, re.MULTILINE) == list(_example())


def test_the_example_shows_the_defaults() -> None:
    assert load_settings({name: value for name, value in _example().items() if value}) == load_settings({})


def test_every_setting_is_described_in_the_operations_guide() -> None:
    guide = (ROOT / "docs/configuration.md").read_text()
    for name, field in Settings.model_fields.items():
        assert f"`{PREFIX}{name.upper()}`" in guide
        assert field.description
        assert field.description in guide
