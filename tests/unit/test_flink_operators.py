"""The Flink operators start nothing twice, find their job again, and pass everything on to the triggerer."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, TaskDeferred
from airflow.sdk import Connection

from airflow_provider_rtlake.exceptions import WaitTimeout
from airflow_provider_rtlake.flink_sql.settings import LaneSettings
from airflow_provider_rtlake.hooks.flink import FlinkHook
from airflow_provider_rtlake.lanes.lanes import LaneRunner
from airflow_provider_rtlake.links.flink import FlinkJobLink
from airflow_provider_rtlake.operators.flink import (
    FlinkApplyLanesOperator,
    FlinkRunSqlOperator,
    FlinkStopJobOperator,
    FlinkTriggerSavepointOperator,
)
from airflow_provider_rtlake.operators.pinot import NOT_AS_DECLARED
from airflow_provider_rtlake.sensors.flink import FlinkCheckpointSensor, FlinkJobSensor
from airflow_provider_rtlake.streams.load import load_connectors
from airflow_provider_rtlake.streams.schema import Column, TableSchema
from airflow_provider_rtlake.triggers.flink import FlinkCheckpointTrigger, FlinkJobTrigger
from tests.unit.flink_server import State, flink_server

SQL = "CREATE TABLE a (b INT); INSERT INTO a SELECT 1"
TRACE = "java.lang.RuntimeException: outer\n\tat a.b\nCaused by: java.io.IOException: disk full\n\tat c.d"


class Instance(SimpleNamespace):
    """The part of Airflow's task instance that an operator sees."""

    def xcom_pull(self, *, task_ids: str, key: str) -> Any:
        """What the task before has pushed."""
        return self.told.get((task_ids, key))

    def xcom_push(self, key: str, value: Any) -> None:
        """Keep it."""
        self.pushed[key] = value


@pytest.fixture
def context() -> Any:
    return {"ti": Instance(dag_id="d", run_id="r", task_id="t", map_index=-1, try_number=1, pushed={}, told={})}


@pytest.fixture
def flink(monkeypatch: pytest.MonkeyPatch) -> Iterator[State]:
    with flink_server() as (server, state):
        url = urlsplit(server)
        extra = f'{{"gateway_url": "{server}", "web_url": "http://flink.example/"}}'
        connection = Connection(
            conn_id="rtlake_flink", conn_type="flink", host=url.hostname, port=url.port, schema="http", extra=extra
        )
        monkeypatch.setattr(FlinkHook, "get_connection", lambda *_: connection)
        yield state


def run_sql(**kwargs: Any) -> FlinkRunSqlOperator:
    return FlinkRunSqlOperator(task_id="t", sql=SQL, job_name="j", wait_seconds=5, **kwargs)


def test_a_second_try_finds_the_job_of_the_first(flink: State, context: Any) -> None:
    first = run_sql(wait_for="running").execute(context)
    second = run_sql(wait_for="running").execute(context)
    assert (first["changed"], second["changed"]) == (True, False)
    assert first["job_id"] == second["job_id"]
    assert context["ti"].pushed[FlinkJobLink.key].startswith("http://flink.example/#/job/running/")


def test_a_finished_job_is_not_run_again(flink: State, context: Any) -> None:
    job_id = run_sql(wait_for="submitted").execute(context)["job_id"]
    flink.jobs[job_id]["state"] = "FINISHED"
    again = run_sql().execute(context)
    assert again == {"job_id": job_id, "state": "FINISHED", "changed": False}


def test_a_cancelled_job_is_started_anew(flink: State, context: Any) -> None:
    job_id = run_sql(wait_for="submitted").execute(context)["job_id"]
    flink.jobs[job_id]["state"] = "CANCELED"
    assert run_sql(wait_for="running").execute(context)["job_id"] != job_id


