"""The source as oracle: an audit trigger in PostgreSQL records what happened, and the history must tell the same.

Writers run at once: transactions of several rows, early writers that commit late, rollbacks, deletes and re-inserts,
changed and swapped keys, truncate and reload, large values, columns that come, go and widen; Kafka Connect is killed
meanwhile. Then the slot is lost while writers run. ``RTLAKE_TEST_TRANSACTIONS`` sets how many a writer does.
"""

from __future__ import annotations

import base64
import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import httpx
import psutil
import pytest
from dateutil.parser import isoparse
from psycopg import errors

from airflow_provider_rtlake.demo.access import Access
from airflow_provider_rtlake.kit import health
from airflow_provider_rtlake.kit.stack import Stack
from airflow_provider_rtlake.kit.supervise import supervisor_of
from airflow_provider_rtlake.scd2.request import request_for
from tests.declared import Declared
from tests.oracle import Life, Oracle
from tests.scd2_lake import micros

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(3600)]
TRANSACTIONS = int(os.environ.get("RTLAKE_TEST_TRANSACTIONS", "40"))  # of each writer, in each of three stretches
WRITERS = 3
SEED = int(os.environ.get("RTLAKE_TEST_SEED", "20261121"))
KEYS = 30
FULL, PLAIN = "public.it_audited_full", "public.it_audited_plain"
# An array needs the full identity: Debezium's placeholder for an unsent one is not told from a null.
COLUMNS = """uid bigint NOT NULL, a text, n int NOT NULL DEFAULT 0, price numeric(12,2), flag boolean NOT NULL,
  big text, raw bytea, at timestamptz, day date, doc jsonb, u uuid, ratio float8"""
TABLES = {
    FULL: f"CREATE TABLE {{table}} (id int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED, tags text[], {COLUMNS})",
    PLAIN: f"CREATE TABLE {{table}} (id int PRIMARY KEY, {COLUMNS})",
}
END_OF_TIME = 253_402_300_799_999_999  # what infinity becomes
AUDIT = """
CREATE TABLE IF NOT EXISTS public.it_audit (seq bigserial PRIMARY KEY, tx xid8 NOT NULL DEFAULT pg_current_xact_id(),
  tab text, old_row text, new_row text, truncated boolean NOT NULL DEFAULT false);
TRUNCATE public.it_audit;
CREATE OR REPLACE FUNCTION public.it_audit_row() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  INSERT INTO public.it_audit (tab, old_row, new_row) VALUES (TG_TABLE_NAME,
    CASE WHEN TG_OP <> 'INSERT' THEN to_json(OLD)::text END, CASE WHEN TG_OP <> 'DELETE' THEN to_json(NEW)::text END);
  RETURN NULL; END $$;
CREATE OR REPLACE FUNCTION public.it_audit_truncate() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  INSERT INTO public.it_audit (tab, truncated) VALUES (TG_TABLE_NAME, true); RETURN NULL; END $$;
"""


