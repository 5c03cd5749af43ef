"""What only Ansible itself can show: a few tasks of the roles, run on nothing but temporary folders."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

PROJECT = Path(__file__).parents[2]
ANSIBLE = PROJECT / "ansible"
SYSTEM = "/etc/systemd/system"


def play(folder: Path, playbook: Path, *options: str, **variables: Any) -> subprocess.CompletedProcess[str]:
    """Run a playbook on this machine with what the kit's playbooks have.

    :param folder: RTLAKE_HOME.
    :param variables: on top of ``group_vars``.
    """
    given = {"rtlake_home": str(folder), "ansible_python_interpreter": sys.executable, **variables}
    command = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", str(ANSIBLE / "inventories" / "local")]
    environment = {
        **os.environ,
        "ANSIBLE_CONFIG": str(ANSIBLE / "ansible.cfg"),
        "ANSIBLE_HOME": str(folder / "ansible"),
        "ANSIBLE_LIBRARY": str(ANSIBLE / "library"),
        "ANSIBLE_ACTION_PLUGINS": str(ANSIBLE / "action_plugins"),
        "ANSIBLE_FORCE_COLOR": "0",
    }
    return subprocess.run(
        [*command, *options, "-e", json.dumps(given), str(playbook)],
        env=environment,
        cwd=ANSIBLE,
        capture_output=True,
        text=True,
        check=False,
    )


def playbook_of(folder: Path, *tasks: dict[str, Any]) -> Path:
    """A playbook of some tasks, with the kit's ``group_vars``."""
    path = folder / "tasks.yml"
    loaded = [str(file) for file in sorted((ANSIBLE / "group_vars" / "all").glob("*.yml"))]
    path.write_text(
        json.dumps([{"hosts": "rtlake", "gather_facts": False, "vars_files": loaded, "tasks": list(tasks)}])
    )
    return path


@pytest.mark.parametrize(("role", "other"), [("s3proxy", "minio/data"), ("minio", "s3proxy/buckets")])
def test_a_lake_in_the_other_object_store_is_not_hidden(tmp_path: Path, role: str, other: str) -> None:
    lake = tmp_path / "var" / other / "lakehouse" / "warehouse"
    lake.mkdir(parents=True)
    done = play(tmp_path, playbook_of(tmp_path, {"include_role": {"name": role}}))
    assert done.returncode == 2
    assert f"{lake.parents[1]} holds the lake already" in " ".join(done.stdout.split())  # lines may be broken


@pytest.mark.parametrize(("broken", "told"), [("nothing", ""), ("status", "status found faults")])
def test_health_says_what_status_and_doctor_found_and_fails_then(tmp_path: Path, broken: str, told: str) -> None:
    entry = tmp_path / "rtlake"
    entry.write_text(f'#!/bin/sh\necho "$1 has spoken"\ntest "$1" != "{broken}"\n')
    entry.chmod(0o755)
    done = play(tmp_path, ANSIBLE / "health.yml", rtlake_project=str(tmp_path))
    assert done.returncode == (2 if told else 0)
    assert "status has spoken" in done.stdout and "doctor has spoken" in done.stdout and told in done.stdout


def test_names_that_a_user_may_choose_are_the_same_everywhere(tmp_path: Path) -> None:
    roles = ANSIBLE / "roles"
    read = [{"include_vars": str(roles / role / "vars" / "main.yml")} for role in ("common", "postgresql", "trino")]
    stack = {"src": str(roles / "common" / "templates" / "stack.json.j2"), "dest": str(tmp_path / "stack.json")}
    store = {"src": str(roles / "s3proxy" / "templates" / "s3proxy.properties.j2"), "dest": str(tmp_path / "s3")}
    shown = {
        "dest": str(tmp_path / "names.json"),
        "content": "{{ [postgresql_databases[0].name, trino_builtin_catalogs] | to_json }}",
    }
    tasks = [*read, {"template": stack}, {"template": store}, {"copy": shown}]
    given = {"rtlake_source_database": "shop", "rtlake_s3_access_key": "someone", "rtlake_secrets": {"s3": "secret"}}
    defaults = {"trino_postgresql_case_insensitive": True, "trino_postgresql_name_cache": "1s"}
    done = play(tmp_path, playbook_of(tmp_path, *tasks), **given, **defaults)
    assert done.returncode == 0, done.stdout
    connections = json.loads((tmp_path / "stack.json").read_text())["connections"]
    assert connections["rtlake_source"]["schema"] == "shop"
    assert connections["rtlake_s3"]["login"] == "someone"
    assert "s3proxy.identity=someone\n" in (tmp_path / "s3").read_text()
    database, catalogs = json.loads((tmp_path / "names.json").read_text())
    assert database == "shop"
    assert catalogs["postgresql"]["connection-url"] == "jdbc:postgresql://127.0.0.1:5432/shop"


