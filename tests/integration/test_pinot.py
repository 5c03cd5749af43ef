"""Tables on the real Pinot and Kafka: exact under repeats and late order, awkward names, schema changes."""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from typer.testing import CliRunner

from airflow_provider_rtlake.clients.kafka import KafkaClient
from airflow_provider_rtlake.clients.pinot import PinotBroker, PinotController, QueryResult
from airflow_provider_rtlake.clients.pinot_apply import PinotDeployment
from airflow_provider_rtlake.clients.pinot_topics import PinotTopics
from airflow_provider_rtlake.exceptions import QueryFailed, RtlakeError, TableIncompatible, UserError
from airflow_provider_rtlake.kit.stack import Stack
from airflow_provider_rtlake.pinot_config.defaults import default_tables
from airflow_provider_rtlake.pinot_config.load import load_text
from airflow_provider_rtlake.pinot_config.model import PinotTable
from airflow_provider_rtlake.pinot_config.realtime import realtime_columns
from airflow_provider_rtlake.pinot_config.script import files
from airflow_provider_rtlake.streams.model import Connector, Table
from airflow_provider_rtlake.streams.schema import Column, TableSchema

pytestmark = pytest.mark.integration

PROJECT = Path(__file__).parents[2]
CURRENT = (PROJECT / "pinot_tables" / "sales_current_3.yaml").read_text()
HISTORY = (PROJECT / "pinot_tables" / "sales_history_3.yaml").read_text()
NOW = int(time.time() * 1000)


def position(number: int) -> str:
    return f"000001-1-{number:020d}-{number:020d}"


