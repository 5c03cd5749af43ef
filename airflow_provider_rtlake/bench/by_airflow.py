"""A run that Airflow's scheduler drives: triggered, watched, and what the orchestration cost added to its record."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from dateutil.parser import isoparse

from airflow_provider_rtlake.bench import drive, machine, record
from airflow_provider_rtlake.bench.catalog import Pipeline
from airflow_provider_rtlake.bench.services import make_ready, needed_stack
from airflow_provider_rtlake.demo.airflow import Airflow
from airflow_provider_rtlake.demo.taxi import DIRECTORY_VARIABLE
from airflow_provider_rtlake.exceptions import CheckFailed, NotFound

_LIMIT = 1800.0  # seconds for the whole run


def run(pipeline: Pipeline, wish: drive.Wish, results: Path, told: Callable[[str], None]) -> record.Record:
    """Trigger the pipeline's DAG and wait for its record.

    :param results: folder of records; the scheduler's own run keeps its folder, the record is copied here.
    :param told: told what happens.
    :raises NotFound: the DAG ended and left no record.
    """
    stack = needed_stack()
    make_ready(pipeline.needs, exclusive=wish.exclusive, told=told)
    given = stack.connection("rtlake_airflow")
    airflow = Airflow(given.url, str(given.login), str(stack.password("rtlake_airflow")))
    source = wish.source or os.environ.get(DIRECTORY_VARIABLE, "")
    conf = {
        "events": wish.events,
        "source": str(Path(source).resolve()) if source else "",
        "synthetic": wish.synthetic,
        "mode": drive.chosen_mode(pipeline, wish.mode),
        "exclusive": wish.exclusive,
    }
    try:
        airflow.wait_for_dag(pipeline.dag_id)
        airflow.unpause(pipeline.dag_id)
        before = machine.settled(told, wish.settle)
        name = airflow.trigger(pipeline.dag_id, conf)
        failure: CheckFailed | None = None
        try:
            airflow.wait({pipeline.dag_id: name}, limit=_LIMIT, watch=lambda _, now: told(now))
        except CheckFailed as error:  # its record says so too
            failure = error
        timed = airflow.dag_run(pipeline.dag_id, name)
        # The tasks that show dbt's nodes have no process.
        tasks = sum("." not in one["task_id"] for one in airflow.tasks(pipeline.dag_id, name))
    finally:
        airflow.close()
    path, found = _record(stack.home / "var" / "bench", f"{pipeline.dag_id}/{name}", failure)
    found.machine = machine.judged(found.machine, cpu_before=before)
    wall = _seconds(timed.get("queued_at") or timed["start_date"], timed["end_date"])
    stages = sum(stage.seconds for stage in found.stages)
    found.measures["dag_seconds"] = round(wall, 3)
    found.measures["stages_seconds"] = round(stages, 3)
    found.measures["dag_tasks"] = tasks
    if stages:
        found.measures["dag_by_stages"] = round(wall / stages, 3)
        found.measures["dag_seconds_a_task"] = round((wall - stages) / tasks, 3)
    path.write_text(found.model_dump_json(indent=1) + "\n")
    if path.parent != results:
        shutil.copy(path, results / path.name)
    return found


def _record(folder: Path, name: str, failure: CheckFailed | None) -> tuple[Path, record.Record]:
    for path, one in reversed(list(record.load_all([folder]))):
        if one.orchestrator_run == name:
            return path, one
    raise NotFound("Airflow", f"run {name} left no record in {folder}" + (f": {failure}" if failure else ""))


def _seconds(first: str, last: str) -> float:
    return float((isoparse(last) - isoparse(first)).total_seconds())
