"""Connectors on the real Kafka Connect: deployed, changed, broken, repaired and deleted, one life in order."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import yaml

from airflow_provider_rtlake.clients.kafka import KafkaClient
from airflow_provider_rtlake.clients.kafka_connect import KafkaConnectClient
from airflow_provider_rtlake.demo.access import Access
from airflow_provider_rtlake.kit.stack import Stack
from airflow_provider_rtlake.streams.load import load_connectors
from airflow_provider_rtlake.streams.source_deploy import drop_slot, has_publication, read_slot

NAME = "it-connectors"
PREFIX = "it_connectors"
SCHEMA = "it_connectors"
LONG = "t" * 63
TABLES: dict[str, tuple[str, str, list[Any]]] = {
    # declared name → DDL, row inserted, the message keys expected of it
    "plain": ("(id int PRIMARY KEY, v text)", "(1, 'a')", [{"id": 1}]),
    '"My.Table"': ('("Id" int PRIMARY KEY, "a,b" text, "select" int)', "(1, 'x', 2)", [{"Id": 1}]),
    '"select"': (
        '("order" int, "group" text, PRIMARY KEY ("order", "group"))',
        "(1, 'g')",
        [{"order": 1, "group": "g"}],
    ),
    LONG: (f"({'c' * 63} text PRIMARY KEY)", "('k')", [{"c" * 63: "k"}]),
    "unique_key": ("(a int NOT NULL UNIQUE, b text)", "(7, 'x')", [{"a": 7}]),
    "deferred": ("(id int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED, v text)", "(1, 'a')", [{"id": 1}]),
    "parted": ("(id int, part int, PRIMARY KEY (id, part)) PARTITION BY LIST (part)", "(1, 1)", [{"id": 1, "part": 1}]),
    "made": ("(id int PRIMARY KEY, twice int GENERATED ALWAYS AS (id * 2) STORED)", "(4)", [{"id": 4}]),
}
OPTIONS: dict[str, dict[str, Any]] = {"unique_key": {"key": ["a"]}, "deferred": {"realtime": False}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the declaration is."""
    return tmp_path_factory.mktemp("connectors")


@pytest.fixture(scope="module")
def source(access: Access) -> Iterator[psycopg.Connection[dict[str, Any]]]:
    """The source database with the tables of this module."""
    with access.source() as plain:
        plain.row_factory = psycopg.rows.dict_row  # type: ignore[assignment]
        connection: psycopg.Connection[dict[str, Any]] = plain  # type: ignore[assignment]
        connection.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")
        connection.execute(f"CREATE SCHEMA {SCHEMA}")
        for name, (ddl, _, _) in TABLES.items():
            connection.execute(f"CREATE TABLE {SCHEMA}.{name} {ddl}")
        connection.execute(f"CREATE TABLE {SCHEMA}.parted_1 PARTITION OF {SCHEMA}.parted FOR VALUES IN (1)")
        for name, (_, row, _) in TABLES.items():
            connection.execute(f"INSERT INTO {SCHEMA}.{name} VALUES {row}")
        yield connection
        connection.execute(f"DROP SCHEMA {SCHEMA} CASCADE")


@pytest.fixture(scope="module")
def run(
    folder: Path, source: psycopg.Connection[dict[str, Any]], rtlake: Callable[..., str], kafka: KafkaClient
) -> Iterator[Callable[..., Any]]:
    """Runs ``rtlake connectors <verb> --json`` on the declaration of this module."""
    declare(folder)

    def call(verb: str, *arguments: str, ok: bool = True) -> Any:
        output = rtlake("connectors", verb, *arguments, "--connectors", str(folder), "--json", ok=ok)
        return json.loads(output.strip().splitlines()[-1]) if ok else output

    yield call
    declare(folder)
    call("delete", NAME)
    kafka.delete(
        [topic for topic in kafka.topics() if topic.startswith((f"{PREFIX}.", f"__debezium-heartbeat.{PREFIX}"))]
    )


@pytest.fixture(scope="module")
def kafka(stack: Stack) -> KafkaClient:
    """The broker."""
    return KafkaClient({"bootstrap.servers": stack.kafka_bootstrap})


@pytest.fixture(scope="module")
def connect(stack: Stack) -> Iterator[KafkaConnectClient]:
    """Kafka Connect."""
    with KafkaConnectClient(stack.connection("rtlake_kafka_connect").url) as client:
        yield client


