"""The checks, on real tables in Trino and PostgreSQL: right data passes, each kind of wrong data is named."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSkipException
from airflow.sdk import Connection

from airflow_provider_rtlake.demo.access import Access
from airflow_provider_rtlake.kit.stack import Stack
from airflow_provider_rtlake.operators.trino import (
    TrinoFreshnessCheckOperator,
    TrinoReconcileCheckOperator,
    TrinoScd2InvariantsCheckOperator,
    TrinoScd2SourceCheckOperator,
)
from airflow_provider_rtlake.operators.trino_base import TrinoOperator

pytestmark = pytest.mark.integration

SCHEMA = "checks_tests"
# Source column → (PostgreSQL type, the type that a history keeps, a value in PostgreSQL, the same in Trino).
COLUMNS = {
    "Id": ("int PRIMARY KEY", "integer", "1", "1"),
    "select": ("text", "varchar", "'x''y'", "'x''y'"),
    "n": ("numeric", "varchar", "1.50", "'1.50'"),
    "n38": ("numeric(38,18)", "decimal(38,18)", "0.000000000000000001", "DECIMAL '0.000000000000000001'"),
    "n10": ("numeric(10,2)", "decimal(12,2)", "9.90", "DECIMAL '9.90'"),
    "ts": ("timestamp", "timestamp(6)", "'2024-01-01 10:00:00.123456'", "TIMESTAMP '2024-01-01 10:00:00.123456'"),
    "tz": (
        "timestamptz",
        "timestamp(6) with time zone",
        "'2024-01-01 10:00:00.5+02'",
        "TIMESTAMP '2024-01-01 08:00:00.500000 UTC'",
    ),
    "d": ("date", "date", "'2024-02-29'", "DATE '2024-02-29'"),
    "t": ("time", "varchar", "'12:30'", "'12:30:00'"),
    "j": ("jsonb", "varchar", """'{"b": 1, "a": [1]}'""", """'{"a": [1], "b": 1}'"""),
    "u": (
        "uuid",
        "varchar",
        "'00000000-0000-0000-0000-00000000000a'",
        "'00000000-0000-0000-0000-00000000000a'",
    ),
    "b": ("bytea", "varbinary", r"'\x00ff'", "X'00FF'"),
    "bo": ("boolean", "boolean", "true", "true"),
    "a": ("int[]", "array(integer)", "'{1,NULL,3}'", "ARRAY[1,NULL,3]"),
    "ch": ("char(5)", "varchar", "'ab'", "'ab   '"),
    "f8": ("float8", "double", "0.1", "DOUBLE '0.1'"),
    "f4": ("float4", "real", "0.1", "REAL '0.1'"),
    "si": ("smallint", "integer", "7", "7"),
    "ip": ("inet", "varchar", "'10.0.0.1'", "'10.0.0.1'"),
}
TS = "TIMESTAMP '{} UTC'"


class Tables:
    """A source table, and a history of it that the test writes by hand."""

    def __init__(self, access: Access, pg: psycopg.Connection[Any]) -> None:
        self.access, self.pg = access, pg
        tag = uuid.uuid4().hex[:8]
        self.table = f'Checks "{tag}"'  # upper case, space and quotes
        self.source = f'postgresql.public."Checks ""{tag}"""'
        self.history = f"nessie.{SCHEMA}.h_{tag}"
        self.checkpoint = f"nessie.{SCHEMA}.c_{tag}"
        columns = ", ".join(f'"{name}" {types[0]}' for name, types in COLUMNS.items())
        self.sql(f"CREATE TABLE public.{self.quoted} ({columns})")
        self.sql(f"GRANT SELECT ON public.{self.quoted} TO PUBLIC")
        access.trino(f"CREATE SCHEMA IF NOT EXISTS nessie.{SCHEMA}")
        kept = ", ".join(f'"{name}" {types[1]}' for name, types in COLUMNS.items())
        access.trino(
            f"CREATE TABLE {self.history} ({kept}, effective_start_ts timestamp(6) with time zone, "
            "effective_end_ts timestamp(6) with time zone, is_current boolean, is_deleted boolean, "
            "record_hash varchar, scd2_key varchar, scd2_opened_tx bigint, scd2_closed_tx bigint)"
        )
        access.trino(
            f"CREATE TABLE {self.checkpoint} (merge_id varchar, merged_at timestamp(6) with time zone, "
            "position varchar)"
        )

    @property
    def quoted(self) -> str:
        return '"' + self.table.replace('"', '""') + '"'

    def sql(self, statement: str) -> Any:
        return self.pg.execute(statement.encode())

    def source_row(self, key: int, **values: str) -> int:
        """Insert a row; returns the transaction's number."""
        row = {name: types[2] for name, types in COLUMNS.items()} | {"Id": str(key)} | values
        found = self.sql(
            f"INSERT INTO public.{self.quoted} VALUES ({', '.join(row.values())}) "
            "RETURNING pg_current_xact_id()::text::bigint"
        ).fetchone()
        return int(found[0])

    def version(
        self,
        key: int,
        start: str = "2024-01-01 00:00:00",
        end: str | None = None,
        *,
        current: bool | None = None,
        deleted: bool = False,
        opened: int = 1,
        closed: int | None = None,
        **values: str,
    ) -> None:
        row = {name: types[3] for name, types in COLUMNS.items()} | {"Id": str(key)} | values
        current = end is None if current is None else current
        own = [
            TS.format(start),
            TS.format(end) if end else "NULL",
            str(current).lower(),
            str(deleted).lower(),
            "'h'",
            f"""'{{"Id": {key}}}'""",
            str(opened),
            "NULL" if closed is None else str(closed),
        ]
        self.access.trino(f"INSERT INTO {self.history} VALUES ({', '.join([*row.values(), *own])})")

    def merged(self, commit: int) -> None:
        """Store a position: every transaction up to this place of the log is in the history."""
        self.access.trino(
            f"INSERT INTO {self.checkpoint} VALUES ('{uuid.uuid4()}', current_timestamp, "
            f"'000001-1-{commit:020d}-{commit:020d}')"
        )

    def drop(self) -> None:
        self.sql(f"DROP TABLE IF EXISTS public.{self.quoted}")
        for table in (self.history, self.checkpoint):
            self.access.trino(f"DROP TABLE IF EXISTS {table}")


