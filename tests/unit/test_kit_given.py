"""What a run of ``ansible-playbook`` was given is written down, and a run that is given that is the same run."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_rtlake.commands import remove as removing
from airflow_provider_rtlake.kit import health, playbook, settings, verbs
from airflow_provider_rtlake.kit.stack import Stack

ANSIBLE = Path(__file__).parents[2] / "ansible"
GIVEN: dict[str, Any] = {
    "rtlake_components": [],
    "rtlake_disk_mb": 0,
    "rtlake_venv": sys.prefix,
    "rtlake_monitoring": "false",  # as '-e rtlake_monitoring=false' gives it
    "rtlake_port_offset": 7,
    "rtlake_object_store": "minio",
    "rtlake_ready_seconds": 240,  # the default
    "rtlake_secrets_given": {"s3": "given-0123456789-abc"},
    "grafana_enabled": "true",
    "kafka_ui_enabled": True,
    "superset_enabled": True,
    "superset_port": 9999,
    "postgresql_major": "16",
    "kafka_retention_hours": 168,  # the default, of a role
    "common_log_backups": 4,
    "trino_config": {"a": "{{ rtlake_buckets | join(',') }}"},
    "airflow_dags_folder": "{{ airflow_project }}/mine",  # of the role alone
    "alertmanager_config": {"templates": ["{% raw %}{{ $labels.x }}{% endraw %}"]},
}
KEPT: dict[str, Any] = {
    "supervisor": "supervisord",
    **{
        name: GIVEN[name]
        for name in GIVEN
        if name not in ("rtlake_ready_seconds", "rtlake_secrets_given", "kafka_retention_hours")
    },
    "trino_config": {"a": "lakehouse,streaming,flink"},
}

SERVICES = {  # beside the components, of which there are none; "false" is no monitoring
    "kafka-ui": ("kafka_ui", 8090),
    "grafana": ("grafana", 3007),
    "superset": ("superset", 9999),
}


@pytest.fixture
def home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="rtlake-given-") as folder:
        Path(folder).chmod(0o755)  # other accounts must come through, says preflight
        yield Path(folder)


def play(home: Path, given: dict[str, Any]) -> int:
    """What comes before all components; returns the number of changes."""
    (home / "given").write_text(json.dumps(given))
    environment = {**os.environ, "ANSIBLE_CONFIG": str(ANSIBLE / "ansible.cfg"), "ANSIBLE_HOME": f"{home}/ansible"}
    command = [f"{sys.prefix}/bin/ansible-playbook", "-i", playbook.inventory_for("supervisord"), "site.yml"]
    command += ["--tags", "nothing", "--skip-tags", "run", "-e", f"@{home}/given", "-e", f"rtlake_home={home}"]
    done = subprocess.run(command, cwd=ANSIBLE, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return int(re.findall(r"changed=(\d+)", done.stdout)[-1])


def test_what_was_given_is_kept_and_can_be_given_again(home: Path) -> None:
    assert play(home, GIVEN) > 0
    path = home / "etc" / "given.json"
    assert path.stat().st_mode & 0o777 == 0o600
    kept = settings.load(home)
    assert kept.pop("rtlake_home") == str(home)
    assert kept == {**KEPT, "alertmanager_config": kept["alertmanager_config"]}
    assert {n: (s.component, s.port) for n, s in Stack.load(home).services.items()} == SERVICES
    before = path.read_text()
    assert play(home, {n: v for n, v in kept.items() if n != "supervisor"}) == 0
    assert path.read_text() == before
    assert settings.load(home)["alertmanager_config"]["templates"] == ["{% raw %}{{ $labels.x }}{% endraw %}"]


def test_every_service_beside_the_components_is_asked() -> None:
    assert set(SERVICES) <= set(health.CHECKS)


def test_a_taken_port_of_superset_is_found_before_anything_is_changed(home: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        with pytest.raises(AssertionError, match=r"superset: superset\) is taken by"):
            play(home, {**GIVEN, "superset_enabled": True, "superset_port": listener.getsockname()[1]})
    assert not (home / "etc").exists()


def installed(home: Path) -> None:
    stack = {
        "home": str(home),
        "project": "/p",
        "supervisor": "systemd",
        "port_offset": 0,
        "components": ["kafka", "trino"],
    }
    (home / "etc").mkdir()
    (home / "etc" / "stack.json").write_text(json.dumps({**stack, "services": {}, "connections": {}}))
    (home / "etc" / "given.json").write_text('{"postgresql_major": "16", "supervisor": "systemd"}')


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """An installation by ``ansible-playbook``; the variables of each run of the playbook by a verb."""
    given: list[dict[str, Any]] = []
    installed(tmp_path)
    monkeypatch.setenv("RTLAKE_HOME", str(tmp_path))
    monkeypatch.setattr(playbook, "run", lambda _home, _project, variables, *_, **__: given.append(variables) or 0)
    monkeypatch.setattr(verbs.health, "wait_all", lambda *_, **__: {})
    return given


def test_verbs_go_on_with_what_the_playbook_was_given(tmp_path: Path, runs: list[dict[str, Any]]) -> None:
    verbs.bring_up(tmp_path, settings.load(tmp_path), "systemd", converge=True)
    assert runs == [{"postgresql_major": "16"}]
    assert not settings.remembered(tmp_path), "the next run of ansible-playbook may be given something else"


def test_a_removed_component_stays_away(
    tmp_path: Path, runs: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(removing.removing, "remove_components", lambda *_: [])
    removing.remove(["trino"])
    assert runs == [{"postgresql_major": "16", "rtlake_components": ["kafka"]}]
    assert not settings.remembered(tmp_path)


def test_what_was_switched_on_is_switched_off(
    tmp_path: Path, runs: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(removing.removing, "remove_components", lambda *_: [])
    removing.remove(["superset", "monitoring"])
    assert runs[0]["superset_enabled"] is runs[0]["rtlake_monitoring"] is False
    assert runs[0]["rtlake_components"] == ["kafka", "trino"]


def test_what_up_remembers_wins(tmp_path: Path, runs: list[dict[str, Any]]) -> None:
    verbs.bring_up(tmp_path, {"kafka_retention_hours": 1}, "systemd", converge=True, remember=True)
    assert settings.load(tmp_path) == {"kafka_retention_hours": 1, "supervisor": "systemd"}
    verbs.bring_up(tmp_path, {"kafka_retention_hours": 2}, "systemd", converge=True)
    assert settings.load(tmp_path)["kafka_retention_hours"] == 2
    assert len(runs) == 2
