"""The connectors' operators change what is needed and nothing else, wait for it, and do nothing on a dry run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException
from airflow.sdk import Connection

from airflow_provider_rtlake.clients import kafka_connect as client
from airflow_provider_rtlake.exceptions import WaitTimeout
from airflow_provider_rtlake.hooks.kafka_connect import KafkaConnectHook
from airflow_provider_rtlake.links.kafka_connect import KafkaConnectStatusLink
from airflow_provider_rtlake.operators import kafka_connect as operators
from airflow_provider_rtlake.operators.kafka_connect import (
    KafkaConnectDeleteConnectorOperator,
    KafkaConnectPauseOperator,
    KafkaConnectRestartOperator,
    KafkaConnectResumeOperator,
)
from airflow_provider_rtlake.streams import connect_apply
from airflow_provider_rtlake.streams.load import load_connectors
from airflow_provider_rtlake.streams.model import Connector
from airflow_provider_rtlake.streams.source_access import SourceAccess
from tests.unit.connect_server import State, connect_server

DECLARED = """
connector: shop
topic_prefix: shop
tables:
  public.orders: {}
"""
ON_ONE = (KafkaConnectRestartOperator, KafkaConnectPauseOperator, KafkaConnectResumeOperator)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[State]:
    monkeypatch.setattr(client, "_POLL_SECONDS", 0.01)
    monkeypatch.setattr(client, "_SETTLE_SECONDS", 0.2)
    with connect_server() as (server, state):
        url = urlsplit(server)
        connection = Connection(conn_id="c", conn_type="kafka_connect", host=url.hostname, port=url.port, schema="http")
        monkeypatch.setattr(KafkaConnectHook, "get_connection", lambda *_: connection)
        state.connectors["shop"] = {"name": "shop"}
        state.start("shop")
        yield state


class Instance:
    """The part of a task instance that a link needs."""

    def __init__(self) -> None:
        self.pushed: dict[str, str] = {}

    def xcom_push(self, key: str, value: str) -> None:
        self.pushed[key] = value


def run(operator: type[Any], **given: Any) -> dict[str, Any]:
    task = operator(task_id="t", **{"connector": "shop", "wait_seconds": 5, **given})
    context: Any = {"ti": Instance()}
    try:
        result: dict[str, Any] = task.execute(context)
        return result
    finally:
        if operator in ON_ONE:
            assert context["ti"].pushed[KafkaConnectStatusLink.key].endswith(f"/connectors/{task.connector}/status")
        task.on_kill()


def changes(state: State) -> list[str]:
    """What was asked of the server beyond looking."""
    return [request for request in state.requests if not request.startswith("GET ")]


def test_a_pause_and_its_end_are_done_once(server: State) -> None:
    paused = run(KafkaConnectPauseOperator)
    assert paused == {"connector": "shop", "changed": True, "needed": True, "status": "PAUSED, task 0 PAUSED"}
    again = run(KafkaConnectPauseOperator)
    assert (again["changed"], again["needed"]) == (False, False)
    resumed = run(KafkaConnectResumeOperator)
    assert (resumed["changed"], resumed["status"]) == (True, "RUNNING, task 0 RUNNING")
    assert run(KafkaConnectResumeOperator)["changed"] is False
    assert changes(server) == ["PUT /connectors/shop/pause", "PUT /connectors/shop/resume"]


def test_a_stopped_connector_goes_on_and_its_tasks_are_waited_for(server: State) -> None:
    server.states["shop"] = "STOPPED"
    assert run(KafkaConnectResumeOperator)["status"] == "RUNNING, task 0 RUNNING"


def test_a_state_that_does_not_come_fails_the_task(server: State) -> None:
    server.slow = 10_000
    with pytest.raises(WaitTimeout, match="was not PAUSED after 0 s: it is UNASSIGNED, task 0 UNASSIGNED"):
        run(KafkaConnectPauseOperator, wait_seconds=0.1)


def test_only_what_has_failed_is_restarted(server: State) -> None:
    assert run(KafkaConnectRestartOperator)["changed"] is False
    assert changes(server) == []
    server.failed["shop"] = True
    restarted = run(KafkaConnectRestartOperator)
    assert (restarted["changed"], restarted["status"]) == (True, "RUNNING, task 0 RUNNING")
    assert run(KafkaConnectRestartOperator, only_failed=False)["changed"] is True
    assert changes(server) == ["POST /connectors/shop/restart"] * 2
    assert server.restarts == [{"includeTasks": ["true"], "onlyFailed": [only]} for only in ("true", "false")]


def test_what_fails_again_fails_the_task_with_its_reason(server: State) -> None:
    server.failed["shop"], server.broken["shop"] = True, 5
    with pytest.raises(AirflowFailException, match="the reason"):
        run(KafkaConnectRestartOperator)


@pytest.mark.parametrize("dry_run", [True, "True", "true"])
def test_a_dry_run_only_tells(server: State, dry_run: bool | str) -> None:
    server.failed["shop"] = True
    for operator in (KafkaConnectRestartOperator, KafkaConnectPauseOperator):
        told = run(operator, dry_run=dry_run)
        assert (told["changed"], told["needed"]) == (False, True)
    server.states["shop"] = "PAUSED"
    assert run(KafkaConnectResumeOperator, dry_run=dry_run)["needed"] is True
    assert changes(server) == []


@pytest.mark.parametrize("operator", ON_ONE)
def test_an_unknown_connector_fails_for_good(server: State, operator: type[Any]) -> None:
    with pytest.raises(AirflowFailException, match="no connector 'shpo'"):
        run(operator, connector="shpo")
    assert changes(server) == []


@pytest.mark.parametrize("operator", [*ON_ONE, KafkaConnectDeleteConnectorOperator])
def test_connection_name_and_dry_run_are_templated(operator: type[Any]) -> None:
    assert {"kafka_connect_conn_id", "connector", "only_plan"} <= set(operator.template_fields)


class Source:
    """What the source holds for Debezium."""

    def __init__(self, connector: Connector) -> None:
        self.slots, self.publications = {connector.slot_name}, {connector.publication}
        self.databases: set[str] = set()

    @staticmethod
    def _take(held: set[str], name: str) -> bool:
        there = name in held
        held.discard(name)
        return there

    def drop_slot(self, _: Any, name: str) -> bool:
        return self._take(self.slots, name)

    def drop_publication(self, _: Any, name: str) -> bool:
        return self._take(self.publications, name)


@pytest.fixture
def source(server: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Source:
    (tmp_path / "shop.yaml").write_text(DECLARED)
    found = Source(load_connectors(tmp_path)[0])
    access = SourceAccess(host="db", port=5432, dbname="sales", user="u", password="p")
    kafka = SimpleNamespace(bootstrap_servers="kafka:9092", read_all=lambda topic: iter(()))
    monkeypatch.setattr(SourceAccess, "connect", lambda self: nullcontext(found.databases.add(self.dbname)))
    monkeypatch.setattr(KafkaConnectHook, "source_access", lambda *_: access)
    monkeypatch.setattr(operators, "kafka_client", lambda conn_id: kafka)
    monkeypatch.setattr(connect_apply, "drop_slot", found.drop_slot)
    monkeypatch.setattr(connect_apply, "drop_publication", found.drop_publication)
    return found


def delete(folder: Path, **given: Any) -> dict[str, Any]:
    return run(KafkaConnectDeleteConnectorOperator, folder=str(folder), **given)


def test_a_connector_is_deleted_once_with_all_that_it_holds(server: State, source: Source, tmp_path: Path) -> None:
    server.offsets["shop"] = [{"partition": {}, "offset": {"lsn": 1}}]
    (slot,) = source.slots
    gone = {"connector": "shop", "deleted": True, "slots": [slot], "publication": True, "changed": True}
    assert delete(tmp_path) == gone
    assert (server.connectors, server.offsets, source.slots, source.publications) == ({}, {}, set(), set())
    assert source.databases == {"sales"}
    assert delete(tmp_path) == {**gone, "deleted": False, "slots": [], "publication": False, "changed": False}


def test_a_publication_is_kept_when_told(server: State, source: Source, tmp_path: Path) -> None:
    kept = set(source.publications)
    assert delete(tmp_path, keep_publication=True)["publication"] is False
    assert (server.connectors, source.publications) == ({}, kept)


def test_a_dry_run_deletes_nothing(server: State, source: Source, tmp_path: Path) -> None:
    assert delete(tmp_path, dry_run="True") == {"changed": False, "present": True}
    assert delete(tmp_path, connector="other", dry_run=True)["present"] is False
    assert (list(server.connectors), len(source.slots), changes(server)) == (["shop"], 1, [])


def test_a_name_that_nobody_knows_fails_for_good(server: State, source: Source, tmp_path: Path) -> None:
    with pytest.raises(AirflowFailException, match="'shpo', nor does Kafka Connect; there are: shop"):
        delete(tmp_path, connector="shpo")
    assert changes(server) == []
