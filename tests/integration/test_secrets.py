"""Every secret of the stack is a canary: none is seen where somebody without rights could look."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from airflow_provider_rtlake.kit import bundle, supervise
from airflow_provider_rtlake.kit.airflow import database
from airflow_provider_rtlake.kit.stack import Stack

pytestmark = pytest.mark.integration
_BIGGEST = 50_000_000  # bytes of a file that is still searched


@pytest.fixture(scope="module")
def canaries(stack: Stack) -> list[str]:
    found = bundle.secrets_of(stack.home)
    assert len(found) >= 8
    assert all(len(one) >= 32 for one in found), "long enough to be no accident"
    return found


def hits(text: str, canaries: list[str]) -> bool:
    return any(one in text for one in canaries)


def processes(stack: Stack) -> Iterator[psutil.Process]:
    keeper = supervise.supervisor_of(stack.home, stack.supervisor)
    for name in stack.services:
        pid = keeper.pid(name)
        if pid:
            yield from [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]


def test_no_process_shows_one_in_its_arguments(stack: Stack, canaries: list[str]) -> None:
    seen = 0
    for process in processes(stack):
        try:
            arguments = " ".join(process.cmdline())
        except psutil.Error:
            continue
        seen += 1
        assert not hits(arguments, canaries), process.name()
    assert seen >= len(stack.services)


def readable_by_all(stack: Stack) -> Iterator[Path]:
    """Files that another account could read: itself open, and every folder above passable."""
    for folder in ("etc", "log", "run", "var"):
        for top, folders, files in os.walk(stack.home / folder):
            folders[:] = [f for f in folders if (Path(top) / f).stat().st_mode & 0o001]
            for name in files:
                path = Path(top) / name
                if path.is_file() and path.stat().st_mode & 0o004 and path.stat().st_size < _BIGGEST:
                    yield path


def test_no_file_that_others_may_read_holds_one(stack: Stack, canaries: list[str]) -> None:
    found = list(readable_by_all(stack))
    assert found
    assert [str(p) for p in found if hits(p.read_text(errors="replace"), canaries)] == []


def test_no_log_holds_one(stack: Stack, canaries: list[str]) -> None:
    logs = [p for p in (stack.home / "log").glob("*.log*") if p.stat().st_size < _BIGGEST]
    logs += [p for p in (stack.home / "var" / "airflow" / "logs").rglob("*.log") if p.stat().st_size < _BIGGEST]
    assert logs
    assert [str(p) for p in logs if hits(p.read_text(errors="replace"), canaries)] == []


def answers(stack: Stack) -> Iterator[tuple[str, str]]:
    """What the services tell whoever asks."""
    connect, flink = stack.service("connect").url, stack.service("flink-jobmanager").url
    paths = [
        f"{connect}/connectors?expand=info&expand=status",
        f"{connect}/admin/loggers",
        f"{flink}/jobmanager/config",
        f"{flink}/jobmanager/environment",
        f"{flink}/jobmanager/log",
        f"{flink}/jobmanager/stdout",
        f"{flink}/taskmanagers",
        f"{flink}/jobs/overview",
        f"{stack.service('nessie').url}/api/v2/config",
        f"{stack.service('nessie').url}/iceberg/v1/config",
        f"{stack.service('pinot').url}/cluster/configs",
        f"{stack.service('pinot').url}/instances",
        f"{stack.service('trino').url}/v1/info",
    ]
    for job in httpx.get(f"{flink}/jobs").raise_for_status().json()["jobs"]:
        paths += [f"{flink}/jobs/{job['id']}/config", f"{flink}/jobs/{job['id']}/plan"]
    for table in httpx.get(f"{stack.service('pinot').url}/tables").raise_for_status().json()["tables"]:
        paths.append(f"{stack.service('pinot').url}/tables/{table}")
    for path in paths:
        yield path, httpx.get(path, timeout=30, follow_redirects=True).text


def test_no_rest_answer_holds_one(stack: Stack, canaries: list[str]) -> None:
    found = dict(answers(stack))
    assert sum(bool(text) for text in found.values()) >= 10
    assert [path for path, text in found.items() if hits(text, canaries)] == []


def test_airflow_shows_none(stack: Stack, canaries: list[str]) -> None:
    """Connections by the API, and what tasks rendered."""
    url = stack.service("airflow-api-server").url
    login = {"username": "admin", "password": stack.secret("airflow_admin")}
    token = httpx.post(f"{url}/auth/token", json=login, timeout=30).raise_for_status().json()["access_token"]
    headers = {"Authorization": f"Bearer {token}"}
    shown = httpx.get(f"{url}/api/v2/connections?limit=100", headers=headers, timeout=30).raise_for_status()
    assert shown.json()["total_entries"] >= len(stack.connections)
    assert not hits(shown.text, canaries)
    with database(stack).connect() as connection:
        rendered = connection.execute("SELECT rendered_fields FROM rendered_task_instance_fields").fetchall()
        returned = connection.execute("SELECT value FROM xcom").fetchall()
    for row in [*rendered, *returned]:
        assert not hits(json.dumps(row[0], default=str), canaries)


def test_a_support_bundle_masks_them(stack: Stack, canaries: list[str], tmp_path: Path) -> None:
    import tarfile

    path = bundle.write(stack, stack.project, tmp_path)
    assert path.stat().st_mode & 0o077 == 0
    with tarfile.open(path) as archive:
        files = [(m.name, archive.extractfile(m)) for m in archive.getmembers()]
        texts = {name: file.read() for name, file in files if file}
    assert len(texts) > 20
    assert [name for name, text in texts.items() if hits(text.decode(errors="replace"), canaries)] == []
