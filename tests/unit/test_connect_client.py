"""The client of Kafka Connect against a server that rebalances, is slow, loses answers and whose tasks fail."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from airflow_provider_rtlake.clients import kafka_connect
from airflow_provider_rtlake.clients.kafka_connect import KafkaConnectClient, shorten
from airflow_provider_rtlake.exceptions import (
    Conflict,
    ConnectorConfigInvalid,
    ConnectorFailed,
    ServiceUnavailable,
    WaitTimeout,
)
from tests.unit.connect_server import REBALANCE, TRACE, State, connect_server

CONFIG = {"connector.class": "io.debezium.X", "a": "1"}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No long pauses between looks."""
    monkeypatch.setattr(kafka_connect, "_POLL_SECONDS", 0.01)
    monkeypatch.setattr(kafka_connect, "_SETTLE_SECONDS", 0.2)


@pytest.fixture
def server() -> Iterator[tuple[KafkaConnectClient, State]]:
    """A client of a fresh server."""
    with connect_server() as (url, state), KafkaConnectClient(url, attempts=2, timeout=5) as client:
        yield client, state


Server = tuple[KafkaConnectClient, State]


def running(client: KafkaConnectClient, name: str = "c", limit: float = 5.0) -> None:
    client.wait(name, lambda status: status is not None and status.running, what="running", limit=limit)


def test_life_of_a_connector(server: Server) -> None:
    client, state = server
    assert (client.version(), client.connectors(), client.config("c"), client.status("c")) == ("4.3.1", [], None, None)
    client.create("c", CONFIG)
    running(client)
    assert client.config("c") == {**CONFIG, "name": "c"}
    client.update("c", {**CONFIG, "a": "2"})
    assert (client.config("c") or {})["a"] == "2"
    client.pause("c")
    assert (client.status("c") or pytest.fail()).state == "PAUSED"
    client.resume("c")
    client.stop("c")
    state.offsets["c"] = [{"partition": {}, "offset": {"lsn": 1}}]
    assert len(client.offsets("c")) == 1
    client.delete_offsets("c")
    assert client.offsets("c") == []
    assert (client.delete("c"), client.delete("c")) == (True, False)


def test_names_are_quoted(server: Server) -> None:
    client, state = server
    client.create("a/b c", CONFIG)
    assert client.config("a/b c") is not None
    assert "GET /connectors/a%2Fb%20c/config" in state.requests


@pytest.mark.parametrize("text", [REBALANCE, kafka_connect.SERVICE + " rebalance in progress"])
def test_rebalance_is_waited_for(server: Server, text: str) -> None:
    client, state = server
    state.rebalances, state.rebalance_text = 3, text
    client.create("c", CONFIG)
    assert client.connectors() == ["c"]
    assert state.requests.count("POST /connectors") == 4


def test_endless_rebalance_is_transient(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    client, state = server
    monkeypatch.setattr(kafka_connect, "_REBALANCE_SECONDS", 0.1)
    state.rebalances = 10_000
    with pytest.raises(ServiceUnavailable, match="still rebalancing"):
        client.connectors()


def test_taken_name_is_no_rebalance(server: Server) -> None:
    client, state = server
    client.create("c", CONFIG)
    with pytest.raises(Conflict, match="already exists"):
        client.create("c", {**CONFIG, "a": "other"})
    assert state.requests.count("POST /connectors") == 2
    client.create("c", CONFIG)  # the same again is what was wanted


def test_lost_answer_of_an_accepted_request_is_success(server: Server) -> None:
    client, state = server
    state.lose_answers = 1
    client.create("c", CONFIG)
    assert state.requests.count("POST /connectors") == 1
    running(client)


def test_refused_configuration(server: Server) -> None:
    client, _ = server
    with pytest.raises(ConnectorConfigInvalid, match="configuration is invalid") as caught:
        client.create("c", {**CONFIG, "bad": "1"})
    assert "canary" not in str(caught.value) and "canary" not in caught.value.body
    assert client.validate({**CONFIG, "max.batch.size": "x"}) == {"max.batch.size": ["is no number"]}


def test_slow_status(server: Server) -> None:
    client, state = server
    client.create("c", CONFIG)
    state.slow = 5
    running(client)
    state.slow = 10_000
    with pytest.raises(WaitTimeout, match=r"was not running after 0 s: it is UNASSIGNED, task 0 UNASSIGNED"):
        running(client, limit=0.1)


def test_failed_task_carries_its_trace_and_comes_back(server: Server) -> None:
    client, state = server
    state.broken["c"] = 1
    client.create("c", CONFIG)
    with pytest.raises(ConnectorFailed, match="it broke") as caught:
        running(client)
    assert "the reason" in str(caught.value) and "at x.Y.z" not in str(caught.value)
    status = client.restart_and_wait("c", only_failed=True, limit=5)
    assert status is not None and status.running
    client.restart("c", only_failed=True)
    assert not (client.status("c") or pytest.fail()).failed


def test_task_that_fails_again(server: Server) -> None:
    client, state = server
    state.broken["c"] = 5
    client.create("c", CONFIG)
    with pytest.raises(ConnectorFailed, match="it broke"):
        client.restart_and_wait("c", only_failed=True, limit=2)


def test_offsets_of_a_running_connector_are_kept(server: Server) -> None:
    client, _ = server
    client.create("c", CONFIG)
    with pytest.raises(Exception, match="STOPPED state"):
        client.delete_offsets("c")


def test_no_server() -> None:
    with (
        KafkaConnectClient("http://127.0.0.1:9", attempts=1, timeout=1) as client,
        pytest.raises(ServiceUnavailable, match="no answer"),
    ):
        client.connectors()


def test_traces_are_shortened() -> None:
    assert shorten(TRACE).splitlines() == [
        "org.apache.kafka.connect.errors.ConnectException: it broke",
        "Caused by: java.lang.IllegalStateException: the reason",
    ]