@pytest.mark.parametrize(
    ("days", "folder", "without", "there"),
    [
        (30, "/srv/backups", [], {"tidy", "backup"}),
        (0, "", [], set()),
        (30, "", [], {"tidy"}),
        (30, "/srv/backups", ["airflow"], {"backup"}),
    ],
)
def test_a_timer_goes_with_what_it_is_for(
    tmp_path: Path, days: int, folder: str, without: list[str], there: set[str]
) -> None:
    role = ANSIBLE / "roles" / "upkeep"
    read = [{"include_vars": str(role / part / "main.yml")} for part in ("defaults", "vars")]
    shown = {"dest": str(tmp_path / "files.json"), "content": "{{ upkeep_files | to_json }}"}
    given = {
        "upkeep_tidy_days": days,
        "rtlake_backup_folder": folder,
        "rtlake_components": [c for c in ("postgresql", "airflow") if c not in without],
    }
    done = play(tmp_path, playbook_of(tmp_path, *read, {"copy": shown}), **given)
    assert done.returncode == 0, done.stdout
    states = {entry["path"]: entry.get("state", "file") for entry in json.loads((tmp_path / "files.json").read_text())}
    for name in ("tidy", "backup"):
        for path in (
            f"{tmp_path}/etc/upkeep/{name}.sh",
            *(f"{SYSTEM}/rtlake-{name}.{k}" for k in ("service", "timer")),
        ):
            assert states[path] == ("file" if name in there else "absent")


def test_the_backup_has_one_capability_and_one_folder(tmp_path: Path) -> None:
    role = ANSIBLE / "roles"
    read = {"include_vars": str(role / "upkeep" / "vars" / "main.yml")}
    template = {"src": str(role / "common" / "templates" / "upkeep.service.j2"), "dest": str(tmp_path / "unit")}
    tasks = [read, {"template": template, "vars": {"unit": "{{ upkeep_backup }}"}}]
    given = {"upkeep_backup_when": "daily", "rtlake_backup_folder": "/home/me/backups", "rtlake_cache": "/c"}
    done = play(tmp_path, playbook_of(tmp_path, *tasks), **given)
    assert done.returncode == 0, done.stdout
    said: dict[str, str] = {}
    for line in (tmp_path / "unit").read_text().splitlines():
        name, _, value = line.partition("=")
        said[name] = value  # the last one counts
    assert said["User"] == "root"
    assert said["CapabilityBoundingSet"] == "CAP_DAC_OVERRIDE"
    assert said["PrivateUsers"] == "false"  # systemd would not know it as root
    assert (said["ProtectSystem"], said["ReadWritePaths"]) == ("strict", "/home/me/backups")
    assert said["ProtectHome"] == "read-only"  # without it, the folder would not be there


@pytest.mark.parametrize("folder", ["backups", "/tmp/backups", "/var/tmp", "/opt/rtlake/backups"])  # noqa: S108
def test_backups_must_lie_where_they_last(tmp_path: Path, folder: str) -> None:
    role = ANSIBLE / "roles" / "upkeep"
    tasks = yaml.safe_load((role / "tasks" / "main.yml").read_text())
    read = [{"include_vars": str(role / part / "main.yml")} for part in ("defaults", "vars")]
    given = {"rtlake_backup_folder": folder, "rtlake_components": ["postgresql"]}
    done = play(tmp_path, playbook_of(tmp_path, *read, tasks[0]), rtlake_home="/opt/rtlake", **given)
    assert done.returncode != 0
    assert "must be a full path" in done.stdout


def test_files_tell_what_differs_but_no_secret(tmp_path: Path) -> None:
    word = "a-secret-word"
    (tmp_path / "secret").write_text("an-older-one\n")
    (tmp_path / "secret").chmod(0o600)
    (tmp_path / "public").write_bytes(b"port=1\n\xff\n")
    files = [
        {"path": str(tmp_path / "new"), "content": f"password={word}\n", "mode": "0640"},
        {"path": str(tmp_path / "secret"), "content": "nothing\n", "mode": "0644"},
        {"path": str(tmp_path / "public"), "content": "port=2\nhost=x\n", "mode": "0644"},
    ]
    task = {"rtlake_files": {"role": "common", "files": files}}
    told = play(tmp_path, playbook_of(tmp_path, task), "--check", "--diff", "-vvv")
    done = play(tmp_path, playbook_of(tmp_path, task), "--diff", "-vvv")
    for one in (told, done):
        assert one.returncode == 0, one.stdout
        assert not [secret for secret in (word, "an-older-one") if secret in one.stdout + one.stderr]
        assert all(f"+++ {entry['path']}\n" in one.stdout for entry in files)
        assert "-port=1\n" in one.stdout and "+port=2\n" in one.stdout
    assert [Path(entry["path"]).read_text() for entry in files] == [entry["content"] for entry in files]
    assert "changed=0" in play(tmp_path, playbook_of(tmp_path, task)).stdout


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    files = [{"path": str(tmp_path / "tasks.yml" / "x"), "content": "a-secret-word", "mode": "0600"}]
    done = play(tmp_path, playbook_of(tmp_path, {"rtlake_files": {"role": "common", "files": files}}), "-vvv")
    assert done.returncode == 2
    assert f"{files[0]['path']}: " in done.stdout and "a-secret-word" not in done.stdout + done.stderr
