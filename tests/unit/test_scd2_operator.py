"""The merge's request, its desk and its task, without any server."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_rtlake.exceptions import TerminalError, TransientError
from airflow_provider_rtlake.operators.scd2 import IcebergScd2MergeOperator
from airflow_provider_rtlake.scd2.fold import Refused
from airflow_provider_rtlake.scd2.publish import Overtaken
from airflow_provider_rtlake.scd2.request import MergeRequest, read_requests, request_for
from airflow_provider_rtlake.scd2.submit import APPLICATION, Desk, spark_folder
from airflow_provider_rtlake.sensors.scd2 import IcebergNewSnapshotSensor
from airflow_provider_rtlake.streams.model import Connector, Stream
from airflow_provider_rtlake.triggers.scd2 import IcebergNewSnapshotTrigger


def stream(**table: Any) -> Stream:
    declared = {"connector": "c", "topic_prefix": "mydb", "tables": {"public.source_sales": table}}
    return Connector.model_validate(declared).streams[0]


def test_a_request_is_rendered_from_the_declaration() -> None:
    history = {"untracked": ["note"], "renamed_from": {"b": "a"}, "accept_loss": ["n"]}
    request = request_for(stream(history=history, exclude=["secret"]), max_rows=5)
    assert request.history == "default.source_sales_scd2_iceberg"
    assert (request.checkpoint, request.changes) == (
        "default.source_sales_scd2_checkpoint",
        "default.source_sales_scd2_changes",
    )
    assert (request.bronze, request.transactions) == ("bronze.mydb_source_sales", "bronze.mydb_transactions")
    assert request.collection == "public.source_sales"
    assert (request.untracked, request.text_columns, request.excluded) == (("note",), ("n",), ("secret",))
    assert (request.renamed_from, request.max_rows) == ({"b": "a"}, 5)


def test_a_table_without_history_has_no_request() -> None:
    with pytest.raises(ValueError, match=r"public\.source_sales keeps no history"):
        request_for(stream(history=False))


def test_the_desk_is_private_and_keeps_what_is_asked(tmp_path: Path) -> None:
    requests = [request_for(stream())]
    desk = Desk(tmp_path)
    assert desk.arguments(requests) == ["--request", str(desk.request), "--result", str(desk.result)]
    assert stat.S_IMODE(desk.request.stat().st_mode) == 0o600
    assert read_requests(desk.request) == requests
    assert Path(APPLICATION).is_file()


@pytest.mark.parametrize(
    ("result", "kind", "message"),
    [
        ({"error": "refused", "rule": "r", "keys": ["k"], "message": "t: r: key k"}, Refused, "t: r: key k"),
        ({"error": "overtaken", "message": "another"}, Overtaken, "another"),
        ({"error": "failed", "message": "no answer"}, TransientError, "no answer"),
        ({"error": "terminal", "message": "both types"}, TerminalError, "both types"),
    ],
)
def test_the_jobs_own_account_becomes_the_error(
    tmp_path: Path, result: dict[str, Any], kind: type[Exception], message: str
) -> None:
    desk = Desk(tmp_path)
    with pytest.raises(TransientError, match="without a result"):
        desk.outcome()
    desk.result.write_text(json.dumps([result]))
    with pytest.raises(kind) as raised:
        desk.outcome()
    assert str(raised.value) == message


def test_the_operators_connection_and_settings_are_templated() -> None:
    operator = IcebergScd2MergeOperator(task_id="merge", stream=stream(), settings={"patience_seconds": "{{ 5 }}"})
    assert {"conn_id", "settings"} <= set(operator.template_fields)
    assert (operator.conn_id, operator.application) == ("rtlake_spark", APPLICATION)


def test_the_trigger_keeps_every_argument_of_the_sensor() -> None:
    trigger = IcebergNewSnapshotTrigger(table="bronze.t", since=5, nessie_conn_id="n", poll_interval=2.0, deadline=9.0)
    path, arguments = trigger.serialize()
    assert path.endswith("triggers.scd2.IcebergNewSnapshotTrigger")
    assert IcebergNewSnapshotTrigger(**arguments).serialize() == (path, arguments)
    sensor = IcebergNewSnapshotSensor(task_id="s", table="bronze.t", since="17")
    assert (sensor.known, IcebergNewSnapshotSensor(task_id="x", table="t", since="").known) == (17, None)


def test_spark_is_found_below_the_installed_stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    monkeypatch.delenv("RTLAKE_HOME", raising=False)
    assert spark_folder() is None
    binary = tmp_path / "opt" / "spark-3.5.9" / "bin" / "spark-submit"
    binary.parent.mkdir(parents=True)
    binary.touch()
    assert spark_folder(tmp_path) == binary.parent


def test_an_unknown_setting_of_a_request_is_refused() -> None:
    with pytest.raises(ValueError, match="nonsense"):
        MergeRequest.model_validate({**request_for(stream()).model_dump(), "nonsense": 1})
