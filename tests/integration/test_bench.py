"""Benchmark pipelines end to end: every row accounted for, silver and answers equal to the reference."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer, TopicPartition

from airflow_provider_rtlake.bench import drive, generator, stages
from airflow_provider_rtlake.bench import manifest as manifests
from airflow_provider_rtlake.bench.catalog import find
from airflow_provider_rtlake.bench.manifest import problems
from airflow_provider_rtlake.bench.record import TO_SILVER, Record, load_all
from airflow_provider_rtlake.bench.run import Account
from airflow_provider_rtlake.demo.access import Access
from airflow_provider_rtlake.kit.stack import Stack

PROJECT = Path(__file__).resolve().parents[2]
LEAST_TESTS = 94

pytestmark = pytest.mark.integration


def test_p00_needs_nothing_installed(tmp_path: Path) -> None:
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "RTLAKE_HOME": str(tmp_path / "home"),
        "PYTHONPATH": str(PROJECT),
    }
    command = [sys.executable, "-m", "airflow_provider_rtlake.cli", "bench", "run", "p00", "--events", "2000"]
    command += ["--settle", "0", "--json"]
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
    kept = (PROJECT / "dbt" / "taxi" / "manifest.json").read_text()
    assert kept == manifests.text(manifest), "the dbt project has changed: run 'rtlake bench manifest'"
    command = [sys.executable, "-m", "airflow_provider_rtlake.cli", "report"]
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert path.name in (results / "report.md").read_text()


def run(rtlake: Callable[..., str], tmp_path: Path, pipeline: str, *more: str) -> tuple[dict[str, Any], Record]:
    results = str(tmp_path / "results")
    options = ("--events", "2000", "--synthetic", "--settle", "0", "--results", results, "--json", *more)
    out = rtlake("bench", "run", pipeline, *options)
    [(_, record)] = load_all([tmp_path / "results"])
    return json.loads(out.splitlines()[-1]), record


def test_p01_carries_every_event_to_the_lake(rtlake: Callable[..., str], tmp_path: Path) -> None:
    told, record = run(rtlake, tmp_path, "p01")
    assert told["ok"] and record.silver_checksum == record.reference_checksum
    assert [hop.name for hop in record.hops] == ["Parquet → Kafka", "Kafka → bronze", "bronze → silver"]
    assert record.processes["flink-taskmanager"].needed and record.processes["flink-taskmanager"].peak_mb > 100
    measures = record.measures
    assert measures["checkpoints"] and measures["flink_records_sent"]
    # Made-up trips come in the order of their time; only one that is sent again can be behind the watermark.
    assert isinstance(late := measures["late_rows"], int) and 0 <= late <= record.source.repeated == 20
    # Each table is one file of one writer, and nothing is left of what replaced rows.
    assert measures["bronze_data_files_after"] == measures["silver_data_files_after"] == 1
    assert measures["silver_delete_files_after"] == 0


@pytest.mark.parametrize("pipeline", ["p02", "p12"])
def test_other_ways_to_the_lake_arrive_at_the_same(rtlake: Callable[..., str], tmp_path: Path, pipeline: str) -> None:
    told, record = run(rtlake, tmp_path, pipeline)
    assert told["ok"] and record.silver_checksum == record.reference_checksum
    assert record.hops[-1].name == TO_SILVER and record.hops[-1].rejected
    assert told["dbt_tests"] >= LEAST_TESTS and told["dbt_failed"] == 0


def test_p01_sends_what_is_no_message_to_the_dead_letters(
    stack: Stack, access: Access, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RTLAKE_HOME", str(stack.home))
    poison = {"poison-1": b"{not json", "poison-2": b"[1, 2]"}
    run = drive.begin(find("p01"), drive.Wish(events=500, synthetic=True, settle=0), tmp_path / "results", print)
    stages.execute(run, "prepare")
    producer = Producer({"bootstrap.servers": stack.kafka_bootstrap})
    for key, value in poison.items():
        producer.produce(generator.TOPIC, key=key, value=value)
    assert producer.flush(30) == 0
    stages.execute(run, "generate")
    stages.execute(run, "process")
    account = Account([], {}, [], {})
    stages.engine(run).count_hops(account)
    hops = {hop.name: hop for hop in account.hops}
    assert hops["Kafka → bronze"].rows_out == 500 + len(poison)  # bronze keeps everything as it came
    assert hops[TO_SILVER].rejected["not a JSON object"] == len(poison) and hops[TO_SILVER].adds_up
    [(partition, start)] = run.recall("dlq_start").items()
    consumer = access.consumer()
    consumer.assign([TopicPartition(generator.DEAD_LETTERS, int(partition), start)])
    found: dict[str, bytes | None] = {}
    while len(found) < len(poison):
        message = consumer.poll(30)
        assert message is not None and not message.error()
        assert message.headers() == [("reason", b"not a JSON object")]
        key = message.key()
        assert key is not None
        found[key.decode()] = message.value()
    consumer.close()
    assert found == poison