class Writer(threading.Thread):
    """Random transactions on both tables."""

    def __init__(self, access: Access, number: int, seed: int, transactions: int) -> None:
        super().__init__(name=f"writer-{number}")
        self.access, self.number, self.transactions = access, number, transactions
        self.dice = random.Random(seed * 100 + number)
        self.committed = 0
        self.stretch = 1
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            with self.access.source() as connection:
                connection.autocommit = False
                connection.prepare_threshold = None  # columns come and go
                for _ in range(self.transactions):
                    self._transaction(connection)
        except BaseException as error:
            self.error = error

    def _transaction(self, connection: Any) -> None:
        dice = self.dice
        try:
            for _ in range(dice.randint(1, 5)):
                self._statement(connection, dice.choice([FULL, PLAIN]))
            if dice.random() < 0.3:  # an early writer that commits late
                connection.execute("SELECT pg_sleep(%s)", [dice.random() * 0.1])
            if dice.random() < 0.15:
                connection.rollback()
                return
            connection.commit()
            self.committed += 1
        except (errors.UniqueViolation, errors.DeadlockDetected, errors.ObjectInUse):
            connection.rollback()

    def _statement(self, connection: Any, table: str) -> None:
        dice = self.dice
        choice = dice.random()
        key, other = dice.sample(range(KEYS), 2)
        if choice < 0.35:
            names = ["id", "uid", "n", "flag", "a", "big", "price"]
            values = [key, dice.getrandbits(60), dice.randint(0, 3), dice.random() < 0.5, dice.choice(["x", "", None])]
            values += [dice.choice([None, "L" * 20_000, "M" * 9]), Decimal(dice.randint(0, 10**6)) / 100]
            places = ", ".join(["%s"] * len(names))
            connection.execute(
                f"INSERT INTO {table} ({', '.join(names)}) SELECT {places} "
                f"WHERE NOT EXISTS (SELECT 1 FROM {table} WHERE id = %s)",
                [*values, key],
            )
        elif choice < 0.65:
            connection.execute(f"UPDATE {table} SET {self._change(table)} WHERE id = %s", [key])
        elif choice < 0.72:
            connection.execute(f"UPDATE {table} SET a = a, n = n WHERE id %% 5 = %s", [key % 5])
        elif choice < 0.82:
            connection.execute(f"DELETE FROM {table} WHERE id = %s", [key])
        elif choice < 0.90:
            connection.execute(f"UPDATE {table} SET id = %s WHERE id = %s", [other, key])
        elif choice < 0.98 and table == FULL:
            connection.execute(
                f"UPDATE {table} SET id = CASE id WHEN %s THEN %s ELSE %s END WHERE id IN (%s, %s)",
                [key, other, key, key, other],
            )
        elif choice > 0.995:
            connection.execute(f"CREATE TEMP TABLE keep_it ON COMMIT DROP AS SELECT * FROM {table} WHERE id % 2 = 0")
            connection.execute(f"TRUNCATE {table}")
            connection.execute(f"INSERT INTO {table} SELECT * FROM keep_it")
            connection.execute("DROP TABLE keep_it")

    def _change(self, table: str) -> str:
        later = ["extra = n", "extra = NULL"] if self.stretch > 2 else []
        before = ["u = '00000000-0000-0000-0000-00000000002a'"] if self.stretch < 2 else []
        arrays = ["tags = ARRAY['p', NULL, '']", "tags = '{}'"] if table == FULL else []
        return self.dice.choice(
            [
                *later,
                *before,
                *arrays,
                "a = 'y'",
                "a = NULL",
                "n = n + 1",
                "big = repeat('N', 30000)",
                "raw = '\\xdeadbeef'",
                "at = clock_timestamp()",
                "at = 'infinity'",
                "day = '0044-03-15'",  # not BC: docs/scd2.md, limits
                "day = 'infinity'",
                "doc = '{\"k\": [1, 2.50, null]}'",
                "ratio = 'NaN'",
                "ratio = 0.1",
                "price = price + 0.01",
            ]
        )


def parsed(text: str) -> dict[str, Any]:
    """A row of the audit in plain, comparable values."""
    return {name: plain(name, value) for name, value in json.loads(text, parse_float=Decimal).items()}


def plain(name: str, value: Any) -> Any:
    """One spelling for a value, whether it came from PostgreSQL's JSON or from the history."""
    if value is None:
        return None
    if name == "at":
        return "infinity" if str(value) in ("infinity", str(END_OF_TIME)) else instant(value)
    if name == "day":
        return "9999-12-31" if value == "infinity" else str(value)
    if name == "raw":
        return value if value.startswith("\\x") else "\\x" + base64.b64decode(value).hex()
    if name == "doc":
        return json.loads(value, parse_float=Decimal) if isinstance(value, str) else value
    if name == "ratio":
        return str(float(value))
    if name == "big":
        return f"{value[:1]} {len(value)}"
    if name == "price":
        return f"{Decimal(value):.2f}"
    return list(value) if name == "tags" else value


def instant(value: Any) -> int:
    """Microseconds of a timestamp with zone, as text or as a number."""
    if isinstance(value, int):
        return value
    return micros(isoparse(value))


AuditRow = tuple[dict[str, Any] | None, dict[str, Any] | None, bool]


@dataclass(frozen=True)
class Transaction:
    """What the audit recorded of one transaction on one table.

    :param rows: old row, new row, whether it was a truncate.
    """

    number: int
    at: int
    rows: list[AuditRow]


def audited(connection: Any, table: str) -> list[Transaction]:
    """The audit of a table in the order of commits, as far as it matters: on one row it is exact."""
    found: dict[int, Transaction] = {}
    query = """SELECT tx::text, pg_xact_commit_timestamp(tx::xid), old_row, new_row, truncated FROM public.it_audit
        WHERE tab = %s ORDER BY 2, 1, seq"""
    for tx, at, old, new, truncated in connection.execute(query, [table.split(".")[1]]).fetchall():
        one = found.setdefault(int(tx), Transaction(int(tx), micros(at), []))
        one.rows.append((old and parsed(old), new and parsed(new), truncated))
    return list(found.values())