def test_another_run_and_another_statement_are_another_job(flink: State, context: Any) -> None:
    ids = {run_sql(wait_for="running").execute(context)["job_id"]}
    context["ti"].run_id = "r2"
    ids.add(run_sql(wait_for="running").execute(context)["job_id"])
    ids.add(run_sql(wait_for="running", properties={"x": "y"}).execute(context)["job_id"])
    ids.add(run_sql(wait_for="running", durable=False).execute(context)["job_id"])
    assert len(ids) == len(flink.jobs) == 4


def test_a_failed_job_fails_the_task_with_its_root_cause(flink: State, context: Any) -> None:
    flink.fail_new = TRACE
    with pytest.raises(AirflowFailException, match="disk full") as caught:
        run_sql().execute(context)
    assert "\tat " not in str(caught.value)


def test_a_killed_task_cancels_what_it_started(flink: State, context: Any) -> None:
    operator = FlinkRunSqlOperator(task_id="t", sql=SQL, job_name="j", wait_seconds=0.2)
    with pytest.raises(WaitTimeout):
        operator.execute(context)
    operator.on_kill()
    assert [job["state"] for job in flink.jobs.values()] == ["CANCELED"]


def test_a_kill_during_the_submission_leaves_no_job(
    flink: State, context: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator = FlinkRunSqlOperator(task_id="t", sql=SQL, job_name="j")
    submit = operator.start

    def start(job_id: str) -> str:
        operator.on_kill()  # as Airflow's signal handler calls it, in the middle of anything
        return submit(job_id)

    monkeypatch.setattr(operator, "start", start)
    with pytest.raises(AirflowFailException, match="killed"):
        operator.execute(context)
    assert [job["state"] for job in flink.jobs.values()] == ["CANCELED"]


def test_nothing_is_cancelled_where_that_is_not_wanted(flink: State, context: Any) -> None:
    operator = FlinkRunSqlOperator(task_id="t", sql=SQL, job_name="j", wait_seconds=0.2, cancel_on_kill=False)
    with pytest.raises(WaitTimeout):
        operator.execute(context)
    operator.on_kill()
    assert [job["state"] for job in flink.jobs.values()] == ["RUNNING"]


def test_a_deferred_task_goes_on_in_the_triggerer(flink: State, context: Any) -> None:
    operator = run_sql(deferrable=True, request_timeout=7.0, poll_interval=0.01)
    with pytest.raises(TaskDeferred) as caught:
        operator.execute(context)
    trigger = caught.value.trigger
    assert isinstance(trigger, FlinkJobTrigger)
    path, arguments = trigger.serialize()
    assert path.endswith("FlinkJobTrigger")
    assert FlinkJobTrigger(**arguments).serialize() == trigger.serialize()
    assert (arguments["timeout"], arguments["flink_conn_id"]) == (7.0, "rtlake_flink")
    flink.jobs[arguments["job_id"]]["state"] = "FINISHED"
    event = next(iter(asyncio.run(_events(trigger))))
    assert operator.execute_complete(context, event)["state"] == "FINISHED"


async def _events(trigger: Any) -> list[dict[str, Any]]:
    return [event.payload async for event in trigger.run()]


def test_the_triggerer_sends_one_event_for_a_failed_job(flink: State, context: Any) -> None:
    job_id = flink.add_job("j", "FAILED")
    flink.jobs[job_id]["trace"] = TRACE
    trigger = FlinkJobTrigger(
        job_id=job_id,
        states=["FINISHED"],
        flink_conn_id="rtlake_flink",
        timeout=5,
        poll_interval=0.01,
        deadline=None,
        cancel_on_kill=True,
    )
    events = asyncio.run(_events(trigger))
    assert [event["status"] for event in events] == ["failed"]
    assert events[0]["trace"] == TRACE
    with pytest.raises(AirflowFailException, match="disk full"):
        run_sql().execute_complete(context, events[0])


def test_a_killed_deferred_task_cancels_its_job(flink: State) -> None:
    job_id = flink.add_job("j")
    arguments = {"flink_conn_id": "rtlake_flink", "timeout": 5, "poll_interval": 1, "deadline": None}
    asyncio.run(FlinkJobTrigger(job_id=job_id, states=["FINISHED"], cancel_on_kill=True, **arguments).on_kill())
    assert flink.jobs[job_id]["state"] == "CANCELED"


def test_a_streaming_job_is_kept_and_replaced(flink: State, context: Any) -> None:
    first = run_sql(streaming=True).execute(context)
    assert first["action"] == "start"
    assert run_sql(streaming=True).execute(context)["action"] == "keep"
    changed = run_sql(streaming=True, properties={"x": "y"}).execute(context)
    assert changed["action"] == "replace"
    assert changed["started_from"] == f"s3://sp/{first['job_id']}"
    fresh = run_sql(streaming=True, properties={"x": "z"}, resume="none").execute(context)
    assert flink.jobs[fresh["job_id"]]["restore"] is None


REFUSED = (
    "org.apache.flink.runtime.client.JobInitializationException: Could not start the JobMaster.\n\tat a.b\n"
    "Caused by: java.lang.IllegalStateException: Cannot map checkpoint/savepoint state for operator 7 to the new "
    "program, because the operator is not available in the new program.\n\tat c.d"
)


def test_a_refused_state_is_kept_and_the_choices_are_named(flink: State, context: Any) -> None:
    former = run_sql(streaming=True).execute(context)["job_id"]
    flink.refuse_state = REFUSED
    with pytest.raises(AirflowFailException, match="Cannot map checkpoint/savepoint state") as caught:
        run_sql(streaming=True, properties={"x": "y"}).execute(context)
    told = str(caught.value)
    path = f"s3://sp/{former}"
    assert f"is kept: {path}" in told and f"resume={path!r}" in told
    assert "allow_non_restored_state=True" in told and "resume='none'" in told and "'group-offsets'" in told
    assert "\tat " not in told
    flink.refuse_state = None
    again = run_sql(streaming=True).execute(context)  # the former statements, put back
    assert (again["action"], again["started_from"]) == ("start", path)


@pytest.mark.parametrize(
    ("choice", "taken"), [({"allow_non_restored_state": "True"}, True), ({"resume": "none"}, False)]
)
def test_each_choice_lets_the_changed_statements_run(
    flink: State, context: Any, choice: dict[str, str], taken: bool
) -> None:
    former = run_sql(streaming=True).execute(context)["job_id"]
    flink.refuse_state = REFUSED
    with pytest.raises(AirflowFailException):
        run_sql(streaming=True, properties={"x": "y"}).execute(context)
    done = run_sql(streaming=True, properties={"x": "y"}, **choice).execute(context)
    assert flink.jobs[done["job_id"]]["state"] == "RUNNING"
    assert flink.jobs[done["job_id"]]["restore"] == (f"s3://sp/{former}" if taken else None)
    kept = run_sql(streaming=True, properties={"x": "y"}).execute(context)
    assert kept["action"] == "keep", "the choice is no part of what the job is"


def test_a_job_without_a_state_to_lose_fails_as_it_is(flink: State, context: Any) -> None:
    flink.fail_new = TRACE
    with pytest.raises(AirflowFailException, match="disk full") as caught:
        run_sql(streaming=True).execute(context)
    assert "is kept" not in str(caught.value)


def test_a_job_is_stopped_once(flink: State, context: Any) -> None:
    job_id = flink.add_job("j")
    stop = FlinkStopJobOperator(task_id="s", job_name="j")
    assert stop.execute(context) == {"changed": True, "savepoints": {job_id: f"s3://sp/{job_id}"}}
    assert stop.execute(context) == {"changed": False, "savepoints": {}}


def test_a_savepoint_of_nothing_is_an_error(flink: State, context: Any) -> None:
    with pytest.raises(AirflowFailException, match="no job named 'j' runs"):
        FlinkTriggerSavepointOperator(task_id="s", job_name="j").execute(context)


def test_the_sensors_look_at_the_newest_job_of_a_name(flink: State, context: Any) -> None:
    flink.add_job("j", "FAILED")
    job_id = flink.add_job("j")
    flink.jobs[job_id]["checkpoint"] = {"id": 3, "trigger_timestamp": 500}
    assert FlinkJobSensor(task_id="s", job_name="j").poke(context).xcom_value == "RUNNING"
    assert FlinkCheckpointSensor(task_id="s", job_name="j").poke(context).xcom_value == 3
    assert not FlinkCheckpointSensor(task_id="s", job_name="j", after_ms=500).poke(context).is_done


def test_a_deferred_sensor_passes_everything_on(flink: State, context: Any) -> None:
    job_id = flink.add_job("j")
    sensor = FlinkCheckpointSensor(
        task_id="s", job_id=job_id, number=9, after_ms=7, request_timeout=3.0, poke_interval=2, deferrable=True
    )
    with pytest.raises(TaskDeferred) as caught:
        sensor.execute(context)
    trigger = caught.value.trigger
    assert isinstance(trigger, FlinkCheckpointTrigger)
    arguments = trigger.serialize()[1]
    assert (arguments["number"], arguments["after_ms"], arguments["timeout"]) == (9, 7, 3.0)
    assert arguments["poll_interval"] == 2
    assert FlinkCheckpointTrigger(**arguments).serialize() == trigger.serialize()


def test_the_connection_is_tested_with_a_real_request(flink: State) -> None:
    flink.free_slots = -1  # the stand-in then has no overview
    ok, message = FlinkHook().test_connection()
    assert not ok
    assert "/overview" in message


DECLARED = """
connector: shop
topic_prefix: shop
tables:
  public.a: {}
  public.b: {realtime: {history_table: changes}}
  public.c: {realtime: false}
"""


@pytest.fixture
def apply_lanes(flink: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FlinkApplyLanesOperator:
    """The deployment's task for the real-time lanes, after one for the Pinot tables."""
    (tmp_path / "connectors").mkdir()
    (tmp_path / "connectors" / "shop.yaml").write_text(DECLARED)
    folder = str(tmp_path / "connectors")
    columns = (Column("id", "bigint", nullable=False),)
    captured = [
        (stream, TableSchema("public", stream.table_name, columns, ("id",), "full"))
        for connector in load_connectors(folder)
        for stream in connector.streams
    ]
    settings = LaneSettings(bootstrap="b:1", nessie_uri="http://n", s3_endpoint="http://s")
    monkeypatch.setattr("airflow_provider_rtlake.operators.flink.captured_of", lambda *_: captured)
    monkeypatch.setattr(FlinkHook, "lane_settings", lambda *_, **__: settings)
    monkeypatch.setattr(
        FlinkHook, "lane_runner", lambda hook, settings, **_: LaneRunner(hook.client, settings, SimpleNamespace())
    )
    monkeypatch.setattr(LaneRunner, "make_topics", lambda *_: [])
    return FlinkApplyLanesOperator(
        task_id="l", folder=folder, lane="realtime", pinot_task_id="pinot_tables", wait_seconds=5
    )


def names(state: State) -> set[str]:
    return {job["name"] for job in state.jobs.values()}


def test_only_the_lane_of_a_pinot_table_that_is_not_as_declared_waits(
    flink: State, context: Any, apply_lanes: FlinkApplyLanesOperator
) -> None:
    context["ti"].told["pinot_tables", NOT_AS_DECLARED] = ["changes", "a_table_of_somebody_else"]
    with pytest.raises(AirflowFailException, match=r"a_table_of_somebody_else, changes .*then: public\.b; all others"):
        apply_lanes.execute(context)
    assert names(flink) == {"realtime.shop.public.a"}
    context["ti"].told["pinot_tables", NOT_AS_DECLARED] = []
    assert apply_lanes.execute(context)["changed"]
    assert names(flink) == {"realtime.shop.public.a", "realtime.shop.public.b"}


def test_no_lane_is_touched_where_the_pinot_task_did_not_end(
    flink: State, context: Any, apply_lanes: FlinkApplyLanesOperator
) -> None:
    with pytest.raises(AirflowFailException, match="task pinot_tables did not come to its end"):
        apply_lanes.execute(context)
    assert not flink.jobs
