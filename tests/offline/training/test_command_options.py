import re
from dataclasses import fields
from pathlib import Path

import pytest
from typer.testing import CliRunner

from offline.train import app
from offline.training.command_options import parse_settings
from offline.training.kinds import KINDS

REQUIRED = ["--data", "dataset", "--store", "store"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_command_without_options_trains_what_its_settings_say_by_default(kind: str) -> None:
    settings_type = KINDS[kind].settings
    assert parse_settings(settings_type, REQUIRED) == settings_type(data=Path("dataset"), store="store")


@pytest.mark.parametrize("kind", KINDS)
def test_every_setting_is_an_option_with_help(kind: str) -> None:
    shown = CliRunner().invoke(app, [kind, "--help"], env={"COLUMNS": "400", "TERMINAL_WIDTH": "400"}).output
    for field in fields(KINDS[kind].settings):
        named = {"text_fields": "--text-field", "start_from": "--from"}
        option = named.get(field.name, f"--{field.name.replace('_', '-')}")
        line = next(line for line in shown.splitlines() if re.search(rf"{option}[\s,]", line))
        assert len(line.split()) > 4, f"{option} has no help"


def test_a_repeated_field_a_switch_and_a_choice_are_read() -> None:
    settings: object = parse_settings(
        KINDS["hllm"].settings,
        [*REQUIRED, "--text-field", "title", "--text-field", "brand", "--no-item-vectors", "--stage", "1"],
    )
    assert [getattr(settings, name) for name in ("text_fields", "item_vectors", "stage")] == [
        ("title", "brand"),
        False,
        "1",
    ]


@pytest.mark.parametrize(
    "options", [("--epochs", "many"), ("--schedule", "nope"), ("--epochs", "0"), ("--preset", "huge"), ("--nope", "1")]
)
def test_a_bad_value_ends_with_a_message_that_names_the_option(options: tuple[str, str]) -> None:
    finished = CliRunner().invoke(app, ["hatllm", *REQUIRED, *options])
    assert finished.exit_code != 0
    assert options[0] in finished.output + str(finished.exception)