@dataclass
class Pinot:
    """The stack's Pinot with tables of this test session, which are taken away at its end."""

    deployment: PinotDeployment
    broker: PinotBroker
    producer: Producer
    made: dict[str, str] = field(default_factory=dict)

    def declare(self, text: str, name: str) -> PinotTable:
        """A declaration from one of the project's files, under another name and topic."""
        text = re.sub(r"(?m)^table: .*$", f"table: {name}", text)
        return load_text(re.sub(r"(?m)^  topic: .*$", f"  topic: {name}_topic", text))

    def apply(self, table: PinotTable, **kwargs: Any) -> Any:
        self.made[table.table] = table.kafka.topic
        return self.deployment.apply(table, **kwargs)

    def send(self, table: PinotTable, rows: list[dict[str, Any]]) -> None:
        for row in rows:
            key = json.dumps({name: row[name] for name in table.upsert.primary_key})
            self.producer.produce(table.kafka.topic, key=key, value=json.dumps(row))
        self.producer.flush(30)

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        return list(self.broker.query(sql, timeout=10).rows)

    def until(self, sql: str, wanted: list[tuple[Any, ...]], seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while (found := self.rows(sql)) != wanted:
            assert time.monotonic() < end, f"{sql}: {found[:5]}, wanted {wanted[:5]}"
            time.sleep(0.1)


@pytest.fixture(scope="module")
def pinot(stack: Stack) -> Iterator[Pinot]:
    controller_url = stack.connection("rtlake_pinot").url
    broker_url = str(stack.connection("rtlake_pinot").extra["broker_url"])
    servers = stack.kafka_bootstrap
    with PinotController.connect(controller_url) as controller, PinotBroker.connect(broker_url) as broker:
        topics = PinotTopics(KafkaClient({"bootstrap.servers": servers}))
        deployment = PinotDeployment(controller, topics, bootstrap_servers=servers)
        held = Pinot(deployment, broker, Producer({"bootstrap.servers": servers, "linger.ms": 5}))
        yield held
        with ThreadPoolExecutor() as pool:  # each waits for the servers to let go of its segments
            for gone in [pool.submit(deployment.delete, name, topic=topic) for name, topic in held.made.items()]:
                gone.result()


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    return f"it_{request.node.name.split('[')[0].removeprefix('test_')}"[:80]


def sale(key: int, number: int, *, deleted: bool = False, **more: Any) -> dict[str, Any]:
    return {
        "id": key,
        "product_name": f"product {number}",
        "category": "Books" if key % 2 else "Toys",
        "price": 0.25 * number,
        "quantity": number % 7,
        "sale_date": NOW,
        "created_at": NOW,
        "is_deleted": deleted,
        "position": position(number),
        "last_updated_ts": NOW + number,
        "event_id": f"{position(number)}:1:u:{key}",
        **more,
    }


def test_second_apply_changes_nothing(pinot: Pinot, name: str) -> None:
    table = pinot.declare(CURRENT, name)
    assert pinot.apply(table).changed
    again = pinot.apply(table)
    assert not again.changed and again.plan.lines() == []
    assert again.ingestion.healthy(3)
    assert pinot.deployment.topics.describe(f"{name}_topic").config["cleanup.policy"] == "compact"


def test_current_table_is_exact_under_repeats_and_late_order(pinot: Pinot, name: str) -> None:
    table = pinot.declare(CURRENT, name)
    pinot.apply(table)
    shuffled = random.Random(3)
    changes = [sale(shuffled.randrange(40), n, deleted=shuffled.random() < 0.2) for n in range(1, 1500)]
    newest = {row["id"]: row for row in changes}
    arrival = changes + shuffled.sample(changes, 300)
    # within about 200 places of where they belong, as after a replay
    arrival.sort(key=lambda row: int(row["position"][9:29]) + shuffled.randrange(200))
    pinot.send(table, arrival)
    pinot.until(f"select count(*) from {name} option(skipUpsert=true)", [(len(arrival),)])
    found = pinot.rows(f"select id, product_name, price, is_deleted, position from {name} order by id limit 100")
    assert found == [
        (key, row["product_name"], row["price"], row["is_deleted"], row["position"])
        for key, row in sorted(newest.items())
    ]
    open_rows = sum(not row["is_deleted"] for row in newest.values())
    assert pinot.rows(f"select count(*) from {name} where is_deleted = false") == [(open_rows,)]


def test_history_table_holds_each_change_once(pinot: Pinot, name: str) -> None:
    table = pinot.declare(HISTORY, name)
    pinot.apply(table)
    changes = [
        {
            "record_id": f'{position(n)}:{n // 3}:u:{{"id":{n % 10}}}',
            "after_id": n % 10,
            "after_price": float(n),
            "before_price": None,
            "op": "u",
            "op_description": "UPDATE",
            "source_db": "rtsales",
            "source_table": "public.source_sales",
            "tx_id": n // 3,
            "lsn": n,
            "event_timestamp": NOW + n,
            "processing_time": NOW + n,
            "position": position(n),
        }
        for n in range(1, 601)
    ]
    arrival = changes * 3
    random.Random(5).shuffle(arrival)
    pinot.send(table, arrival)
    pinot.until(f"select count(*) from {name} option(skipUpsert=true)", [(1800,)])
    assert pinot.rows(f"select count(*), sum(after_price) from {name}") == [(600, 600 * 601 / 2)]
    trail = pinot.rows(f"select lsn, op_description from {name} where after_id = 7 order by event_timestamp limit 1000")
    assert trail == [(n, "UPDATE") for n in range(7, 601, 10)]
    assert pinot.rows(f"select count(*) from {name} where before_price is null") == [(600,)]


AWKWARD = (
    Column("Order ID", "numeric", 38, 0, nullable=False),
    Column("at", "timestamp with time zone", nullable=False),
    Column("select", "boolean"),
    Column("from", "integer"),
    Column("Überlange Spalte " + "x" * 40, "jsonb"),
    Column("position", "integer"),
    Column("timestamp", "bigint"),
    Column('say "hi"', "text"),
    Column("amount", "numeric"),
    Column("seen", "timestamp without time zone"),
)


def test_generated_table_of_awkward_names(pinot: Pinot) -> None:
    connector = Connector(connector="c", topic_prefix="it", tables={'public."Order Lines%"': Table()})
    schema = TableSchema("public", "Order Lines%", AWKWARD, ("at", "Order ID"))
    current, history = default_tables(connector.streams[0], schema)
    names = {column.source.name: column.name for column in realtime_columns(schema)}
    big = "1" + "0" * 36
    values = {
        "at": "2026-11-21T05:11:12.123456Z",
        "select": True,
        "from": -5,
        AWKWARD[4].name: json.dumps({"a": "x" * 3000}),
        "position": 9,
        "timestamp": 9223372036854775807,
        'say "hi"': 'zoë "☃" \\ \n end',
        "amount": 12.5,
        "seen": NOW,
    }
    system = {"is_deleted": False, "position": position(1), "last_updated_ts": NOW, "event_id": "e"}
    rows = [
        {names["Order ID"]: f"{big}{n}", **{names[key]: value for key, value in values.items()}, **system}
        for n in range(2)  # as doubles the two keys would be one
    ]
    pinot.apply(current)
    pinot.apply(history)
    pinot.send(current, rows)
    pinot.until(f'select count(*) from "{current.table}"', [(2,)])
    shown = ", ".join(f'"{names[key]}"' for key in values)
    found = pinot.rows(f'select {shown} from "{current.table}" where "{names["select"]}" = true limit 5')
    assert found == [tuple(values.values())] * 2
    assert not pinot.apply(history).changed and not pinot.apply(current).changed


def test_what_pinot_makes_of_values(pinot: Pinot, name: str) -> None:
    """The message formats that the real-time lane relies on."""
    table = pinot.declare(CURRENT, name)
    pinot.apply(table)
    nulls = dict.fromkeys(["product_name", "category", "price", "quantity", "sale_date", "created_at"])
    pinot.send(
        table,
        [
            sale(1, 1, **nulls),
            sale(2, 2, price="12.30", quantity="7"),
            sale(3, 3, price="NaN", product_name=""),
            sale(4, 4, product_name="x" * 5000),
            sale(5, 5, price="NAN"),  # dropped: no number
            sale(6, 6, product_name=["a", "b"]),  # dropped: no text
            sale(7, 7, product_name="null"),
        ],
    )
    pinot.producer.produce(table.kafka.topic, key="8", value=None)
    pinot.producer.produce(table.kafka.topic, key="9", value="{no json")
    pinot.send(table, [sale(key, 100) for key in range(10, 40)])  # in each partition, after all of the above
    pinot.until(f"select count(*) from {name}", [(35,)])
    assert pinot.rows(f"select id from {name} where id < 10 order by id") == [(1,), (2,), (3,), (4,), (7,)]
    assert pinot.rows(f"select id from {name} where price is null") == [(1,)]
    assert pinot.rows(f"select id from {name} where product_name is null") == [(1,)]
    assert pinot.rows(f"select price, quantity from {name} where id = 2") == [(12.3, 7)]
    assert pinot.rows(f"select length(product_name) from {name} where id = 4") == [(5000,)]
    assert pinot.rows(f"select count(*) from {name} where product_name = ''") == [(1,)]


def test_new_column_keeps_rows_and_takes_values(pinot: Pinot, name: str) -> None:
    table = pinot.declare(CURRENT, name)
    pinot.apply(table)
    pinot.send(table, [sale(key, key + 1) for key in range(30)])
    pinot.until(f"select count(*) from {name}", [(30,)])
    wider = pinot.declare(CURRENT.replace("  price:", "  note: {type: STRING}\n  price:"), name)
    applied = pinot.apply(wider)
    assert [line for line in applied.plan.lines() if "note" in line] and not applied.rebuilt
    pinot.send(wider, [sale(key, 100 + key, note=f"note {key}") for key in range(15)])
    # Closed segments show a new column's default: "is null" does not know about it there
    pinot.until(f"select count(*) from {name} where note <> 'null'", [(15,)])
    assert pinot.rows(f"select count(*), max(last_updated_ts) from {name}") == [(30, float(NOW + 114))]
    assert pinot.rows(f"select note from {name} where id = 3") == [("note 3",)]
    pinot.send(wider, [sale(3, 5, note="late")])  # older than what a closed segment holds
    pinot.until(f"select count(*) from {name} option(skipUpsert=true)", [(46,)])
    assert pinot.rows(f"select note from {name} where id = 3") == [("note 3",)]
    assert not pinot.apply(wider).changed


def test_incompatible_change_needs_a_rebuild_which_reads_the_topic_again(pinot: Pinot, name: str) -> None:
    table = pinot.declare(CURRENT, name)
    pinot.apply(table)
    pinot.send(table, [sale(key, key + 1) for key in range(20)])
    pinot.until(f"select count(*) from {name}", [(20,)])
    other = pinot.declare(CURRENT.replace("quantity: {type: INT", "quantity: {type: LONG"), name)
    with pytest.raises(TableIncompatible, match="quantity: INT metric -> LONG metric"):
        pinot.apply(other)
    applied = pinot.apply(other, rebuild=True)
    assert applied.rebuilt and "backfill" in applied.hint
    pinot.until(f"select count(*), sum(quantity) from {name}", [(20, sum((key + 1) % 7 for key in range(20)))])
    assert not pinot.apply(other).changed


def test_index_and_retention_change_in_place(pinot: Pinot, name: str) -> None:
    pinot.apply(pinot.declare(CURRENT, name))
    changed = CURRENT.replace("[category]", "[category, id]").replace("retention_days: 30", "retention_days: 31")
    table = pinot.declare(changed, name)
    assert pinot.apply(table).changed and not pinot.apply(table).changed
    config = pinot.deployment.controller.table(name)
    assert config["segmentsConfig"]["retentionTimeValue"] == "31"
    assert sorted(config["tableIndexConfig"]["invertedIndexColumns"]) == ["category", "id"]


def test_delete_twice(pinot: Pinot, name: str) -> None:
    pinot.apply(pinot.declare(CURRENT, name))
    assert pinot.deployment.delete(name) and not pinot.deployment.delete(name)
    assert pinot.deployment.controller.schema(name) is None
    assert pinot.deployment.topics.describe(f"{name}_topic") is not None
    with pytest.raises(QueryFailed, match="TableDoesNotExist"):
        pinot.rows(f"select * from {name}")


def test_kafka_that_is_not_there_is_named(pinot: Pinot, name: str) -> None:
    text = CURRENT.replace("  cleanup_policy", "  bootstrap_servers: 127.0.0.1:9\n  cleanup_policy")
    table = pinot.declare(text, name)
    with pytest.raises(RtlakeError, match=r"Kafka|[Tt]opic|partition|Timeout"):
        pinot.apply(table, wait=10)


def test_consumption_pauses_and_resumes(pinot: Pinot, name: str) -> None:
    table = pinot.declare(CURRENT, name)
    pinot.apply(table)
    controller = pinot.deployment.controller
    controller.pause(name)
    assert controller.ingestion(name).reason() == "consumption is paused"
    controller.resume(name)
    pinot.deployment.wait_consuming(pinot.deployment.render(table), 60)


def test_query_options_and_errors(pinot: Pinot, name: str) -> None:
    table = pinot.declare(CURRENT, name)
    pinot.apply(table)
    pinot.send(table, [sale(1, 1), sale(1, 2)])
    pinot.until(f"select count(*) from {name} option(skipUpsert=true)", [(2,)])
    found: QueryResult = pinot.broker.query(f"select count(*) as n from {name}", options={"skipUpsert": True})
    assert found.dicts() == [{"n": 2}] and found.complete
    with pytest.raises(QueryFailed, match="nope"):
        pinot.broker.query(f"select nope from {name}")


def test_generated_script_sets_a_table_up(pinot: Pinot, stack: Stack, name: str, tmp_path: Path) -> None:
    if not shutil.which("curl"):
        pytest.skip("curl is missing, which the generated script works with")
    table = pinot.declare(CURRENT, name)
    rendered = pinot.deployment.render(table)
    pinot.made[name] = table.kafka.topic
    pinot.deployment.topics.ensure(rendered.topic)
    for file, content in files(rendered).items():
        (tmp_path / file).write_text(content)
    environment = {
        "PATH": "/usr/bin:/bin",
        "PINOT_CONTROLLER": stack.connection("rtlake_pinot").url,
        "KAFKA_TOPICS": "no-such-tool",
    }
    for _ in range(2):
        done = subprocess.run(
            ["bash", str(tmp_path / "setup.sh")], env=environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == f"{name}: consuming"
    assert not pinot.apply(table).changed


def test_command_line(pinot: Pinot, stack: Stack, name: str, tmp_path: Path) -> None:
    from airflow_provider_rtlake.commands.pinot import app

    folder = tmp_path / "pinot_tables"
    folder.mkdir()
    text = re.sub(r"(?m)^  topic: .*$", f"  topic: {name}_topic", CURRENT)
    (folder / "a.yaml").write_text(re.sub(r"(?m)^table: .*$", f"table: {name}", text))
    pinot.made[name] = f"{name}_topic"
    where = ["--tables", str(folder), "--declared-only", "--home", str(stack.home), "--json"]

    def run(*arguments: str) -> dict[str, Any]:
        result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout.strip().splitlines()[-1])

    assert run("validate", "--tables", str(folder), "--json") == {"ok": True, "tables": [name]}
    written = run("generate", "-o", str(tmp_path / "out"), *where)["folders"]
    assert sorted(path.name for path in Path(written[0]).iterdir()) == [
        "schema.json",
        "setup.sh",
        "table.json",
    ]
    assert run("plan", *where)["tables"][0]["action"] == "create"
    assert run("apply", *where)["changed"] is True
    assert run("apply", *where)["changed"] is False
    delete = ["delete", name, "--yes", "--topics", "--home", str(stack.home), "--json"]
    assert run(*delete)["deleted"] == [name] and run(*delete)["deleted"] == []
    with pytest.raises(UserError, match="no Pinot table nope is declared"):
        CliRunner().invoke(app, ["plan", "nope", *where], catch_exceptions=False)


@pytest.fixture
def airflow_connections(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    for conn_id in ("rtlake_pinot", "rtlake_kafka"):
        given = stack.connection(conn_id)
        fields = {
            "conn_type": given.conn_type,
            "host": given.host,
            "port": given.port,
            "extra": dict(given.extra),
        }
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(fields))


class Pushes:
    """What a task's context must offer."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def xcom_push(self, key: str, value: Any) -> None:
        self.values[key] = value


@pytest.fixture
def run_task(airflow_connections: None) -> Callable[[Any], tuple[Any, Pushes]]:
    def run(operator: Any) -> tuple[Any, Pushes]:
        pushes = Pushes()
        return operator.execute({"ti": pushes}), pushes

    return run


def test_operators_and_sensors(pinot: Pinot, name: str, tmp_path: Path, run_task: Any) -> None:
    from airflow_provider_rtlake.operators.pinot import (
        PinotApplyTablesOperator,
        PinotDeleteTableOperator,
        PinotReloadSegmentsOperator,
    )
    from airflow_provider_rtlake.sensors.pinot import PinotFreshnessSensor, PinotIngestionHealthySensor

    table = pinot.declare(CURRENT, name)
    pinot.made[name] = table.kafka.topic
    text = re.sub(r"(?m)^  topic: .*$", f"  topic: {name}_topic", CURRENT)
    (tmp_path / "a.yaml").write_text(re.sub(r"(?m)^table: .*$", f"table: {name}", text))
    plan, _ = run_task(PinotApplyTablesOperator(task_id="p", tables_folder=str(tmp_path), dry_run=True))
    assert plan["tables"][0]["action"] == "create" and pinot.deployment.controller.table(name) is None
    first, pushes = run_task(PinotApplyTablesOperator(task_id="a", tables_folder=str(tmp_path)))
    assert first["changed"] and f"table/{name}_REALTIME" in pushes.values["pinot_table_link"]
    second, _ = run_task(PinotApplyTablesOperator(task_id="b", tables_folder=str(tmp_path)))
    assert not second["changed"]
    healthy, _ = run_task(PinotIngestionHealthySensor(task_id="h", tables={name: 3}, timeout=30, poke_interval=1))
    assert healthy == [name]
    pinot.send(table, [sale(1, 1, last_updated_ts=int(time.time() * 1000))])
    pinot.until(f"select count(*) from {name}", [(1,)])
    lag, _ = run_task(PinotFreshnessSensor(task_id="f", table=name, max_lag=60, timeout=30, poke_interval=1))
    assert 0 <= lag < 60
    reloaded, _ = run_task(PinotReloadSegmentsOperator(task_id="r", table=name))
    assert reloaded["changed"]
    for changed in (True, False):
        gone, _ = run_task(PinotDeleteTableOperator(task_id="d", table=name))
        assert gone == {"table": name, "changed": changed}


def test_triggers_end_in_one_event(pinot: Pinot, name: str, airflow_connections: None) -> None:
    import asyncio

    from airflow_provider_rtlake.triggers.pinot import PinotFreshnessTrigger, PinotIngestionTrigger

    async def events(trigger: Any) -> list[Any]:
        return [event.payload async for event in trigger.run()]

    common = {"pinot_conn_id": "rtlake_pinot", "timeout": 10.0, "poll_interval": 0.2}
    pinot.apply(pinot.declare(CURRENT, name))
    ready = PinotIngestionTrigger(tables={name: 3}, deadline=time.time() + 30, **common)
    assert asyncio.run(events(ready)) == [{"status": "ok", "message": "", "result": [name]}]
    absent = PinotIngestionTrigger(tables={"nope": None}, deadline=None, **common)
    assert asyncio.run(events(absent))[0]["status"] == "failed"
    stale = PinotFreshnessTrigger(
        table=name, time_column="last_updated_ts", max_lag=1, deadline=time.time() + 0.5, **common
    )
    assert asyncio.run(events(stale)) == [{"status": "timeout", "message": f"{name} has no row", "result": None}]