class Told:
    """What bronze tells of a table: which transactions were captured in which epoch, and its snapshots.

    A slot may be lost in the middle of a transaction: ``orders`` has which of its changes of the table were captured.
    """

    def __init__(self, spark: Any, bronze: str) -> None:
        rows = spark.table(f"nessie.{bronze}").selectExpr(
            "op",
            "message_key",
            "CAST(get_json_object(payload, '$.source.txId') AS bigint) AS tx",
            "CAST(get_json_object(payload, '$.source.ts_us') AS bigint) AS ts",
            "CAST(split(replace(headers['rtlake.epoch'], '\"', ''), ':')[0] AS int) AS epoch",
            "CAST(get_json_object(payload, '$.transaction.data_collection_order') AS int) AS nth",
        )
        self.captured: dict[int, int] = {}
        self.orders: dict[int, set[int]] = {}
        self.snapshots: dict[int, dict[str, int]] = {}
        for row in rows.distinct().collect():
            if row.op == "r":
                self.snapshots.setdefault(row.epoch, {})[row.message_key] = row.ts
            else:
                self.captured[row.tx] = row.epoch
                self.orders.setdefault(row.tx, set()).add(row.nth)


def split_torn(transactions: list[Transaction], told: Told) -> list[Transaction]:
    """Divide what a lost slot tore apart: what was captured of it, and what only the next snapshot shows.

    A changed key is two changes to Debezium.
    """
    found = []
    for one in transactions:
        orders = told.orders.get(one.number)
        if orders is None:
            found.append(one)
            continue
        changes = [change for row in one.rows for change in _changes(row)]
        captured = [change for nth, change in enumerate(changes, 1) if nth in orders]
        lost = [change for nth, change in enumerate(changes, 1) if nth not in orders]
        found.append(Transaction(one.number, one.at, captured))
        if lost:
            found.append(Transaction(-one.number, one.at, lost))
    return found


def _changes(row: AuditRow) -> list[AuditRow]:
    old, new, truncated = row
    if old is not None and new is not None and old["id"] != new["id"]:
        return [(old, None, truncated), (None, new, truncated)]
    return [row]


def expected(transactions: list[Transaction], told: Told) -> dict[str, list[Life]]:
    """The history that the audit demands: what nobody captured is known from the next snapshot only."""
    transactions = split_torn(transactions, told)
    oracle, rows = Oracle(), {}
    shown: dict[str, dict[str, Any]] = {}
    first = next(iter(told.snapshots), 1)
    blind = {
        epoch: [one for one in transactions if _epoch_of(one, transactions, told) == epoch] for epoch in told.snapshots
    }
    for epoch in sorted({first, *told.snapshots, *told.captured.values()}):
        for one in blind.get(epoch, ()):
            _apply(rows, one)
        after = _state(rows)
        taken = told.snapshots.get(epoch, {})
        assert after.keys() == taken.keys(), (epoch, after.keys() ^ taken.keys())
        latest = max(taken.values(), default=0)
        for key in shown.keys() | after.keys():
            before_key = {key: shown[key]} if key in shown else {}
            after_key = {key: after[key]} if key in after else {}
            oracle.committed(before_key, after_key, taken.get(key, latest))
        for one in transactions:
            if told.captured.get(one.number) == epoch:
                before = _state(rows)
                _apply(rows, one)
                oracle.committed(before, _state(rows), one.at)
        shown = _state(rows)
    return oracle.lives


def _epoch_of(one: Transaction, transactions: list[Transaction], told: Told) -> int | None:
    """The epoch whose snapshot showed a transaction first; None for a captured one."""
    if one.number in told.captured:
        return None
    for epoch in sorted(told.snapshots):
        begin = min((other.at for other in transactions if told.captured.get(other.number) == epoch), default=None)
        if begin is None or one.at < begin:
            return epoch
        end = max(other.at for other in transactions if told.captured.get(other.number) == epoch)
        if one.at < end:
            raise AssertionError(f"transaction {one.number} was lost in the middle of epoch {epoch}")
    raise AssertionError(f"transaction {one.number} was never captured")


def _apply(rows: dict[int, dict[str, Any]], one: Transaction) -> None:
    for old, new, truncated in one.rows:
        if truncated:
            rows.clear()
        if old is not None:
            rows.pop(old["uid"], None)
        if new is not None:
            rows[new["uid"]] = new


