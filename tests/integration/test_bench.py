"""Benchmark pipelines end to end: every row accounted for, silver and answers equal to the reference."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_rtlake.bench.manifest import problems
from airflow_provider_rtlake.bench.record import Record, load_all
from tests.declared import unproven

PROJECT = Path(__file__).resolve().parents[2]
LEAST_TESTS = 94

pytestmark = pytest.mark.integration


@unproven  # its stages up to dbt were seen, the whole was not run yet
def test_p00_needs_nothing_installed(tmp_path: Path) -> None:
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "RTLAKE_HOME": str(tmp_path / "home"),
        "PYTHONPATH": str(PROJECT),
    }
    command = [sys.executable, "-m", "airflow_provider_rtlake.cli", "bench", "run", "p00", "--events", "2000", "--json"]
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["ok"] and told["silver_equal"] and told["start"] == "no services"
    assert told["dbt_tests"] >= LEAST_TESTS and told["dbt_failed"] == 0
    results = tmp_path / "home" / "var" / "bench"
    [(path, record)] = load_all([results])
    assert {hop.name for hop in record.hops} == {"Parquet → bronze", "bronze → silver"}
    manifest = json.loads((results / "dbt" / "target-p00" / "manifest.json").read_text())
    assert problems(manifest) == []
    command = [sys.executable, "-m", "airflow_provider_rtlake.cli", "report"]
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert path.name in (results / "report.md").read_text()


def run(rtlake: Callable[..., str], tmp_path: Path, pipeline: str, *more: str) -> tuple[dict[str, Any], Record]:
    results = str(tmp_path / "results")
    out = rtlake("bench", "run", pipeline, "--events", "2000", "--synthetic", "--results", results, "--json", *more)
    [(_, record)] = load_all([tmp_path / "results"])
    return json.loads(out.splitlines()[-1]), record


@unproven  # its stages up to dbt were seen, the whole was not run yet
def test_p01_carries_every_event_to_the_lake(rtlake: Callable[..., str], tmp_path: Path) -> None:
    told, record = run(rtlake, tmp_path, "p01")
    assert told["ok"] and record.silver_checksum == record.reference_checksum
    assert [hop.name for hop in record.hops] == ["Parquet → Kafka", "Kafka → bronze", "bronze → silver"]
    assert record.processes["flink-taskmanager"].needed and record.processes["flink-taskmanager"].peak_mb > 100