def declare(folder: Path, *, leave_out: str = "", **more: Any) -> None:
    """Write the declaration."""
    tables = {f"{SCHEMA}.{name}": OPTIONS.get(name, {}) for name in TABLES if name != leave_out}
    tables |= more.pop("tables", {})
    declaration = {
        "connector": NAME,
        "topic_prefix": PREFIX,
        "publication": "it_connectors_pub",
        "heartbeat_ms": 1000,
        "tables": tables,
        **more,
    }
    (folder / "it.yaml").write_text(yaml.safe_dump(declaration, sort_keys=False))


def slot_name(folder: Path) -> str:
    return load_connectors(folder)[0].slot_name


def mine(result: Any) -> dict[str, Any]:
    """The part of a result that is about this module's connector."""
    found: dict[str, Any] = next(one for one in result["connectors"] if one["connector"] == NAME)
    return found


def messages(kafka: KafkaClient, topic: str, enough: Callable[[list[Any]], bool], limit: float = 60) -> list[Any]:
    """(key, payload, headers) of a topic, as soon as there are enough of them."""
    deadline = time.monotonic() + limit
    while True:
        found = [
            (json.loads(key) if key else None, json.loads(value)["payload"] if value else None, headers)
            for key, value, headers in kafka.read_all(topic)
        ]
        if enough(found):
            return found
        assert time.monotonic() < deadline, f"{topic}: {found}"
        time.sleep(0.5)  # between two looks at a topic


def test_plan_touches_nothing(run: Callable[..., Any], connect: KafkaConnectClient, kafka: KafkaClient) -> None:
    plan = mine(run("plan"))
    assert plan["action"] == "create" and plan["changes"]
    assert any("publication it_connectors_pub made" in what for what in plan["source"])
    assert connect.config(NAME) is None
    assert f"{PREFIX}.{SCHEMA}.plain" not in kafka.topics()
    assert "canary" not in json.dumps(plan) and "${directory:" in json.dumps(plan)


def test_first_deployment_and_every_shape_of_key(
    run: Callable[..., Any], folder: Path, kafka: KafkaClient, source: psycopg.Connection[dict[str, Any]]
) -> None:
    applied = mine(run("apply"))
    assert applied["changed"] and applied["status"] == "RUNNING, task 0 RUNNING"
    for stream in load_connectors(folder)[0].streams:
        name = stream.source.split(".", 1)[1]
        found = messages(kafka, stream.topic, lambda rows: len(rows) >= 1)
        assert [key for key, _, _ in found] == TABLES[name][2], name
        assert {headers["rtlake.epoch"].strip('"') for _, _, headers in found} == {applied["epoch"]}
        assert {payload["op"] for _, payload, _ in found} == {"r"}
    identities = source.execute(
        "SELECT relname, relreplident::text AS identity FROM pg_class WHERE relnamespace = %s::regnamespace"
        " AND relkind IN ('r', 'p')",
        (SCHEMA,),
    ).fetchall()
    assert {row["identity"] for row in identities} == {"f"}  # real-time lanes, a deferrable key, a partition


def test_second_deployment_changes_nothing(run: Callable[..., Any]) -> None:
    plan = mine(run("plan"))
    assert (plan["action"], plan["changes"], plan["settings"]) == ("unchanged", False, [])
    assert mine(run("apply"))["changed"] is False


def test_changes_are_streamed(
    kafka: KafkaClient, source: psycopg.Connection[dict[str, Any]], run: Callable[..., Any]
) -> None:
    with source.transaction():
        source.execute(f"UPDATE {SCHEMA}.plain SET v = 'b'")
        source.execute(f"INSERT INTO {SCHEMA}.parted VALUES (2, 1)")
        source.execute(f"UPDATE {SCHEMA}.deferred SET id = 2")
    found = messages(kafka, f"{PREFIX}.{SCHEMA}.plain", lambda rows: any(p and p["op"] == "u" for _, p, _ in rows))
    update = next(payload for _, payload, _ in found if payload and payload["op"] == "u")
    assert (update["before"]["v"], update["after"]["v"]) == ("a", "b")
    messages(kafka, f"{PREFIX}.{SCHEMA}.parted", lambda rows: any(key == {"id": 2, "part": 1} for key, _, _ in rows))
    messages(kafka, f"{PREFIX}.{SCHEMA}.deferred", lambda rows: any(key == {"id": 2} for key, _, _ in rows))
    assert f"{PREFIX}.{SCHEMA}.parted_1" not in kafka.topics()
    ends = messages(kafka, f"{PREFIX}.transaction", lambda rows: any(p["status"] == "END" for _, p, _ in rows))
    counted = [
        {one["data_collection"]: one["event_count"] for one in payload["data_collections"]}
        for _, payload, _ in ends
        if payload["status"] == "END"
    ]
    assert {f"{SCHEMA}.plain": 1, f"{SCHEMA}.parted": 1, f"{SCHEMA}.deferred": 2} in counted


