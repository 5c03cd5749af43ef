"""Apply and delete against a controller that has a state and can fail."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException
from typer.testing import CliRunner

from airflow_provider_rtlake.clients.pinot import PinotBroker, PinotController, _result
from airflow_provider_rtlake.clients.pinot_apply import PinotDeployment
from airflow_provider_rtlake.commands import pinot as commands
from airflow_provider_rtlake.exceptions import (
    NotFound,
    QueryFailed,
    RequestRefused,
    ServiceUnavailable,
    TableIncompatible,
    TerminalError,
    TransientError,
    UserError,
    WaitTimeout,
)
from airflow_provider_rtlake.operators.pinot import NOT_AS_DECLARED, PinotApplyTablesOperator
from airflow_provider_rtlake.pinot_config.load import load_text
from airflow_provider_rtlake.pinot_config.model import PinotTable
from airflow_provider_rtlake.pinot_config.render import Topic
from tests.unit.fake_pinot import FakeController

TEXT = (Path(__file__).parents[2] / "pinot_tables" / "sales_current_3.yaml").read_text()
NAME = "sales_current_3"


class Topics:
    """Kafka's topics in memory."""

    def __init__(self) -> None:
        self.held: dict[str, Topic] = {}

    def describe(self, name: str) -> Topic | None:
        return self.held.get(name)

    def ensure(self, topic: Topic) -> list[str]:
        self.held[topic.name] = topic
        return [f"topic {topic.name}"]

    def delete(self, name: str) -> bool:
        return self.held.pop(name, None) is not None


@pytest.fixture
def fake() -> Iterator[FakeController]:
    controller = FakeController()
    yield controller
    controller.close()


@pytest.fixture
def deployment(fake: FakeController) -> Iterator[PinotDeployment]:
    with PinotController.connect(fake.url, attempts=2, max_wait=0.01) as controller:
        yield PinotDeployment(controller, Topics(), bootstrap_servers="kafka:9092")


def test_apply_twice_changes_once(fake: FakeController, deployment: PinotDeployment) -> None:
    table = load_text(TEXT)
    first = deployment.apply(table, wait=5)
    assert first.changed and first.ingestion is not None and first.ingestion.healthy(3)
    assert deployment.topics.describe("pinot_sales_current").config == {"cleanup.policy": "compact"}
    fake.calls.clear()
    assert not deployment.apply(table, wait=5).changed
    assert all(call.startswith("GET") for call in fake.calls)


def test_plan_asks_only(fake: FakeController, deployment: PinotDeployment) -> None:
    assert deployment.plan(load_text(TEXT)).action == "create"
    assert all(call.startswith("GET") for call in fake.calls) and not deployment.topics.held


def test_lost_answer_of_create_is_no_error(fake: FakeController, deployment: PinotDeployment) -> None:
    fake.faults["POST /tables"] = ["lost"]
    assert deployment.apply(load_text(TEXT), wait=5).changed
    assert fake.calls.count("POST /tables") == 1


def test_refused_create_is_an_error_with_the_servers_words(fake: FakeController, deployment: PinotDeployment) -> None:
    fake.faults["POST /tables"] = [(500, {"code": 500, "error": "Failed to fetch partitions of topic"})]
    with pytest.raises(RequestRefused, match="Failed to fetch partitions of topic"):
        deployment.apply(load_text(TEXT), wait=5)


def test_invalid_table_touches_nothing(fake: FakeController, deployment: PinotDeployment) -> None:
    fake.faults["POST /tableConfigs/validate"] = [(400, {"code": 400, "error": "Invalid table config"})]
    with pytest.raises(RequestRefused, match="Invalid table config"):
        deployment.apply(load_text(TEXT), wait=5)
    assert not fake.schemas and not fake.tables and not deployment.topics.held


def test_ignored_settings_do_not_pass_unseen(fake: FakeController, deployment: PinotDeployment) -> None:
    fake.faults["POST /tables"] = [(200, {"unrecognizedProperties": {"/upsertConfig/x": 1}, "status": "added"})]
    with pytest.raises(RequestRefused, match="ignores /upsertConfig/x"):
        deployment.apply(load_text(TEXT), wait=5)


def test_partition_that_nobody_reads_times_out_with_the_reason(
    fake: FakeController, deployment: PinotDeployment
) -> None:
    fake.states["1"] = "gone"
    fake.errors.append("TimeoutException: no broker")
    with pytest.raises(WaitTimeout, match="TimeoutException: no broker"):
        deployment.apply(load_text(TEXT), wait=0.1)
    fake.errors.clear()
    with pytest.raises(WaitTimeout, match=r"__1__0__.*: ABSENT"):
        deployment.apply(load_text(TEXT), wait=0.1)


