"""A run's folder, its record, and honesty about failures. No server."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest

from airflow_provider_rtlake.bench import catalog, report, services, source, stages
from airflow_provider_rtlake.bench.record import Hop, Record, load_all
from airflow_provider_rtlake.bench.run import Run
from airflow_provider_rtlake.bench.sample import OWN, Sampler
from airflow_provider_rtlake.exceptions import CheckFailed, UserError


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> source.Events:
    return source.prepare(tmp_path_factory.mktemp("events"), events=200, synthetic=True)


@pytest.fixture(autouse=True)
def no_stack(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RTLAKE_HOME", str(tmp_path / "nothing"))


def begin(folder: Path, events: source.Events) -> Run:
    run = Run.begin(folder, catalog.find("p00"), mode="batch")
    run.keep_events(events)
    return run


def finish(run: Run, *, leave_out: str = "") -> None:
    for name in run.pipeline.stages:
        if name != leave_out:
            with run.stage(name) as account:
                if name == "process":
                    account.hops.append(Hop(name="a", rows_in=3, rows_out=2, rejected={"bad": 1}))


def record(run: Run) -> Record:
    return run.record(lambda: {"rtlake": "0"})


def test_a_good_run_has_a_record_that_can_be_read_back(tmp_path: Path, events: source.Events) -> None:
    run = begin(tmp_path, events)
    finish(run)
    made = record(run)
    assert made.status == "success" and made.start == "no services"
    assert [stage.name for stage in made.stages] == list(run.pipeline.stages)
    assert made.processes[OWN].peak_mb > 10
    assert [found for _, found in load_all([tmp_path])] == [made]


def test_a_failed_stage_fails_the_run_with_its_reason(tmp_path: Path, events: source.Events) -> None:
    run = begin(tmp_path, events)
    with pytest.raises(CheckFailed), run.stage("prepare"):
        raise CheckFailed("rows are missing")
    made = record(run)
    assert (made.status, made.reason) == ("failed", "stage prepare: rows are missing")
    assert (tmp_path / str(made.stages[0].log)).read_text().startswith("Traceback")


def test_a_stage_that_left_no_account_fails_the_run(tmp_path: Path, events: source.Events) -> None:
    run = begin(tmp_path, events)
    finish(run, leave_out="process")
    assert "stage process left no account" in str(record(run).reason)


def test_rows_that_do_not_add_up_fail_the_run(tmp_path: Path, events: source.Events) -> None:
    run = begin(tmp_path, events)
    finish(run, leave_out="process")
    with run.stage("process") as account:
        account.hops.append(Hop(name="Kafka → bronze", rows_in=3, rows_out=1, rejected={"bad": 1}))
    assert record(run).reason == "hop Kafka → bronze: 3 in, 1 out, 1 rejected"


def test_a_service_that_was_restarted_voids_the_stage(
    tmp_path: Path, events: source.Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    pids = iter([os.getpid(), os.getppid()])
    monkeypatch.setattr(services, "roots", lambda: {"kafka": next(pids)})
    monkeypatch.setattr(services, "names", lambda _: ["kafka"])
    run = begin(tmp_path, events)
    with pytest.raises(CheckFailed, match="kafka ended or was restarted"), run.stage("prepare"):
        pass
    assert "its figures are void" in str(record(run).reason)


def test_a_service_that_was_restarted_between_two_stages_voids_the_run(
    tmp_path: Path, events: source.Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    pids = iter([1, 1, 2, 2])  # at begin and end of the first stage, and of the second
    monkeypatch.setattr(services, "roots", lambda: {"kafka": next(pids)})
    monkeypatch.setattr(services, "names", lambda _: ["kafka"])
    run = begin(tmp_path, events)
    run.pipeline = dataclasses.replace(run.pipeline, stages=("prepare", "generate"))
    finish(run)
    assert record(run).reason == "kafka ended or was restarted before stage generate: the figures are void"


def test_what_cannot_be_taken_away_does_not_hide_why_the_run_failed(
    tmp_path: Path, events: source.Events, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: object) -> None:
        raise ConnectionError("nobody answers")

    monkeypatch.setattr("airflow_provider_rtlake.bench.engines.duck.Duck.clean", fail)
    run = begin(tmp_path, events)
    with pytest.raises(CheckFailed), run.stage("prepare"):
        raise CheckFailed("rows are missing")
    assert stages.finish(run).reason == "stage prepare: rows are missing"
    assert "could be taken away" in caplog.text


def test_the_sampler_sees_memory_and_cpu_of_a_child() -> None:
    program = "x = bytearray(80_000_000)\nprint(flush=True)\nwhile True: pass"
    child = psutil.Popen(["python3", "-c", program], stdout=subprocess.PIPE)
    assert child.stdout and child.stdout.readline()  # it has the memory now
    roots: Mapping[str, int | None] = {"busy": child.pid, "absent": None}
    try:
        with Sampler(lambda: roots) as sampler:
            time.sleep(1.0)
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
    busy = sampler.result.usage["busy"]
    assert busy.peak_mb > 75 and 0.05 < busy.cpu_seconds < 1.5 and busy.samples >= 3
    assert "absent" not in sampler.result.usage and sampler.result.died == []


def test_pipelines_are_chosen_by_id_tier_and_cross_cut() -> None:
    assert [one.id for one in catalog.select(["0", "p00_parquet_duckdb"])] == ["p00"]
    assert [one.id for one in catalog.select(["core"])] == ["p00", "p01", "p02"]
    assert "p16" in [one.id for one in catalog.select(["olap_engines"])]
    assert [one.id for one in catalog.PIPELINES] == [f"p{number:02}" for number in range(24)]
    with pytest.raises(UserError, match=r"p03 .* cannot be run: no server package known"):
        catalog.select(["p03"])
    with pytest.raises(UserError, match="no pipeline 'p99'"):
        catalog.select(["p99"])


def test_a_winner_is_not_named_inside_the_spread(tmp_path: Path, events: source.Events) -> None:
    run = begin(tmp_path, events)
    finish(run)
    plain = record(run)

    def row(pipeline: str, seconds: list[float]) -> report.Row:
        made = []
        for number, one in enumerate(seconds):
            stages = [stage.model_copy(update={"end": stage.start}) for stage in plain.stages]
            stages = [
                stages[0].model_copy(update={"start": 0.0, "end": 0.0}),
                stages[1].model_copy(update={"start": 0.0, "end": one}),
            ]
            made.append((tmp_path / f"{number}.json", plain.model_copy(update={"stages": stages})))
        return report.Row(catalog.find(pipeline), "batch", "warm", "real", 200, tuple(made))

    assert report.winner([row("p00", [1, 2, 3]), row("p01", [2.5, 4, 5])], "end_to_end").startswith("tie within")
    assert report.winner([row("p00", [1, 2, 3]), row("p01", [4, 5, 6])], "end_to_end").startswith("p00")
    assert "no winner" in report.winner([row("p00", [1]), row("p01", [4])], "end_to_end")


def test_the_report_tells_what_was_not_run_and_links_records(tmp_path: Path, events: source.Events) -> None:
    run = begin(tmp_path, events)
    finish(run)
    record(run)
    found = list(load_all([tmp_path]))
    text = report.markdown(found, tmp_path / "report.md")
    assert f"](record-{run.run_id}.json)" in text
    assert "| p03 | Kafka → RisingWave → dbt | no server package known |" in text
    html = report.page(found, tmp_path / "report.html")
    assert "Plotly.newPlot" in html and f'href="record-{run.run_id}.json"' in html
    assert "<script src=" not in html  # it needs no network
