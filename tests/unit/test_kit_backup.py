"""Backups: what is in them comes back, and what was damaged is refused. PostgreSQL itself: tests/system_node."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from airflow_provider_rtlake.commands import backup as command
from airflow_provider_rtlake.exceptions import UserError
from airflow_provider_rtlake.kit import backup, postgres, supervise, verbs
from airflow_provider_rtlake.kit.stack import Service, Stack


def made(home: Path) -> Stack:
    (home / "var" / "kafka" / "data").mkdir(parents=True)
    (home / "var" / "kafka" / "data" / "log").write_bytes(b"messages\0" * 100)
    with (home / "var" / "kafka" / "data" / "index").open("wb") as sparse:
        sparse.truncate(50_000_000)
    (home / "var" / "s3proxy").mkdir()
    (home / "var" / "s3proxy" / "object").write_bytes(b"object")
    (home / "var" / "airflow" / "logs").mkdir(parents=True)
    (home / "var" / "airflow" / "logs" / "x").write_text("not needed")
    (home / "secrets").mkdir(mode=0o700)
    (home / "secrets" / "s3").write_text("hidden\n")
    (home / "secrets" / "s3").chmod(0o600)
    (home / "etc").mkdir()
    (home / "etc" / "settings.json").write_text('{"rtlake_port_offset": 5}')
    return Stack(home, Path("/p"), "supervisord", 5, ("kafka", "s3proxy"), {}, {})


@pytest.fixture
def taken(tmp_path: Path) -> tuple[Stack, Path]:
    stack = made(tmp_path / "home")
    calls: list[str] = []
    folder = backup.back_up(
        stack, tmp_path / "backups", lambda _: None, lambda: calls.append("pause"), lambda: calls.append("resume")
    )
    assert calls == ["pause", "resume"]
    return stack, folder


def gone(stack: Stack) -> Path:
    stack.home.rename(stack.home.with_name("lost"))
    return stack.home


def test_what_was_there_comes_back(taken: tuple[Stack, Path]) -> None:
    stack, folder = taken
    home = gone(stack)
    manifest = backup.prepare(folder, home)
    assert manifest.settings == {"rtlake_port_offset": 5}
    backup.unpack(folder, manifest, home, lambda _: None)
    for part in ("var/kafka/data/log", "var/kafka/data/index", "var/s3proxy/object", "secrets/s3"):
        assert (home / part).read_bytes() == (home.with_name("lost") / part).read_bytes(), part
    assert (home / "secrets" / "s3").stat().st_mode & 0o777 == 0o600
    assert not (home / "var" / "airflow" / "logs" / "x").exists()


def test_holes_take_no_room(taken: tuple[Stack, Path]) -> None:
    assert (taken[1] / "kafka.tar").stat().st_size < 100_000


def test_nobody_else_reads_a_backup(taken: tuple[Stack, Path]) -> None:
    folder = taken[1]
    assert folder.stat().st_mode & 0o077 == 0
    assert all(p.stat().st_mode & 0o077 == 0 for p in (*folder.glob("*.tar"), folder / backup.MANIFEST))


def test_every_file_that_was_damaged_is_named(taken: tuple[Stack, Path]) -> None:
    stack, folder = taken
    content = bytearray((folder / "kafka.tar").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "kafka.tar").write_bytes(content)
    (folder / "s3proxy.tar").unlink()
    home = gone(stack)
    with pytest.raises(backup.BackupRefused, match=r"kafka.tar differs.*s3proxy.tar is missing"):
        backup.prepare(folder, home)
    assert not home.exists(), "nothing was touched"


def test_a_shortened_file_is_refused(taken: tuple[Stack, Path]) -> None:
    os.truncate(taken[1] / "kafka.tar", 100)
    with pytest.raises(backup.BackupRefused, match="has 100 bytes"):
        backup.verify(taken[1])


def test_a_changed_manifest_is_refused(taken: tuple[Stack, Path]) -> None:
    path = taken[1] / backup.MANIFEST
    path.write_text(path.read_text().replace('"rtlake_port_offset": 5', '"rtlake_port_offset": 6'))
    with pytest.raises(backup.BackupRefused, match="was changed"):
        backup.verify(taken[1])


def test_an_unfinished_backup_is_none(taken: tuple[Stack, Path]) -> None:
    (taken[1] / backup.MANIFEST).unlink()
    with pytest.raises(backup.BackupRefused, match="no complete backup"):
        backup.verify(taken[1])


@pytest.mark.parametrize("where", ["pause", "say", "resume"])
def test_nothing_is_left_of_a_failed_backup_and_everything_runs_again(tmp_path: Path, where: str) -> None:
    stack = made(tmp_path / "home")
    calls: list[str] = []

    def part(name: str) -> None:
        calls.append(name)
        if name == where:
            raise SystemExit(143)

    with pytest.raises(SystemExit):
        backup.back_up(stack, tmp_path / "b", lambda _: part("say"), lambda: part("pause"), lambda: part("resume"))
    assert calls[-1] == "resume"
    assert list((tmp_path / "b").iterdir()) == []


def test_the_unit_starts_what_a_killed_backup_left_stopped(tmp_path: Path) -> None:
    roles = Path(__file__).parents[2] / "ansible" / "roles"
    unit = yaml.safe_load((roles / "upkeep" / "vars" / "main.yml").read_text())["upkeep_backup"]
    systemctl = tmp_path / "systemctl"
    systemctl.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/told\n')
    systemctl.chmod(0o755)
    words = shlex.split(unit["afterwards"].replace("$$", "$"))
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "RUNTIME_DIRECTORY": str(tmp_path)}
    subprocess.run(words, env=environment, check=True)
    assert not (tmp_path / "told").exists(), "it had started everything itself"
    (tmp_path / "paused").write_text("rtlake-kafka.service\nrtlake-s3.service\n")
    subprocess.run(words, env=environment, check=True)
    assert (tmp_path / "told").read_text() == "start --no-block rtlake-kafka.service rtlake-s3.service\n"


class Keeper(supervise.Supervisor):
    """Services that are switched by their names."""

    def __init__(self, running: set[str]) -> None:
        self.running = running

    def pid(self, name: str) -> int | None:
        return 1 if name in self.running else None

    def start(self, names: Sequence[str]) -> None:
        self.running |= set(names)

    def stop(self, names: Sequence[str]) -> None:
        self.running -= set(names)

    def refresh(self) -> None: ...


def test_only_what_ran_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    services = {name: Service(name, name, 1, "", Path("log")) for name in ("postgresql", "kafka", "trino")}
    stack = dataclasses.replace(made(tmp_path / "home"), services=services)
    keeper = Keeper({"postgresql", "kafka"})
    monkeypatch.setattr(supervise, "supervisor_of", lambda *_: keeper)
    monkeypatch.setattr(verbs, "stop_services", lambda _, names: keeper.stop(names))
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    pause = command.Pause(stack)
    pause.begin()
    assert keeper.running == {"postgresql"}
    assert (tmp_path / "paused").read_text() == "rtlake-kafka.service\n"
    pause.end()
    assert keeper.running == {"postgresql", "kafka"} and not (tmp_path / "paused").exists()


def test_without_postgresql_nothing_is_paused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    services = {"postgresql": Service("postgresql", "postgresql", 1, "", Path("log"))}
    stack = dataclasses.replace(made(tmp_path / "home"), services=services)
    monkeypatch.setattr(backup, "_server", lambda _: postgres.Server("127.0.0.1", 1, "x"))
    with pytest.raises(UserError, match="PostgreSQL must run"):
        backup.back_up(stack, tmp_path / "b", print, lambda: pytest.fail("paused"), lambda: None)
    assert not (tmp_path / "b").exists()


def test_what_a_killed_backup_left_goes_with_the_next_but_one_of_today(tmp_path: Path) -> None:
    stack = made(tmp_path / "home")
    old, young, other = (tmp_path / "b" / n for n in ("rtlake-20260101T000000Z", "rtlake-20260102T000000Z", "rtlake-x"))
    for path in (old, young, other):
        path.mkdir(parents=True)
    for path in (old, other):
        os.utime(path, (1, 1))
    made_now = backup.back_up(stack, tmp_path / "b", lambda _: None, lambda: None, lambda: None)
    assert sorted((tmp_path / "b").iterdir()) == sorted([young, other, made_now])


def test_data_is_never_overwritten(taken: tuple[Stack, Path]) -> None:
    stack, folder = taken
    with pytest.raises(backup.BackupRefused, match=r"holds data already.*kafka"):
        backup.prepare(folder, stack.home)


def test_an_interrupted_restore_is_not_started_and_can_be_repeated(taken: tuple[Stack, Path]) -> None:
    stack, folder = taken
    home = gone(stack)
    backup.prepare(folder, home)
    (home / "var" / "postgresql").mkdir()
    (home / "var" / "postgresql" / ".superuser").write_text("as the installation writes it")
    (home / "var" / "kafka").mkdir()
    (home / "var" / "kafka" / "half").write_text("of an archive")
    with pytest.raises(UserError, match=r"interrupted.*rtlake restore"):
        verbs.bring_up(home, {}, "supervisord")
    manifest = backup.prepare(folder, home)
    assert not (home / "var" / "kafka").exists() and not (home / "var" / "postgresql").exists()
    backup.unpack(folder, manifest, home, lambda _: None)
    backup.check_restored(home)
    with pytest.raises(backup.BackupRefused, match="holds data already"):
        backup.prepare(folder, home)


def test_another_home_is_refused(taken: tuple[Stack, Path], tmp_path: Path) -> None:
    with pytest.raises(backup.BackupRefused, match="was made of"):
        backup.prepare(taken[1], tmp_path / "elsewhere")


def test_another_format_is_refused(taken: tuple[Stack, Path]) -> None:
    folder = taken[1]
    manifest = backup.read_manifest(folder)
    backup._write_manifest(folder, dataclasses.replace(manifest))
    data = json.loads((folder / backup.MANIFEST).read_text())
    text = json.dumps({**data, "format": 2})
    (folder / backup.MANIFEST).write_text(text)
    import hashlib

    (folder / f"{backup.MANIFEST}.sha256").write_text(hashlib.sha256(text.encode()).hexdigest())
    with pytest.raises(backup.BackupRefused, match="another version"):
        backup.read_manifest(folder)


def test_inside_the_home_is_no_place_for_backups(tmp_path: Path) -> None:
    stack = made(tmp_path / "home")
    with pytest.raises(UserError, match="inside"):
        backup.back_up(stack, stack.home / "backups", lambda _: None, lambda: None, lambda: None)


def test_a_folder_without_a_name_is_not_the_current_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    stack = made(tmp_path / "home")
    monkeypatch.setattr(Stack, "load", lambda: stack)
    answer = CliRunner().invoke(command.app, [""])
    assert isinstance(answer.exception, UserError) and "name is empty" in str(answer.exception)
    assert [p.name for p in tmp_path.iterdir()] == ["home"]
    answer = CliRunner().invoke(command.app, ["b"], catch_exceptions=False)
    assert answer.exit_code == 0 and len(list((tmp_path / "b").iterdir())) == 1


def test_old_backups_go_oldest_first(tmp_path: Path) -> None:
    for day in ("01", "02", "03"):
        folder = tmp_path / f"rtlake-202601{day}T000000Z"
        folder.mkdir()
        (folder / backup.MANIFEST).write_text("{}")
    assert [p.name[11:15] for p in backup.older(tmp_path, 2)] == ["0101"]
    assert backup.older(tmp_path, 0) == []
    backup.discard(backup.older(tmp_path, 2)[0])
    assert len(list(tmp_path.iterdir())) == 2