def test_paused_table_is_not_healthy(fake: FakeController, deployment: PinotDeployment) -> None:
    deployment.apply(load_text(TEXT), wait=5)
    deployment.controller.pause(NAME)
    found = deployment.controller.ingestion(NAME)
    assert not found.healthy(3) and found.reason() == "consumption is paused"


def test_new_column_reloads_and_renews_consuming_segments(fake: FakeController, deployment: PinotDeployment) -> None:
    deployment.apply(load_text(TEXT), wait=5)
    fake.calls.clear()
    wider = load_text(TEXT.replace("  price:", "  note: {type: STRING}\n  price:"))
    assert deployment.apply(wider, wait=5).changed
    done = [call for call in fake.calls if not call.startswith("GET")]
    assert done == [
        "POST /tableConfigs/validate",
        f"PUT /schemas/{NAME}",
        f"POST /segments/{NAME}_REALTIME/reload",
        f"POST /tables/{NAME}/pauseConsumption",
        f"POST /tables/{NAME}/resumeConsumption",
    ]
    assert not fake.paused


def test_consumption_resumes_even_if_the_segments_do_not_close(
    fake: FakeController, deployment: PinotDeployment
) -> None:
    deployment.apply(load_text(TEXT), wait=5)
    fake.faults[f"GET /tables/{NAME}/externalview"] = [(500, {"error": "view"})]
    wider = load_text(TEXT.replace("  price:", "  note: {type: STRING}\n  price:"))
    with pytest.raises(RequestRefused, match="view"):
        deployment.apply(wider, wait=5)
    assert not fake.paused


def test_incompatible_change_is_refused_and_offers_a_rebuild(fake: FakeController, deployment: PinotDeployment) -> None:
    deployment.apply(load_text(TEXT), wait=5)
    fake.calls.clear()
    other = load_text(TEXT.replace("quantity: {type: INT", "quantity: {type: LONG"))
    with pytest.raises(TableIncompatible, match=r"quantity: INT metric -> LONG metric(.|\n)*--rebuild"):
        deployment.apply(other, wait=5)
    assert all(call.startswith("GET") for call in fake.calls)
    fake.view_after_delete = 2
    applied = deployment.apply(other, rebuild=True, wait=5)
    assert applied.rebuilt and "rtlake stream backfill" in str(applied.hint)
    assert not deployment.apply(other, wait=5).changed


def three() -> list[PinotTable]:
    """One that only a rebuild can bring about, one for a newer server, and one that is right."""
    retyped = load_text(TEXT.replace("quantity: {type: INT", "quantity: {type: LONG"))
    newer = retyped.model_copy(update={"table": "newer", "database": "x"})
    return [retyped, newer, load_text(TEXT).model_copy(update={"table": "good"})]


def test_a_table_that_cannot_be_applied_keeps_no_other_from_it(
    fake: FakeController, deployment: PinotDeployment
) -> None:
    deployment.apply(load_text(TEXT), wait=5)
    outcome = deployment.apply_all(three(), wait=5)
    assert [applied.plan.rendered.name for applied in outcome.applied] == ["good"] and "good" in fake.tables
    with pytest.raises(TerminalError) as caught:
        outcome.raise_problems()
    told = str(caught.value)
    assert told.startswith("2 of 3 Pinot tables are not as declared:\n")
    assert f"rtlake pinot apply {NAME} --rebuild" in told and "newer: table newer: database 'x' needs Pinot 1.2" in told
    assert "good" not in told


def test_all_tables_are_looked_at_before_one_is_changed(fake: FakeController, deployment: PinotDeployment) -> None:
    fake.faults["GET /schemas/good"] = [(503, "starting")] * 2
    with pytest.raises(ServiceUnavailable):
        deployment.apply_all([load_text(TEXT), three()[2]], wait=5)
    assert all(call.startswith("GET") for call in fake.calls) and not deployment.topics.held


def test_a_problem_that_may_pass_is_left_to_a_retry(fake: FakeController, deployment: PinotDeployment) -> None:
    fake.states["1"] = "gone"
    outcome = deployment.apply_all(three(), wait=0.1)
    assert {NAME, "good", "newer"} == set(outcome.problems) and {NAME, "good"} == set(fake.tables)
    with pytest.raises(TransientError, match="__1__0__"):
        outcome.raise_problems()


def run_apply(deployment: PinotDeployment, monkeypatch: pytest.MonkeyPatch) -> tuple[PinotApplyTablesOperator, Any]:
    task = PinotApplyTablesOperator(task_id="t")
    monkeypatch.setattr(task, "declared", three)
    hook = SimpleNamespace(controller_url="http://pinot", close=lambda: None, unhealthy=lambda tables: {})
    vars(task).update(deployment=deployment, hook=hook)  # what the connection would give
    pushed: dict[str, Any] = {}
    return task, {"ti": SimpleNamespace(xcom_push=lambda key, value: pushed.update({key: value}), pushed=pushed)}


