"""Rotation: what cannot be made anew is left alone, and an interrupted one can be repeated."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jinja2
import pytest
import yaml

from airflow_provider_rtlake.commands import rotate as command
from airflow_provider_rtlake.exceptions import UserError
from airflow_provider_rtlake.kit import postgres, rotate, verbs
from airflow_provider_rtlake.kit.stack import Service, Stack

NAMES = ("airflow_fernet", "nessie", "postgres", "s3", "superset_key")


def stack_of(home: Path, *components: str) -> Stack:
    (home / "secrets").mkdir()
    for name in NAMES:
        (home / "secrets" / name).write_text(f"old-{name}\n")
    services = {name: Service(name, name, 1, "", Path("log")) for name in components}
    return Stack(home, Path("project"), "supervisord", 0, components, services, {})


def values(stack: Stack) -> dict[str, str]:
    return {path.name: path.read_text().strip() for path in (stack.home / "secrets").iterdir()}


def changed(stack: Stack) -> list[str]:
    return sorted(name for name, value in values(stack).items() if value != f"old-{name}")


class Server:
    """PostgreSQL, as far as its superuser's password goes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.password, self.interrupt = "old-postgres", ""
        monkeypatch.setattr(postgres, "wait", self.wait)
        monkeypatch.setattr(postgres, "set_superuser_password", self.set)

    def wait(self, server: postgres.Server) -> Any:
        if server.password != self.password:
            raise postgres.PasswordRefused("refused")
        return SimpleNamespace(close=lambda: None)

    def set(self, server: postgres.Server, new: str) -> None:
        self.wait(server)
        if self.interrupt == "before":
            raise KeyboardInterrupt
        self.password = new
        if self.interrupt == "after":
            raise KeyboardInterrupt


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    return Server(monkeypatch)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_an_interrupted_rotation_of_the_superuser_can_be_repeated(tmp_path: Path, server: Server, moment: str) -> None:
    stack = stack_of(tmp_path, "postgresql")
    server.interrupt = moment
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            rotate.rotate(stack, ["postgres"], lambda: None)
    interrupted_with, server.interrupt = server.password, ""
    rotate.rotate(stack, ["postgres"], lambda: None)
    assert values(stack)["postgres"] == server.password != interrupted_with
    assert "postgres.new" not in values(stack)


def test_nothing_is_renewed_where_the_server_refuses(tmp_path: Path, server: Server) -> None:
    stack = stack_of(tmp_path, "postgresql")
    server.password = "of another server"
    with pytest.raises(postgres.PasswordRefused):
        rotate.rotate(stack, ["nessie", "postgres", "s3"], lambda: None)
    assert changed(stack) == ["postgres.new"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [("postgres", "a running PostgreSQL"), ("airflow_fernet", "while Airflow"), ("superset_key", "while Superset")],
)
def test_what_would_be_lost_is_refused_before_anything_is_renewed(tmp_path: Path, name: str, reason: str) -> None:
    stack = stack_of(tmp_path, "kafka")
    (tmp_path / "var" / "superset").mkdir(parents=True)
    with pytest.raises(UserError, match=f"{name}: .*{reason}"):
        rotate.rotate(stack, ["nessie", name], lambda: None)
    assert changed(stack) == []


def test_all_leaves_out_what_would_be_lost_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stack = stack_of(tmp_path, "kafka")
    (tmp_path / "var" / "superset").mkdir(parents=True)
    monkeypatch.setattr(Stack, "load", lambda: stack)
    monkeypatch.setattr(verbs, "bring_up", lambda *_, **__: None)
    command.rotate("all")
    assert changed(stack) == ["nessie", "s3"]
    said = capsys.readouterr().err
    assert all(f"not rotated: {name}: " in said for name in ("airflow_fernet", "postgres", "superset_key"))


def test_what_encrypts_is_known_beside_the_new_one_until_all_is_encrypted_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = stack_of(tmp_path, "airflow", "superset")
    (tmp_path / "var" / "superset").mkdir(parents=True)
    steps: list[dict[str, str] | str] = []
    monkeypatch.setattr(rotate.airflow, "run_cli", lambda _, words: steps.append(" ".join(words)))
    rotate.rotate(stack, ["airflow_fernet", "nessie", "superset_key"], lambda: steps.append(values(stack)))
    first, command_, last = steps
    assert isinstance(first, dict) and isinstance(last, dict)
    assert command_ == "rotate-fernet-key"
    for name in ("airflow_fernet", "superset_key"):
        assert first[name] == f"{last[name]},old-{name}"
    assert first["nessie"] == last["nessie"] != "old-nessie"
    assert changed(stack) == ["airflow_fernet", "nessie", "superset_key"]


def test_a_key_that_encrypts_nothing_is_rotated(tmp_path: Path, server: Server) -> None:
    stack = stack_of(tmp_path, "postgresql")
    rotate.rotate(stack, ["postgres", "superset_key"], lambda: None)
    assert changed(stack) == ["postgres", "superset_key"]


def test_grafana_is_told_a_changed_password_and_only_that(tmp_path: Path) -> None:
    role = Path(__file__).parents[2] / "ansible" / "roles" / "grafana"
    tasks = yaml.safe_load((role / "tasks" / "main.yml").read_text())
    (unit,) = tasks[-1]["vars"]["common_units"]
    environment = jinja2.Environment()  # noqa: S701  # no HTML
    script = environment.from_string(unit["prepare"]).render(grafana_home=tmp_path, grafana_etc=tmp_path)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "grafana").write_text(f'#!/bin/sh\necho "$@ <- $(cat)" >>{tmp_path}/told\n')
    (tmp_path / "bin" / "grafana").chmod(0o755)

    def start(password: str) -> list[str]:
        (tmp_path / "admin_password").write_text(password)
        subprocess.run(["bash", "-euo", "pipefail", "-c", script], cwd=tmp_path, check=True)
        told = tmp_path / "told"
        return [line.split("grafana.ini ")[1] for line in told.read_text().splitlines()] if told.exists() else []

    reset = "admin reset-admin-password --password-from-stdin <- "
    assert start("first") == []
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "grafana.db").touch()
    assert start("first") == []
    assert start("second") == start("second") == [f"{reset}second"]