def test_a_new_partition_lacks_its_identity_until_the_next_deployment(
    run: Callable[..., Any], source: psycopg.Connection[dict[str, Any]]
) -> None:
    assert mine(run("status"))["identity_missing"] == []
    source.execute(f"CREATE TABLE {SCHEMA}.parted_2 PARTITION OF {SCHEMA}.parted FOR VALUES IN (2)")
    assert f"{SCHEMA}.parted_2" in run("status", ok=False)
    assert mine(run("apply"))["changed"]
    assert mine(run("status"))["identity_missing"] == []


def test_a_changed_setting_is_updated_not_refused(
    run: Callable[..., Any], folder: Path, connect: KafkaConnectClient
) -> None:
    declare(folder, config={"max.batch.size": 4096})
    plan = mine(run("plan"))
    assert plan["settings"] == ["~ max.batch.size: 8192 → 4096"] and not plan["epoch"]
    assert mine(run("apply"))["changed"]
    assert (connect.config(NAME) or {})["max.batch.size"] == "4096"
    declare(folder)
    assert mine(run("apply"))["changed"]


def test_a_setting_that_debezium_refuses_names_its_key(run: Callable[..., Any], folder: Path) -> None:
    declare(folder, config={"snapshot.fetch.size": "many", "max.bach.size": 1})
    said = run("apply", ok=False)
    assert "connectors" in said and "config.snapshot.fetch.size: Debezium refuses" in said
    assert "config.max.bach.size: Debezium knows no such setting" in said
    assert "Traceback" not in said
    declare(folder)
    assert mine(run("plan"))["changes"] is False


def test_declarations_that_do_not_fit_the_source(
    run: Callable[..., Any], folder: Path, source: psycopg.Connection[dict[str, Any]]
) -> None:
    source.execute(f"CREATE TABLE {SCHEMA}.keyless (a int)")
    source.execute(f"CREATE TABLE {SCHEMA}.lossy (id int PRIMARY KEY, grid int[][], n numeric[])")
    source.execute(f"CREATE VIEW {SCHEMA}.seen AS SELECT 1 AS id")
    source.execute(f'CREATE TABLE {SCHEMA}.cased (id int PRIMARY KEY, note text, "Note" text)')
    source.execute(f"CREATE TABLE {SCHEMA}.parent (id int PRIMARY KEY)")
    source.execute(f"CREATE TABLE {SCHEMA}.child () INHERITS ({SCHEMA}.parent)")
    source.execute(f"CREATE TABLE {SCHEMA}.counted (a int, b int GENERATED ALWAYS AS (a + 1) STORED PRIMARY KEY)")
    tables = {f"{SCHEMA}.{name}": {} for name in ("keyless", "lossy", "seen", "plane", "cased", "parent", "counted")}
    tables[f"{SCHEMA}.plain"] = {"exclude": ["w"], "history": {"untracked": ["vv"]}}
    declare(folder, tables=tables)
    said = run("validate", "--online", ok=False)
    for expected in (
        f"tables.{SCHEMA}.keyless: has no primary key",
        f"tables.{SCHEMA}.lossy: column 'grid': Debezium's JSON loses the values of an array of more than one",
        f"tables.{SCHEMA}.lossy: column 'n': Debezium's JSON loses a numeric array that holds NaN",
        f"tables.{SCHEMA}.seen: is a view",
        f"tables.{SCHEMA}.cased: columns 'note' and 'Note' differ in case only",
        f"tables.{SCHEMA}.parent: has tables that inherit from it",
        f"tables.{SCHEMA}.counted: key column 'b' is generated",
        f"tables.{SCHEMA}.plane: the source has no such table; did you mean {SCHEMA}.plain?",
        f"tables.{SCHEMA}.plain.exclude: the table has no column 'w'",
        f"tables.{SCHEMA}.plain.history.untracked: the table has no column 'vv'; did you mean 'v'?",
    ):
        assert expected in said, said
    declare(folder)


