"""What is installed, what was chosen, what the playbook would do again."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from airflow_provider_rtlake.exceptions import UserError, WaitTimeout
from airflow_provider_rtlake.kit import health, playbook, postgres, preflight, settings, supervise, verbs
from airflow_provider_rtlake.kit.stack import Stack
from airflow_provider_rtlake.streams.source_access import SourceAccess

CONNECTION = {
    "conn_type": "postgres",
    "host": "127.0.0.1",
    "port": 1,
    "login": "u",
    "schema": "d",
    "secret": "pw",
    "extra": {},
}
PROJECT = Path(__file__).parents[2]
SERVICE = {"component": "postgresql", "port": 1, "url": "postgresql://127.0.0.1:1", "log": "/nowhere/postgresql.log"}


def install(home: Path, **changes: Any) -> Path:
    data = {
        "home": str(home),
        "project": "/p",
        "supervisor": "supervisord",
        "port_offset": 0,
        "components": ["postgresql"],
        "services": {"postgresql": SERVICE},
        "connections": {"rtlake_source": CONNECTION},
        **changes,
    }
    (home / "etc").mkdir(parents=True, exist_ok=True)
    (home / "secrets").mkdir(exist_ok=True)
    (home / "etc" / "stack.json").write_text(json.dumps(data))
    return home


def test_stack_reads_connections_and_secrets(tmp_path: Path) -> None:
    install(tmp_path)
    (tmp_path / "secrets" / "pw").write_text("hidden\n")
    stack = Stack.load(tmp_path)
    assert stack.connection("rtlake_source").password == stack.password("rtlake_source") == "hidden"
    assert "hidden" not in repr(stack)
    assert stack.service("postgresql").port == 1


def test_stack_tells_how_a_source_is_reached(tmp_path: Path) -> None:
    connection = {**CONNECTION, "extra": {"dbname": "crm", "sslmode": "require"}}
    install(tmp_path, connections={"rtlake_source": connection, "open": {**CONNECTION, "login": None, "secret": None}})
    (tmp_path / "secrets" / "pw").write_text("hidden\n")
    stack = Stack.load(tmp_path)
    access = stack.source_access("rtlake_source")
    assert access == SourceAccess("127.0.0.1", 1, "crm", "u", "hidden", sslmode="require")
    assert "hidden" not in repr(access)
    assert stack.source_access("open") == SourceAccess("127.0.0.1", 1, "d", "", "")


def test_stack_errors_name_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RTLAKE_HOME", str(tmp_path))
    with pytest.raises(UserError, match="rtlake up"):
        Stack.load()
    install(tmp_path)
    stack = Stack.load()
    with pytest.raises(UserError, match=r"no service 'kafk'; there are: postgresql"):
        stack.service("kafk")
    with pytest.raises(UserError, match="rtlake_source"):
        stack.connection("x")
    with pytest.raises(UserError, match="secrets/pw is missing"):
        stack.password("rtlake_source")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"home": 1}'])
def test_damaged_stack_is_a_users_error(tmp_path: Path, text: str) -> None:
    install(tmp_path)
    (tmp_path / "etc" / "stack.json").write_text(text)
    with pytest.raises(UserError, match="damaged"):
        Stack.load(tmp_path)


def test_components_bring_what_they_need() -> None:
    known = ["postgresql", "s3proxy", "zookeeper", "kafka", "connect", "nessie", "pinot"]
    assert settings.choose(known, ["nessie"], []) == ["postgresql", "s3proxy", "nessie"]
    assert settings.choose(known, [], ["pinot", "zookeeper"]) == ["postgresql", "s3proxy", "kafka", "connect", "nessie"]
    with pytest.raises(UserError, match="kafka is left out"):
        settings.choose(known, ["connect"], ["kafka"])
    with pytest.raises(UserError, match="no component kafkas; there are: postgresql"):
        settings.choose(known, ["kafkas"], [])


def test_every_component_of_the_playbook_is_known() -> None:
    project = Path(__file__).parents[2]
    known = settings.all_components(project)
    assert set(settings.NEEDS) <= {*known, *settings.SWITCHES}
    assert {n for needs in settings.NEEDS.values() for n in needs} <= set(known)
    for component in known:
        assert (project / "ansible" / "roles" / component / "tasks" / "main.yml").exists(), component


def test_settings_are_remembered_and_damage_is_named(tmp_path: Path) -> None:
    assert settings.load(tmp_path) == {}
    settings.save(tmp_path, {"rtlake_port_offset": 5})
    assert settings.load(tmp_path) == {"rtlake_port_offset": 5}
    assert settings.settings_path(tmp_path).stat().st_mode & 0o777 == 0o600, "a variable may be a key"
    settings.settings_path(tmp_path).write_text("{")
    with pytest.raises(UserError, match=r"settings\.json"):
        settings.load(tmp_path)


def test_stamp_sees_files_variables_and_inventory(tmp_path: Path) -> None:
    (tmp_path / "ansible" / "roles").mkdir(parents=True)
    (tmp_path / "requirements").mkdir()
    (tmp_path / "requirements" / "lock.txt").write_text("a==1")
    template = tmp_path / "ansible" / "roles" / "x.j2"
    template.write_text("one")
    first = playbook.stamp(tmp_path, {}, "systemd")
    assert playbook.stamp(tmp_path, {}, "systemd") == first
    (tmp_path / "ansible" / "__pycache__").mkdir()
    (tmp_path / "ansible" / "__pycache__" / "x.pyc").write_text("noise")
    assert playbook.stamp(tmp_path, {}, "systemd") == first
    seen = {first, playbook.stamp(tmp_path, {"a": 1}, "systemd"), playbook.stamp(tmp_path, {}, "supervisord")}
    template.write_text("two")
    seen.add(playbook.stamp(tmp_path, {}, "systemd"))
    assert len(seen) == 4


def test_what_airflow_has_a_copy_of_is_brought_up_to_date(tmp_path: Path) -> None:
    (tmp_path / "requirements").mkdir()
    (tmp_path / "requirements" / "lock.txt").write_text("a==1")
    declared = tmp_path / "connectors" / "sales.yaml"
    made = tmp_path / "dbt" / "sales" / "target" / "manifest.json"
    for path in (declared, made):
        path.parent.mkdir(parents=True)
        path.write_text("one")
    copied, read_in_place = (playbook.stamp(tmp_path, {}, kind) for kind in ("systemd", "supervisord"))
    made.write_text("two")
    assert playbook.stamp(tmp_path, {}, "systemd") == copied
    declared.write_text("two")
    assert playbook.stamp(tmp_path, {}, "systemd") != copied
    assert playbook.stamp(tmp_path, {}, "supervisord") == read_in_place
    roles = PROJECT / "ansible" / "roles"
    for role in ("airflow", "exporters"):
        (task,) = [t for t in yaml.safe_load((roles / role / "tasks" / "main.yml").read_text()) if "rtlake_tree" in t]
        assert tuple(task["rtlake_tree"]["folders"]) == playbook.COPIED


def test_variables_are_given_in_a_file_that_only_the_owner_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def refused(*_: Any, **__: Any) -> None:
        seen.append((tmp_path / "run" / "variables.json").stat().st_mode & 0o777)
        raise KeyboardInterrupt

    monkeypatch.setattr(playbook.subprocess, "Popen", refused)
    monkeypatch.setattr(playbook, "stamp", lambda *_: "")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "variables.json").touch(mode=0o644)
    with pytest.raises(KeyboardInterrupt):
        playbook.run(tmp_path, tmp_path, {"a": 1}, "supervisord", lambda _: None)
    assert seen == [0o600]


def test_playbook_output_becomes_lines_and_one_failure() -> None:
    said: list[str] = []
    reader = playbook._Reader(said.append)
    for line in [
        "PLAY [Kafka] ****",
        "ok: [localhost]",
        "PLAY [Trino] ****",
        "PLAY [Pinot] ***",
        "changed: [localhost]",
        "TASK [x] ***",
        "[ERROR]: Task failed: port 9000 is taken",
        "Origin: here",
        "fatal: [localhost]: FAILED! =>",
        "    msg: port 9000 is taken",
        "PLAY RECAP ***",
        "localhost : ok=2 changed=1 unreachable=0 failed=1",
    ]:
        reader.read(line)
    assert [s.split(" (")[0] for s in said] == ["Kafka", "Pinot"], "a play that did nothing is not shown"
    assert reader.failure.count("port 9000 is taken") == 1
    assert reader.changed == 1


def test_an_interrupted_playbook_does_not_go_on_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bin" / "ansible-playbook"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\nprintf 'PLAY [Kafka] *\\nok: [localhost]\\nPLAY [Trino] *\\n'\nexec sleep 20\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "prefix", str(tmp_path))

    def interrupted(_: str) -> None:
        raise SystemExit(143)

    started = time.monotonic()
    with pytest.raises(SystemExit):
        playbook.run(tmp_path / "home", Path(__file__).parents[2], {}, "supervisord", interrupted)
    assert time.monotonic() - started < 10


def test_a_taken_port_names_its_process() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        problems = preflight.ports_taken({"kafka: kafka": port}, lambda _: False)
        assert len(problems) == 1
        assert f"port {port} (kafka: kafka)" in problems[0]
        assert str(os.getpid()) in problems[0]
        assert "--port-offset" in problems[0]
        assert preflight.ports_taken({"kafka": port}, lambda pid: pid == os.getpid()) == []
    assert preflight.ports_taken({"kafka": port}, lambda _: False) == []


class Keeper(supervise.Supervisord):
    """A supervisor whose services ran before, or do not run."""

    def __init__(self, home: Path, running: set[str]) -> None:
        super().__init__(home)
        self.running = running
        self.done: list[str] = []

    def pid(self, name: str) -> int | None:
        return 1 if name in self.running else None

    def ensure(self) -> bool:
        self.done.append("ensure")
        return True

    def start(self, names: Sequence[str]) -> None:
        self.done.append(f"start {' '.join(names)}")


@pytest.mark.parametrize("running", [set(), {"postgresql"}])
def test_a_taken_port_is_found_before_a_warm_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, running: set[str]
) -> None:
    keeper = Keeper(tmp_path, running)
    monkeypatch.setattr(playbook, "converged", lambda *_: True)
    monkeypatch.setattr(supervise, "supervisor_of", lambda *_: keeper)
    monkeypatch.setattr(health, "wait_all", lambda *_, **__: {})
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        install(tmp_path, services={"postgresql": {**SERVICE, "port": port}})
        if running:  # then the listener is the service itself, whatever else is known of its process
            verbs.bring_up(tmp_path, {}, "supervisord")
            assert keeper.done == ["ensure", "start "]
        else:
            with pytest.raises(UserError, match=rf"port {port} \(postgresql\) is taken by process {os.getpid()}"):
                verbs.bring_up(tmp_path, {}, "supervisord")
            assert keeper.done == []
    if not running:
        verbs.bring_up(tmp_path, {}, "supervisord")
        assert keeper.done == ["ensure", "start postgresql"]


def test_a_process_in_our_folders_is_ours(tmp_path: Path) -> None:
    assert not preflight.is_ours(os.getpid(), tmp_path / "home")
    assert not preflight.is_ours(2**22 + 1, tmp_path)


def test_too_little_memory_says_how_much(tmp_path: Path) -> None:
    wanted = preflight.Wanted(home=tmp_path, supervisor="supervisord", ports={}, memory_mb=10**9, disk_mb=10**12)
    _, problems = preflight.check(wanted)
    assert any("MB of memory" in p and "--only" in p for p in problems)
    assert any("MB free" in p and "RTLAKE_HOME" in p for p in problems)


def test_fingerprint_is_what_the_start_script_computes(tmp_path: Path) -> None:
    import subprocess

    files = [tmp_path / "a", tmp_path / "b"]
    files[0].write_text("one\n")
    files[1].write_bytes(b"\0two")
    script = "xargs -d '\\n' cat < \"$0\" | sha256sum | cut -d' ' -f1"
    reads = tmp_path / "reads"
    reads.write_text("".join(f"{f}\n" for f in files))
    shown = subprocess.run(
        ["bash", "-c", script, str(reads)], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert supervise.fingerprint(map(str, files)) == shown


def test_a_service_is_stale_when_a_file_changed(tmp_path: Path) -> None:
    etc, var = tmp_path / "etc" / "kafka", tmp_path / "var" / "kafka"
    etc.mkdir(parents=True)
    var.mkdir(parents=True)
    config = etc / "server.properties"
    config.write_text("a=1\n")
    (etc / "kafka.reads").write_text(f"{config}\n")
    assert supervise.is_stale(tmp_path, "kafka", "kafka"), "never started"
    (var / ".fingerprint-kafka").write_text(supervise.fingerprint([str(config)]) + "\n")
    assert not supervise.is_stale(tmp_path, "kafka", "kafka")
    config.write_text("a=2\n")
    assert supervise.is_stale(tmp_path, "kafka", "kafka")


def test_scram_verifier_is_postgresqls() -> None:
    stored = postgres.scram_verifier("pencil", salt=bytes(range(16)))
    assert stored.startswith("SCRAM-SHA-256$4096:AAECAwQFBgcICQoLDA0ODw==$")
    assert postgres.password_matches("pencil", stored)
    assert not postgres.password_matches("pencils", stored)
    assert not postgres.password_matches("pencil", None)
    assert not postgres.password_matches("pencil", "md5abc")
    assert "pencil" not in stored
    assert "pencil" not in repr(postgres.Server("h", 1, "pencil"))


def test_health_of_a_dead_service_is_an_answer_not_an_error(tmp_path: Path) -> None:
    install(tmp_path, services={"connect": {**SERVICE, "url": "http://127.0.0.1:9"}})
    answer = health.check(Stack.load(tmp_path), "connect")
    assert not answer.healthy
    assert "ConnectError" in answer.detail


def test_waiting_ends_with_the_log(tmp_path: Path) -> None:
    log = tmp_path / "connect.log"
    log.write_text("first\nthe reason\n")
    install(tmp_path, services={"connect": {**SERVICE, "url": "http://127.0.0.1:9", "log": str(log)}})
    with pytest.raises(WaitTimeout, match="the reason"):
        health.wait_all(Stack.load(tmp_path), seconds=0)


def test_memory_is_summed_over_the_tree() -> None:
    assert health.tree_rss(os.getpid()) > 5
    assert health.tree_rss(2**22 + 1) == 0


def test_a_closed_folder_above_is_named(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    (closed / "home").mkdir(parents=True)
    closed.chmod(0o700)
    problems = preflight._closed([closed / "home"])
    assert any(f"{closed} cannot be entered" in p for p in problems)
    closed.chmod(0o711)
    assert not any(f"{closed} " in p for p in preflight._closed([closed / "home"]))


def test_another_installation_beside_is_not_ours(tmp_path: Path) -> None:
    import subprocess

    command = [sys.executable, "-c", "print(flush=True); input()", str(tmp_path / "home-two" / "x")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()  # it runs: before, its command line may still be empty
        assert preflight.is_ours(process.pid, tmp_path / "home-two")
        assert not preflight.is_ours(process.pid, tmp_path / "home")
        process.communicate(b"\n")


def test_the_version_is_told_without_a_command() -> None:
    from typer.testing import CliRunner

    from airflow_provider_rtlake import __version__, cli

    answer = CliRunner().invoke(cli.app, ["--version"])
    assert (answer.exit_code, answer.stdout.strip()) == (0, __version__)


def test_what_a_playbook_installed_is_known_without_settings(tmp_path: Path) -> None:
    install(tmp_path, components=["postgresql"], port_offset=7, supervisor="systemd")
    expected = {
        "rtlake_components": ["postgresql"],
        "rtlake_port_offset": 7,
        "rtlake_monitoring": False,
        "supervisor": "systemd",
    }
    assert settings.load(tmp_path) == expected
    settings.save(tmp_path, {"rtlake_port_offset": 8})
    assert settings.load(tmp_path) == {"rtlake_port_offset": 8}


def test_a_unit_that_is_gone_is_not_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[tuple[str, ...]] = []
    monkeypatch.setattr(supervise, "UNITS", tmp_path)
    monkeypatch.setattr(supervise, "_systemctl", lambda *words: called.append(words) or "")
    (tmp_path / "rtlake-kafka.service").touch()
    supervise.Systemd().stop(["kafka", "nessie"])
    supervise.Systemd().stop(["nessie"])
    assert called == [("stop", "rtlake-kafka.service")]
