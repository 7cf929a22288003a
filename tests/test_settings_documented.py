"""The settings, .env.example and the documentation name the same variables with the same defaults."""

from pathlib import Path

from service.settings import PREFIX, Settings, load_settings

ROOT = Path(__file__).parent.parent


def _example() -> dict[str, str]:
    lines = (ROOT / ".env.example").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def test_the_example_has_every_setting_and_no_other() -> None:
    assert list(_example()) == [PREFIX + name.upper() for name in Settings.model_fields]


def test_the_example_shows_the_defaults() -> None:
    assert load_settings({name: value for name, value in _example().items() if value}) == load_settings({})


def test_every_setting_is_described_in_the_operations_guide() -> None:
    guide = (ROOT / "docs/configuration.md").read_text()
    for name, field in Settings.model_fields.items():
        assert f"`{PREFIX}{name.upper()}`" in guide
        assert field.description
        assert field.description in guide