def test_a_table_added_later_is_read_whole(
    run: Callable[..., Any], folder: Path, kafka: KafkaClient, source: psycopg.Connection[dict[str, Any]]
) -> None:
    source.execute(f"CREATE TABLE {SCHEMA}.later (id int PRIMARY KEY, v text)")
    source.execute(f"INSERT INTO {SCHEMA}.later SELECT n, 'x' FROM generate_series(1, 100) n")
    declare(folder, tables={f"{SCHEMA}.later": {}})
    applied = mine(run("apply"))
    assert applied["snapshots"] == [f"{SCHEMA}.later"]
    found = messages(kafka, f"{PREFIX}.{SCHEMA}.later", lambda rows: len(rows) >= 100)
    assert sorted(key["id"] for key, _, _ in found) == list(range(1, 101))
    # in the middle of the stream: the commit before is known, unlike in the first snapshot
    assert all(json.loads(payload["source"]["sequence"])[0] is not None for _, payload, _ in found)
    again = mine(run("apply"))
    assert (again["changed"], again["snapshots"]) == (False, [])


def test_a_paused_connector_is_resumed(run: Callable[..., Any], connect: KafkaConnectClient, stack: Stack) -> None:
    connect.pause(NAME)
    connect.wait(NAME, lambda status: status is not None and status.state == "PAUSED", what="paused", limit=30)
    assert mine(run("apply"))["changed"]
    assert mine(run("status"))["running"]
    assert "password" not in httpx.get(
        f"{stack.connection('rtlake_kafka_connect').url}/connectors/{NAME}"
    ).text.replace('"database.password":"${directory:', "")


def test_a_lost_slot_begins_a_new_epoch_with_a_complete_snapshot(
    run: Callable[..., Any],
    folder: Path,
    kafka: KafkaClient,
    connect: KafkaConnectClient,
    source: psycopg.Connection[dict[str, Any]],
) -> None:
    before = mine(run("status"))["epoch"]
    slot = slot_name(folder)
    assert drop_slot(source, slot)
    source.execute(f"DELETE FROM {SCHEMA}.plain")
    source.execute(f"INSERT INTO {SCHEMA}.plain VALUES (5, 'missed')")
    connect.wait(
        NAME, lambda status: status is not None and status.failed, what="failed", limit=90, fail_on_failed=False
    )
    assert not read_slot(source, slot).exists  # nobody makes it anew behind our back
    said = run("status", ok=False)
    assert "no longer available" in said
    applied = mine(run("apply"))
    assert applied["epoch"].split(":")[1:] == before.split(":")[1:]
    assert int(applied["epoch"].split(":")[0]) == int(before.split(":")[0]) + 1
    found = messages(
        kafka,
        f"{PREFIX}.{SCHEMA}.plain",
        lambda rows: any(headers["rtlake.epoch"].strip('"') == applied["epoch"] for _, _, headers in rows),
    )
    new = [
        (key, payload["op"])
        for key, payload, headers in found
        if headers["rtlake.epoch"].strip('"') == applied["epoch"]
    ]
    assert new == [({"id": 5}, "r")]
    assert mine(run("apply"))["changed"] is False


def test_delete_leaves_no_slot_and_a_new_deployment_counts_on(
    run: Callable[..., Any], folder: Path, connect: KafkaConnectClient, source: psycopg.Connection[dict[str, Any]]
) -> None:
    before = int(mine(run("status"))["epoch"].split(":")[0])
    result = run("delete", NAME)
    assert result["changed"] and result["slots"] == [slot_name(folder)]
    assert connect.config(NAME) is None
    assert not read_slot(source, slot_name(folder)).exists
    assert not has_publication(source, "it_connectors_pub")
    assert run("delete", NAME)["changed"] is False
    assert int(mine(run("apply"))["epoch"].split(":")[0]) == before + 1


def test_an_undeclared_connector_is_deleted_by_its_name(
    run: Callable[..., Any], folder: Path, connect: KafkaConnectClient, source: psycopg.Connection[dict[str, Any]]
) -> None:
    slot = slot_name(folder)
    declare(folder, connector="it-other", publication="it_other_pub")
    result = run("delete", NAME)
    assert result["slots"] == [slot] and result["publication"]
    assert connect.config(NAME) is None
    assert not read_slot(source, slot).exists
    assert not has_publication(source, "it_connectors_pub")
    assert "nor does Kafka Connect" in run("delete", NAME, ok=False)
    declare(folder)
