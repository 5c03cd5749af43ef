"""The command line's rooms: what they are called with and from where."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import typer
from typer.testing import CliRunner

from airflow_provider_rtlake import cli
from airflow_provider_rtlake.commands import connectors, pinot, stream
from airflow_provider_rtlake.exceptions import DeclarationError

PROJECT = Path(__file__).parents[2]


def commands(app: Any, name: str) -> Iterator[tuple[str, click.Command]]:
    """Every command below one, with its name."""
    if not hasattr(app, "commands"):
        yield name, app
        return
    for under, command in app.commands.items():
        yield from commands(command, f"{name} {under}")


def test_every_room_is_loaded_and_looks_for_declarations_in_the_project() -> None:
    folders = {"--connectors": PROJECT / "connectors", "--tables": PROJECT / "pinot_tables"}
    seen = set()
    for room, module in cli.rooms().items():
        for name, command in commands(typer.main.get_command(importlib.import_module(module).app), room):
            for parameter in command.params:
                for option in folders.keys() & set(parameter.opts):
                    assert Path(str(parameter.default)) == folders[option], name
                    seen.add(name)
    assert {"connectors apply", "pinot apply", "stream apply", "scd2 merge", "scd2 erase", "scd2 query"} <= seen


def test_commands_mean_the_project_in_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for app in (connectors.app, pinot.app):
        answer = CliRunner().invoke(app, ["validate", "--json"])
        told = json.loads(answer.output)
        assert told.get("connectors") or told.get("tables"), told


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    for app, option in ((connectors.app, "--connectors"), (pinot.app, "--tables")):
        answer = CliRunner().invoke(app, ["validate", option, str(tmp_path / "none")])
        assert isinstance(answer.exception, DeclarationError)


def test_a_corrected_value_that_is_not_there_is_refused_at_once(tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", tmp_path):
        answer = CliRunner().invoke(stream.letters_app, ["replay", "t:0:1", "--value", str(path)])
        assert (answer.exit_code, "--value" in answer.output) == (2, True)