def _state(rows: dict[int, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {f'{{"id":{row["id"]}}}': row for row in rows.values()}


class History:
    """The history, merged and read by Spark."""

    def __init__(self, spark: Any, stream: Any) -> None:
        self.spark, self.stream = spark, stream
        self.request = request_for(stream, patience_seconds=600)

    def merge(self) -> None:
        """Merge what there is."""
        from airflow_provider_rtlake.scd2.job import merge_all

        merge_all(self.spark, self.request)

    def wait_for(self, key: str, limit: float = 240) -> None:
        """Merge until a key is there."""
        until = time.monotonic() + limit
        while time.monotonic() < until:
            self.merge()
            try:
                rows = self.spark.sql(f"SELECT 1 FROM nessie.{self.request.history} WHERE scd2_key = '{key}'").collect()
            except Exception as error:
                if "TABLE_OR_VIEW_NOT_FOUND" not in str(error):
                    raise
                rows = []
            if rows:
                return
        raise AssertionError(f"{self.request.history}: {key} has not come after {limit:.0f} s")

    def versions(self) -> dict[str, list[dict[str, Any]]]:
        """Rows by key and start, with plain values."""
        frame = self.spark.table(f"nessie.{self.request.history}")
        shown = [f"`{name}`" for name in frame.columns if name not in ("at", "day")]
        rows = frame.selectExpr(*shown, "unix_micros(at) AS at", "CAST(day AS string) AS day").collect()
        found: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            found.setdefault(row.scd2_key, []).append(row.asDict())
        return {key: sorted(group, key=lambda row: row["effective_start_ts"]) for key, group in found.items()}


def differences(history: History, lives: dict[str, list[Life]]) -> list[str]:
    """How the history differs from what the audit demands."""
    found = history.versions()
    wrong = []
    for key in sorted(found.keys() | lives.keys()):
        ours = [_facts(row, life) for row, life in zip(found.get(key, []), lives.get(key, []), strict=False)]
        theirs = [(life.start, life.end, life.deleted, life.values) for life in lives.get(key, [])]
        if len(found.get(key, [])) != len(theirs) or ours != theirs:
            wrong.append(f"{key}: history {ours} of {len(found.get(key, []))}, audit {theirs}")
    return wrong


def _facts(row: dict[str, Any], life: Life) -> tuple[Any, ...]:
    end = row["effective_end_ts"]
    values = {name: plain(name, row.get(name)) for name in life.values}
    return micros(row["effective_start_ts"]), end and micros(end), row["is_deleted"], values


def _write(access: Access, stretch: int, share: float = 1.0) -> list[Writer]:
    writers = [Writer(access, number, SEED + stretch, int(TRANSACTIONS * share)) for number in range(WRITERS)]
    for writer in writers:
        writer.stretch = stretch
        writer.start()
    return writers


def _done(writers: list[Writer]) -> int:
    for writer in writers:
        writer.join()
        if writer.error is not None:
            raise writer.error
    return sum(writer.committed for writer in writers)


def _kill(stack: Stack, service: str) -> None:
    pid = supervisor_of(stack.home, stack.supervisor).pid(service)
    assert pid, f"{service} does not run"
    root = psutil.Process(pid)
    for process in [*root.children(recursive=True), root]:
        process.send_signal(signal.SIGKILL)


def _lose_slot(stack: Stack, access: Access, declared: Declared) -> None:
    """The connector is stopped and its slot dropped."""
    connector = next(iter(declared.streams.values())).connector
    url = stack.connection("rtlake_kafka_connect").url
    httpx.put(f"{url}/connectors/{connector.connector}/stop", timeout=30).raise_for_status()
    with access.source() as connection:
        for _ in range(600):
            active = connection.execute(
                "SELECT active FROM pg_replication_slots WHERE slot_name = %s", [connector.slot_name]
            ).fetchone()
            if not active or not active[0]:
                break
            connection.execute("SELECT pg_sleep(0.1)")
        connection.execute("SELECT pg_drop_replication_slot(%s)", [connector.slot_name])


@pytest.fixture
def audit(access: Access) -> Iterator[None]:
    """The audit's table and functions."""
    with access.source() as connection:
        connection.execute(AUDIT)
    yield
    with access.source() as connection:
        connection.execute("DROP TABLE public.it_audit")
        connection.execute("DROP FUNCTION public.it_audit_row CASCADE")
        connection.execute("DROP FUNCTION public.it_audit_truncate CASCADE")


@pytest.mark.usefixtures("audit")
def test_property_19_the_history_tells_what_the_audit_of_the_source_tells(
    declare: Callable[..., Declared], access: Access, stack: Stack, spark: Any
) -> None:
    with access.source() as connection:
        for table, ddl in TABLES.items():
            name = table.split(".")[1]
            connection.execute(f"DROP TABLE IF EXISTS {table}")
            connection.execute(ddl.replace("{table}", table))
            connection.execute(
                f"CREATE TRIGGER r AFTER INSERT OR UPDATE OR DELETE ON {name} FOR EACH ROW "
                "EXECUTE FUNCTION it_audit_row()"
            )
            connection.execute(
                f"CREATE TRIGGER t AFTER TRUNCATE ON {name} FOR EACH STATEMENT EXECUTE FUNCTION it_audit_truncate()"
            )
    options = {"realtime": False}
    writers = _write(access, 1)
    declared = declare(
        dict.fromkeys(TABLES, "SELECT 1"),
        options={FULL: options, PLAIN: {**options, "replica_identity": "keep"}},
        deploy=False,
    )
    declared.run("connectors", "apply", *declared.where)  # the snapshot is taken while writers run
    declared.run("stream", "apply", "--lane", "bronze", "--lane", "transactions", *declared.where)
    committed = _done(writers)
    histories = {table: History(spark, declared.streams[table]) for table in TABLES}
    for history in histories.values():
        history.merge()
    writers = _write(access, 2)
    with access.source() as connection:
        for table in TABLES:
            connection.execute(f"ALTER TABLE {table} ADD COLUMN extra int, ALTER COLUMN n TYPE bigint")
            connection.execute(f"ALTER TABLE {table} DROP COLUMN u")
    _kill(stack, "connect")
    committed += _done(writers)
    health.wait_all(stack, 180, ["connect"])
    _check(access, histories, 2, committed)
    writers = _write(access, 3, 0.5)
    _lose_slot(stack, access, declared)
    committed += _done(writers)
    writers = _write(access, 4, 0.5)
    declared.run("connectors", "apply", *declared.where)
    committed += _done(writers)
    _check(access, histories, 4, committed)
    _erase(access, declared, histories[FULL])


def _erase(access: Access, declared: Declared, history: History) -> None:
    """Property 21 by the command: the row's lives are gone, also from its topic; the others are as they were."""
    gone, mark = '{"id":1004}', '{"id":2000}'
    refused = declared.run("scd2", "erase", FULL, "--key", gone, "--yes", *declared.where, ok=False)
    assert "is at the source" in refused
    with access.source() as connection:
        connection.execute(f"DELETE FROM {FULL} WHERE id = 1004")
        connection.execute(f"INSERT INTO {FULL} (id, uid, flag) VALUES (2000, -2000, true)")
    history.wait_for(mark)
    before = _shown(history)
    report = json.loads(declared.run("scd2", "erase", FULL, "--key", gone, "--yes", "--json", *declared.where))
    assert report["ok"], report["remains"]
    assert report["offsets"]
    after = _shown(history)
    assert gone in before
    assert {key: rows for key, rows in before.items() if key != gone} == after
    history.merge()
    assert _shown(history) == after


def _shown(history: History) -> dict[str, str]:
    """Versions as text: NaN differs from itself."""
    return {key: repr(rows) for key, rows in history.versions().items()}


def _check(access: Access, histories: dict[str, History], stretch: int, committed: int) -> None:
    with access.source() as connection:
        for table in histories:
            connection.execute(
                f"INSERT INTO {table} (id, uid, flag, a) VALUES (%s, %s, true, 'mark')", [1000 + stretch, -stretch]
            )
    for table, history in histories.items():
        history.wait_for(f'{{"id":{1000 + stretch}}}')
        with access.source() as connection:
            transactions = audited(connection, table)
            columns = "id, uid, a, n, price, flag, big"
            rows = connection.execute(f"SELECT {columns} FROM {table}").fetchall()
        current = [row[-1] for row in history.versions().values() if row[-1]["is_current"]]
        names = columns.split(", ")
        assert sorted(tuple(row[name] for name in names) for row in current) == sorted(rows), f"seed {SEED}: {table}"
        lives = expected(transactions, Told(history.spark, history.stream.bronze_table))
        wrong = differences(history, lives)
        versions = sum(map(len, lives.values()))
        print(
            f"{table}: {committed} transactions, {len(transactions)} of them on it, {versions} versions equal the audit"
        )
        assert not wrong, f"seed {SEED}: {table}: {len(wrong)} keys differ: {[one[:900] for one in wrong[:3]]}"
