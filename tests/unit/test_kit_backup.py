"""Backups: what is in them comes back, and what was damaged is refused. PostgreSQL itself: tests/system_node."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from airflow_provider_rtlake.commands import backup as command
from airflow_provider_rtlake.exceptions import UserError
from airflow_provider_rtlake.kit import backup, verbs
from airflow_provider_rtlake.kit.stack import Stack


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
        stack, tmp_path / "backups", lambda _: None, lambda _: calls.append("pause"), lambda _: calls.append("resume")
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
        backup.back_up(stack, tmp_path / "b", lambda _: part("say"), lambda _: part("pause"), lambda _: part("resume"))
    assert calls[-1] == "resume"
    assert list((tmp_path / "b").iterdir()) == []


def test_the_unit_starts_what_a_killed_backup_left_stopped(tmp_path: Path) -> None:
    roles = Path(__file__).parents[2] / "ansible" / "roles"
    unit = yaml.safe_load((roles / "upkeep" / "vars" / "main.yml").read_text())["upkeep_backup"]
    systemctl = tmp_path / "systemctl"
    systemctl.write_text(
        f"""#!/bin/sh
        case $1 in
          list-unit-files) printf 'rtlake-kafka.service enabled enabled\\nrtlake-s3.service enabled enabled\\n';;
          *) echo "$@" >>{tmp_path}/told;;
        esac
        """
    )
    systemctl.chmod(0o755)
    subprocess.run(shlex.split(unit["afterwards"]), env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=True)
    assert (tmp_path / "told").read_text() == "start --no-block rtlake-kafka.service rtlake-s3.service\n"


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
        backup.back_up(stack, stack.home / "backups", lambda _: None, lambda _: None, lambda _: None)


def test_a_folder_without_a_name_is_not_the_current_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    stack = made(tmp_path / "home")
    monkeypatch.setattr(Stack, "load", lambda: stack)
    monkeypatch.setattr(command, "_pause", lambda _: None)
    monkeypatch.setattr(command, "_resume", lambda _: None)
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