def test_the_operator_fails_at_its_end_and_tells_which_tables(
    fake: FakeController, deployment: PinotDeployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment.apply(load_text(TEXT), wait=5)
    task, context = run_apply(deployment, monkeypatch)
    with pytest.raises(AirflowFailException, match="2 of 3 Pinot tables"):
        task.execute(context)
    assert "good" in fake.tables and set(context["ti"].pushed[NOT_AS_DECLARED]) == {NAME, "newer"}
    task.rebuild = True
    with pytest.raises(AirflowFailException, match="1 of 3 Pinot tables"):
        task.execute(context)
    assert context["ti"].pushed[NOT_AS_DECLARED] == ["newer"]


def test_the_command_applies_what_it_can_and_then_fails(
    fake: FakeController, deployment: PinotDeployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment.apply(load_text(TEXT), wait=5)
    monkeypatch.setattr(commands.Stack, "load", lambda home: None)
    monkeypatch.setattr(commands, "_gather", lambda *_: tuple(three()))
    monkeypatch.setattr(commands, "_deployment", lambda *_, **__: deployment)
    done = CliRunner().invoke(commands.app, ["apply", "--json"])
    told = json.loads(done.stdout)
    assert done.exit_code == 1 and isinstance(done.exception, TerminalError)
    assert not told["ok"] and told["changed"] and set(told["problems"]) == {NAME, "newer"}
    assert [entry["table"] for entry in told["tables"]] == ["good"] and "good" in fake.tables


def test_delete_is_idempotent_and_keeps_the_topic(deployment: PinotDeployment) -> None:
    deployment.apply(load_text(TEXT), wait=5)
    assert deployment.delete(NAME, wait=5)
    assert not deployment.delete(NAME, wait=5)
    assert deployment.topics.describe("pinot_sales_current") is not None
    assert deployment.delete(NAME, topic="pinot_sales_current", wait=5)
    assert deployment.topics.describe("pinot_sales_current") is None


def test_temporary_refusals_are_tried_again(fake: FakeController, deployment: PinotDeployment) -> None:
    fake.faults["GET /version"] = [(503, "starting")]
    assert deployment.controller.version == (0, 11)
    fake.faults["GET /schemas"] = [(503, "starting"), (503, "starting")]
    with pytest.raises(ServiceUnavailable, match="503"):
        deployment.controller.schemas()


def test_old_server_cannot_pause(fake: FakeController, deployment: PinotDeployment) -> None:
    fake.version = "0.10.0"
    with pytest.raises(UserError, match=r"needs Pinot 0\.11 or later, the server is 0\.10"):
        deployment.controller.pause(NAME)


def test_server_without_version(fake: FakeController, deployment: PinotDeployment) -> None:
    fake.faults["GET /version"] = [(200, {"pinot-controller": "unknown"})]
    with pytest.raises(UserError, match="tells no version"):
        _ = deployment.controller.version


def test_ingestion_of_an_absent_table(deployment: PinotDeployment) -> None:
    with pytest.raises(NotFound, match="there is no table nope"):
        deployment.controller.ingestion("nope")


def test_query_errors_come_without_the_stack_trace() -> None:
    answer = {"exceptions": [{"message": "BadQuery: no column\n\tat org.apache.X(Y.java:1)\n\tat b"}]}
    with pytest.raises(QueryFailed, match=r"Pinot broker: BadQuery: no column; query: select 1$"):
        _result(answer, "select 1")
    with pytest.raises(QueryFailed, match="unexpected answer"):
        _result("<html>", "select 1")


def test_server_that_is_starting_may_be_asked_again() -> None:
    answer = {"exceptions": [{"message": "1 servers [s] not responded", "errorCode": 427}]}
    with pytest.raises(ServiceUnavailable, match="not responded"):
        _result(answer, "select 1")


def test_partial_answers_are_told() -> None:
    schema = {"columnNames": ["a"], "columnDataTypes": ["INT"]}
    answer = {
        "resultTable": {"dataSchema": schema, "rows": [[1]]},
        "numServersQueried": 2,
        "numServersResponded": 1,
    }
    found = _result(answer, "select 1")
    assert found.dicts() == [{"a": 1}] and not found.complete


def test_no_broker_is_said_with_its_address() -> None:
    with (
        PinotBroker.connect("http://127.0.0.1:9", attempts=1) as broker,
        pytest.raises(ServiceUnavailable, match=":9"),
    ):
        broker.query("select 1", timeout=1)
