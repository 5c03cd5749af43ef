"""Deciding and applying: against a server with state that loses answers, refuses savepoints and fails jobs."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from airflow_provider_rtlake.clients.flink import FlinkClient, Job, JobState, root_cause
from airflow_provider_rtlake.exceptions import JobFailed, JobNotFound, ServiceUnavailable, StatementFailed
from airflow_provider_rtlake.flink_sql.job import RenderedJob, StartPoint
from airflow_provider_rtlake.flink_sql.script import script_job
from airflow_provider_rtlake.flink_sql.settings import LaneSettings
from airflow_provider_rtlake.lanes.bronze import OffsetGap, bronze_start, next_offsets
from airflow_provider_rtlake.lanes.dead_letters import chosen, fold
from airflow_provider_rtlake.lanes.decide import SeenJob, decide
from airflow_provider_rtlake.lanes.jobs import (
    Applied,
    NoFreeSlot,
    Restore,
    apply_job,
    latest_restore,
    stop_job,
    take_savepoint,
    wait_for_slot,
)
from airflow_provider_rtlake.lanes.removed import removals, truncates_of
from tests.unit.flink_server import State, flink_server

JOB = script_job("lane", "CREATE TABLE a (b INT); INSERT INTO a SELECT 1", {})
CHANGED = script_job("lane", "CREATE TABLE a (b INT); INSERT INTO a SELECT 2", {})
TRACE = (
    "org.apache.flink.Outer: no\n\tat x.y(Z.java:1)\nCaused by: java.io.IOException: disk full\n\tat q.r\n\t... 3 more"
)


@pytest.fixture
def server() -> Iterator[tuple[FlinkClient, State]]:
    with flink_server() as (url, state), FlinkClient(url, url, attempts=3, timeout=5) as client:
        yield client, state


def apply(client: FlinkClient, job: RenderedJob = JOB, **kwargs: object) -> Applied:
    return apply_job(client, job, lambda savepoint: Restore(savepoint=savepoint), timeout=10, **kwargs)  # type: ignore[arg-type]


def seen(state: str, fingerprint: str | None, start: int = 1) -> SeenJob:
    return SeenJob(Job(f"{start:032x}", "lane", JobState(state), start_ms=start), fingerprint)


@pytest.mark.parametrize(
    ("jobs", "action", "stop", "wait_for"),
    [
        ([], "start", 0, 0),
        ([seen("RUNNING", "f")], "keep", 0, 0),
        ([seen("RESTARTING", "f")], "keep", 0, 0),
        ([seen("CREATED", "f")], "keep", 0, 0),
        ([seen("RUNNING", "g")], "replace", 1, 0),
        ([seen("RUNNING", None)], "replace", 1, 0),
        ([seen("FAILED", None)], "start", 0, 0),
        ([seen("CANCELLING", "f")], "start", 0, 1),
        ([seen("FAILING", "f")], "start", 0, 1),
        ([seen("RUNNING", "f", 1), seen("RUNNING", "f", 2)], "keep", 1, 0),
        ([seen("RUNNING", "g", 1), seen("RUNNING", "f", 2), seen("FINISHED", None, 3)], "keep", 1, 0),
        ([seen("RUNNING", "g", 1), seen("RUNNING", "h", 2)], "replace", 2, 0),
    ],
)
def test_the_decision(jobs: list[SeenJob], action: str, stop: int, wait_for: int) -> None:
    decision = decide("f", jobs)
    assert (decision.action, len(decision.stop), len(decision.wait_for)) == (action, stop, wait_for)
    assert decision.changes is (action != "keep" or stop > 0)


def test_a_job_is_started_once_and_then_left_alone(server: tuple[FlinkClient, State]) -> None:
    client, state = server
    first, second = apply(client), apply(client)
    assert (first.action, second.action, second.changed) == ("start", "keep", False)
    assert first.job_id == second.job_id
    assert len(state.jobs) == 1


def test_a_changed_job_is_stopped_with_a_savepoint_and_resumed(server: tuple[FlinkClient, State]) -> None:
    client, state = server
    old = apply(client).job_id
    new = apply(client, CHANGED)
    assert new.action == "replace"
    assert state.jobs[str(old)]["state"] == "FINISHED"
    assert state.jobs[str(new.job_id)]["restore"] == f"s3://sp/{old}"


def test_a_lost_answer_starts_no_second_job(server: tuple[FlinkClient, State]) -> None:
    client, state = server
    state.lose = 3  # all attempts of one read
    assert apply(client).job_id in state.jobs
    assert len(state.jobs) == 1


def test_a_dry_run_touches_nothing(server: tuple[FlinkClient, State]) -> None:
    client, state = server
    assert apply(client, dry_run=True).changed
    assert not state.jobs
    assert all(call.startswith("GET") for call in state.calls)


def test_a_job_that_cannot_take_a_savepoint_is_cancelled(server: tuple[FlinkClient, State]) -> None:
    client, state = server
    jid = state.add_job("lane")
    state.refuse_stop = TRACE
    assert stop_job(client, jid, timeout=5) is None
    assert state.jobs[jid]["state"] == "CANCELED"


def test_stopping_what_is_gone_is_no_error(server: tuple[FlinkClient, State]) -> None:
    client, state = server
    assert stop_job(client, "f" * 32, timeout=5) is None
    client.cancel("f" * 32)
    ended = state.add_job("lane", "FAILED")
    assert stop_job(client, ended, timeout=5) is None
    assert f"POST /jobs/{ended}/stop" not in state.calls


def test_a_job_that_fails_at_its_start_tells_the_root_cause(server: tuple[FlinkClient, State]) -> None:
    client, state = server
    state.fail_new = TRACE
    with pytest.raises(JobFailed, match="disk full") as caught:
        apply(client)
    assert "\tat " not in str(caught.value)
    assert "Outer" in caught.value.body


def test_after_a_failed_start_the_next_one_gets_a_new_id(server: tuple[FlinkClient, State]) -> None:
    client, state = server
    state.fail_new = TRACE
    with pytest.raises(JobFailed):
        apply(client)
    state.fail_new = None
    assert apply(client).action == "start"
    assert sorted(job["state"] for job in state.jobs.values()) == ["FAILED", "RUNNING"]


def test_a_refused_statement_tells_its_root_cause(server: tuple[FlinkClient, State]) -> None:
    client, state = server
    broken = script_job("lane", "INSERT INTO a SELECT BROKEN", {})
    with pytest.raises(StatementFailed, match="Column 'zzz' not found") as caught:
        apply(client, broken)
    assert len(str(caught.value).splitlines()) <= 3
    assert not state.jobs


def test_a_query_whose_task_manager_dies_is_asked_again(server: tuple[FlinkClient, State]) -> None:
    client, state = server
    settings = LaneSettings(bootstrap="b:1", nessie_uri="http://n", s3_endpoint="http://s")
    state.rows = {"SHOW DATABASES": [["bronze"]], "SHOW TABLES": [["orders"]], "SELECT MAX": [[9, None]]}
    state.lose_task_manager = 2
    assert next_offsets(client, settings, "bronze.orders", [0, 1], timeout=30) == {0: 10}
    state.lose_task_manager = 1000
    with pytest.raises(ServiceUnavailable, match="no longer reachable"):
        next_offsets(client, settings, "bronze.orders", [0, 1], timeout=0.5)


def test_an_unknown_job_is_not_found(server: tuple[FlinkClient, State]) -> None:
    client, _ = server
    with pytest.raises(JobNotFound):
        client.job("f" * 32)


def test_the_newest_ended_job_of_a_name_is_resumed(server: tuple[FlinkClient, State]) -> None:
    client, state = server
    for number in (1, 2):
        jid = state.add_job("lane", "CANCELED")
        state.jobs[jid]["checkpoint"] = {"id": number, "external_path": f"s3://c/{number}"}
    state.add_job("other", "CANCELED")
    assert latest_restore(client, "lane") == "s3://c/2"
    assert latest_restore(client, "none") is None


def test_a_stopped_job_is_resumed_from_its_savepoint(server: tuple[FlinkClient, State]) -> None:
    """It is newer than the last checkpoint, which is gone with the job, and Flink lists it apart."""
    client, state = server
    jid = str(apply(client).job_id)
    state.jobs[jid]["checkpoint"] = {"id": 8, "external_path": "s3://c/8", "discarded": True}
    stop_job(client, jid, timeout=5)
    assert latest_restore(client, "lane") == f"s3://sp/{jid}"
    state.jobs[jid]["savepoint"]["discarded"] = True
    assert latest_restore(client, "lane") is None


def test_a_savepoint_asked_for_twice_is_one(server: tuple[FlinkClient, State]) -> None:
    client, state = server
    jid = state.add_job("lane")
    assert take_savepoint(client, jid, "a" * 32, timeout=5) == f"s3://sp/{jid}"
    assert f"POST /jobs/{jid}/savepoints" not in state.calls  # the server knew the request already


@pytest.mark.parametrize(
    ("trace", "cause"),
    [
        (TRACE, "java.io.IOException: disk full"),
        ("java.lang.RuntimeException: a\nsecond line\n\tat x", "java.lang.RuntimeException: a\nsecond line"),
        ("plain text", "plain text"),
        ("", ""),
    ],
)
def test_the_root_cause(trace: str, cause: str) -> None:
    assert root_cause(trace) == cause


def test_bronze_goes_on_behind_what_its_table_holds() -> None:
    start = bronze_start("t", {0: 5}, {0: (0, 9), 1: (0, 4)})
    assert start == StartPoint("offsets", {0: 5, 1: 0})
    assert bronze_start("t", {}, {0: (3, 9)}).mode == "earliest"


def test_messages_that_expired_unread_are_not_passed_over() -> None:
    with pytest.raises(OffsetGap, match="begins at 7, but bronze needs it from 5"):
        bronze_start("t", {0: 5}, {0: (7, 9)})
    assert bronze_start("t", {0: 5}, {0: (7, 9)}, accept_gap=True).offsets == {0: 5}


def test_a_topic_made_anew_is_noticed() -> None:
    with pytest.raises(OffsetGap, match="deleted and made again"):
        bronze_start("t", {0: 50}, {0: (0, 9)}, accept_gap=True)


def message(position: str, deleted: bool = False) -> dict[str, object]:
    return {"id": 1, "position": position, "is_deleted": deleted, "last_updated_ts": 1, "event_id": "e"}


def test_a_truncate_removes_what_lived_before_it() -> None:
    truncates = truncates_of(
        [
            {"op": "u", "position": "7", "event_timestamp": 70, "record_id": "u7:"},
            {"op": "t", "position": "8", "event_timestamp": 80, "record_id": "t8:"},
            {"op": "t", "position": "5", "event_timestamp": 50, "record_id": "t5:"},
        ]
    )
    current = [
        (b"gone", message("3")),
        (b"gone", message("2")),
        (b"between", message("6")),
        (b"alive", message("9")),
        (b"dead", message("4", deleted=True)),
    ]
    deletes = dict(removals(truncates, current))
    assert {key: value["position"] for key, value in deletes.items()} == {b"gone": "5", b"between": "8"}
    assert all(value["is_deleted"] for value in deletes.values())
    assert deletes[b"gone"]["event_id"] == "t5:gone"
    assert not list(removals(truncates, [*current, *deletes.items()]))  # a second run adds nothing
    assert not list(removals([], current))


def test_a_job_without_a_slot_says_so(server: tuple[FlinkClient, State]) -> None:
    client, state = server
    state.free_slots = 0
    with pytest.raises(NoFreeSlot, match="none of 4 task slots is free for job it, which needs one; raise flink_slots"):
        wait_for_slot(client, "it", timeout=0)


def letter(origin: str, reason: str = "not JSON") -> tuple[bytes, bytes, dict[str, str]]:
    topic, partition, offset = origin.split(":")
    value = {"topic": topic, "partition": int(partition), "offset": int(offset), "reason": reason, "value": "x"}
    return origin.encode(), json.dumps(value).encode(), {}


def outcome(origin: str, status: str) -> tuple[bytes, bytes, dict[str, str]]:
    return origin.encode(), json.dumps({"status": status, "note": "n"}).encode(), {}


def test_dead_letters_are_counted_once_and_stay_resolved() -> None:
    found = fold([letter("t:0:1"), letter("t:0:2"), outcome("t:0:1", "dismissed"), letter("t:0:1"), letter("t:0:2")])
    assert {entry.origin: entry.status for entry in found} == {"t:0:1": "dismissed", "t:0:2": "open"}


def test_letters_are_chosen_by_origin() -> None:
    letters = fold([letter("t:0:1"), letter("t:0:2")])
    assert [entry.origin for entry in chosen(letters, ["t:0:2"])] == ["t:0:2"]
    assert len(chosen(letters, ["all"])) == 2
    with pytest.raises(Exception, match="no open dead letter t:0:9"):
        chosen(letters, ["t:0:9"])