@pytest.fixture
def tables(access: Access, pg: psycopg.Connection[Any], trino_connection: None) -> Iterator[Tables]:
    found = Tables(access, pg)
    yield found
    found.drop()


@pytest.fixture
def trino_connection(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Airflow's connection, as the kit makes it."""
    given = stack.connection("rtlake_trino")
    connection = Connection(
        conn_id="rtlake_trino",
        conn_type="trino",
        host=given.host,
        port=given.port,
        login=given.login or "rtlake",
        extra='{"catalog": "nessie"}',
    )
    monkeypatch.setattr("airflow.providers.trino.hooks.trino.TrinoHook.get_connection", lambda *_: connection)


def run(operator: TrinoOperator) -> tuple[Any, dict[str, str]]:
    pushed: dict[str, str] = {}
    context: Any = {"ti": SimpleNamespace(xcom_push=lambda key, value: pushed.update({key: value}))}
    return operator.execute(context), pushed


def failure(operator: TrinoOperator) -> str:
    with pytest.raises(AirflowFailException) as caught:
        run(operator)
    return str(caught.value)


def reconcile(tables: Tables, **kwargs: Any) -> TrinoReconcileCheckOperator:
    kwargs.setdefault("keys", ["Id"])
    return TrinoReconcileCheckOperator(
        task_id="t", left=tables.history, left_where="is_current", right=tables.source, **kwargs
    )


def invariants(tables: Tables, **kwargs: Any) -> TrinoScd2InvariantsCheckOperator:
    return TrinoScd2InvariantsCheckOperator(task_id="t", table=tables.history, keys=["scd2_key"], **kwargs)


def source(tables: Tables, **kwargs: Any) -> TrinoScd2SourceCheckOperator:
    kwargs.setdefault("timeout", 2)
    return TrinoScd2SourceCheckOperator(
        task_id="t",
        history=tables.history,
        checkpoint=tables.checkpoint,
        schema="public",
        table=tables.table,
        poll_seconds=0.5,
        **kwargs,
    )


def test_equal_rows_of_every_type(tables: Tables) -> None:
    tables.source_row(1)
    nulls = dict.fromkeys(COLUMNS, "NULL") | {"Id": "2"}
    tables.source_row(2, **nulls)
    tables.version(1)
    tables.version(2, **nulls)
    result, _ = run(reconcile(tables, require_all=True))
    assert result["left_rows"] == result["right_rows"] == 2
    assert set(result["compared"]) == {name.lower() for name in COLUMNS} - {"id"}
    tables.merged(1)
    assert run(source(tables, require_all=True))[0]["rows"] == 2


def test_differences_are_named_by_key_and_column(tables: Tables) -> None:
    for key in (1, 2, 3, 4):
        tables.source_row(key)
    tables.version(1)
    tables.version(2, n10="DECIMAL '9.91'", j="'{}'")
    tables.version(3, select="''")
    tables.version(5)
    message = failure(reconcile(tables))
    assert "2 rows differ: id=2 (n10, j); id=3 (select)" in message
    assert "1 rows are not in nessie.checks_tests" in message
    assert "id=4" in message
    assert "id=5" in message


def test_a_row_twice_is_a_difference(tables: Tables) -> None:
    tables.source_row(1)
    tables.version(1)
    tables.version(1)
    assert "id=1" in failure(reconcile(tables))
    assert "has 2 rows" in failure(reconcile(tables, keys=[]))


def test_samples_are_limited(tables: Tables) -> None:
    for key in range(1, 6):
        tables.source_row(key)
    message = failure(reconcile(tables, samples=2))
    assert "5 rows are not in" in message
    assert "and 3 more" in message


def test_empty_tables_pass_only_when_allowed(tables: Tables) -> None:
    checks: list[Callable[..., TrinoOperator]] = [reconcile, invariants, source]
    for check in checks:
        assert "empty" in failure(check(tables))
        run(check(tables, allow_empty=True))
    assert "empty" in failure(TrinoFreshnessCheckOperator(task_id="t", table=tables.history, column="tz", max_age=1))


def test_a_right_history_passes(tables: Tables) -> None:
    tables.version(1, "2024-01-01 00:00:00", "2024-01-02 00:00:00", closed=2)
    tables.version(1, "2024-01-02 00:00:00", "2024-01-03 00:00:00", deleted=True, closed=3)
    tables.version(1, "2024-01-04 00:00:00")
    tables.version(2, "2024-01-01 00:00:00", "2024-01-02 00:00:00", deleted=True, closed=2)
    result, _ = run(invariants(tables))
    assert result == {"versions": 4, "keys": 2, "broken": {}}


@pytest.mark.parametrize(
    ("versions", "rule"),
    [
        ([("2024-01-02 00:00:00", "2024-01-02 00:00:00", False, True)], "ends at or before its start"),
        ([("2024-01-02 00:00:00", "2024-01-01 00:00:00", False, True)], "ends at or before its start"),
        (
            [
                ("2024-01-01 00:00:00", "2024-01-03 00:00:00", False, False),
                ("2024-01-02 00:00:00", None, True, False),
            ],
            "overlaps its successor",
        ),
        (
            [("2024-01-01 00:00:00", None, True, False), ("2024-01-02 00:00:00", None, True, False)],
            "one of several current versions",
        ),
        (
            [
                ("2024-01-01 00:00:00", "2024-01-02 00:00:00", False, False),
                ("2024-01-03 00:00:00", None, True, False),
            ],
            "followed by a gap",
        ),
        ([("2024-01-01 00:00:00", "2024-01-02 00:00:00", False, False)], "was not deleted"),
        ([("2024-01-01 00:00:00", None, False, False)], "has no end and is not current"),
        ([("2024-01-01 00:00:00", "2024-01-02 00:00:00", True, False)], "is current and has an end"),
        ([("2024-01-01 00:00:00", None, True, True)], "is current and deleted"),
    ],
)
def test_a_broken_rule_is_named_with_its_version(
    tables: Tables, versions: list[tuple[str, str | None, bool, bool]], rule: str
) -> None:
    tables.version(9)
    for start, end, current, deleted in versions:
        tables.version(1, start, end, current=current, deleted=deleted)
    operator = invariants(tables)
    message = failure(operator)
    assert rule in message
    assert '{"Id": 1}' in message
    assert '{"Id": 9}' not in message


def test_the_source_is_compared_at_its_own_instant(tables: Tables) -> None:
    first = tables.source_row(1)
    second = tables.source_row(2)
    tables.version(1, opened=first)
    tables.version(2, opened=second)
    tables.merged(1)
    result, _ = run(source(tables))
    assert result["rows"] == 2
    assert result["equal"] is True
    # What the history learnt later than the source was read is left out of account, in both directions.
    later = tables.sql("SELECT pg_current_xact_id()::text::bigint").fetchone()[0] + 1000
    tables.version(3, opened=later)
    tables.access.trino(
        f"UPDATE {tables.history} SET effective_end_ts = current_timestamp, is_current = false, "
        f"is_deleted = true, scd2_closed_tx = {later} WHERE id = 2"
    )
    assert run(source(tables))[0]["rows"] == 2


def test_a_history_that_lags_is_waited_for_and_one_that_is_wrong_is_not(tables: Tables) -> None:
    tables.version(1, opened=tables.source_row(1))
    missing = tables.source_row(2)
    tables.merged(1)
    message = failure(source(tables, timeout=1))
    assert "the merges only got to 000001-1-" in message
    assert '["2"]' in message
    far = 2**60  # a merge that says that it is past everything
    tables.merged(far)
    message = failure(source(tables, timeout=600))
    assert '["2"]' in message
    assert "only got to" not in message
    tables.version(2, opened=missing)
    assert run(source(tables))[0]["rows"] == 2


def test_an_open_transaction_is_not_seen(tables: Tables, access: Access) -> None:
    tables.version(1, opened=tables.source_row(1))
    tables.merged(1)
    with access.source() as other, other.transaction():
        row = other.execute(
            f"UPDATE public.{tables.quoted} SET si = 8 RETURNING pg_current_xact_id()::text::bigint".encode()
        ).fetchone()
        # The history has the change already, as if it had committed a moment after the source was read.
        tables.access.trino(
            f"UPDATE {tables.history} SET effective_end_ts = current_timestamp, is_current = false, "
            f"scd2_closed_tx = {row[0]}"
        )
        tables.version(1, "2030-01-01 00:00:00", opened=row[0], si="8")
        assert run(source(tables))[0]["rows"] == 1
    assert run(source(tables))[0]["rows"] == 1


def test_freshness(tables: Tables) -> None:
    tables.merged(1)
    fresh = TrinoFreshnessCheckOperator(task_id="t", table=tables.checkpoint, column="merged_at", max_age=3600)
    assert run(fresh)[0]["rows"] == 1
    fresh.max_age = 0
    assert "allowed: 0.0 s" in failure(fresh)
    tables.version(1)
    behind = TrinoFreshnessCheckOperator(
        task_id="t",
        table=tables.history,
        column="effective_start_ts",
        reference=tables.checkpoint,
        reference_column="merged_at",
        max_age=3600,
    )
    assert "behind the newest of" in failure(behind)
    behind.reference, behind.reference_column = tables.history, "effective_start_ts"
    assert run(behind)[0]["age_seconds"] == 0


def test_a_failure_is_in_xcom_too(tables: Tables) -> None:
    tables.source_row(1)
    pushed: dict[str, str] = {}
    context: Any = {"ti": SimpleNamespace(xcom_push=lambda key, value: pushed.update({key: value}))}
    with pytest.raises(AirflowFailException):
        reconcile(tables).execute(context)
    assert "id=1" in pushed["failure"]


def test_a_killed_check_cancels_its_query(tables: Tables, access: Access) -> None:
    operator = reconcile(tables)
    connection = operator.hook.get_conn()
    operator._cursor = connection.cursor()
    operator._cursor.execute("SELECT x FROM UNNEST(sequence(1, 10000)) a(x) CROSS JOIN UNNEST(sequence(1, 10000)) b(y)")
    query = operator._cursor.query_id
    operator.on_kill()
    state = access.trino(f"SELECT state, error_code FROM system.runtime.queries WHERE query_id = '{query}'")
    assert state == [["FAILED", "USER_CANCELED"]]
    connection.close()


def test_a_missing_table_is_said(tables: Tables) -> None:
    operator = TrinoScd2InvariantsCheckOperator(task_id="t", table=f"nessie.{SCHEMA}.nowhere", keys=["k"])
    assert "there is no table nessie.checks_tests.nowhere" in failure(operator)
    operator.fed_from = f"nessie.{SCHEMA}.nowhere_either"
    with pytest.raises(AirflowSkipException):
        run(operator)
