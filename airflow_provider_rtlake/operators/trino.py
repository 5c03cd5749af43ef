"""Checks of data through Trino: equal across catalogs, fresh, and a history that obeys its rules.

Each pushes what it found to XCom; a failed one names rules and keys in its message. A query still running
when the task is killed is cancelled. An empty table never passes unless that is allowed.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from datetime import timedelta
from functools import cached_property
from typing import Any

from airflow.providers.common.compat.sdk import BaseOperator, Context
from airflow.providers.trino.hooks.trino import TrinoHook
from trino.exceptions import Error as TrinoError
from trino.exceptions import TrinoUserError

from airflow_provider_rtlake.checks.names import TableName, quoted
from airflow_provider_rtlake.checks.reconcile import Comparison, Side, count_sql, reconcile
from airflow_provider_rtlake.checks.scd2 import COLUMNS, PROVENANCE, Verdict, invariants_sql
from airflow_provider_rtlake.exceptions import CheckFailed, RequestRefused, ServiceUnavailable, UserError
from airflow_provider_rtlake.operators.errors import no_retry_of_terminal_errors


class _TrinoCheckOperator(BaseOperator):
    """What all checks share: one query at a time, cancelled on kill.

    :param trino_conn_id: connection id (templated).
    :param samples: at most so many keys of each kind are shown.
    """

    template_fields: Sequence[str] = ("trino_conn_id",)
    ui_color = "#dfe3f5"

    def __init__(self, *, trino_conn_id: str = "rtlake_trino", samples: int = 10, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.trino_conn_id = trino_conn_id
        self.samples = samples
        self._cursor: Any = None

    @cached_property
    def hook(self) -> TrinoHook:
        """The official hook."""
        return TrinoHook(trino_conn_id=self.trino_conn_id)  # type: ignore[no-untyped-call]

    def execute(self, context: Context) -> dict[str, Any]:
        """Check; the result goes to XCom.

        :param context: the task's context.
        """
        with no_retry_of_terminal_errors():
            try:
                result = self.check()
            except CheckFailed as failure:
                context["ti"].xcom_push(key="failure", value=str(failure))
                raise
        self.log.info("%s", result)
        return result

    def check(self) -> dict[str, Any]:
        """Ask Trino, judge the answer.

        :raises CheckFailed: something is wrong.
        """
        raise NotImplementedError

    def on_kill(self) -> None:
        """Cancel the running query."""
        if self._cursor is not None:
            self.log.info("cancelling query %s", self._cursor.query_id)
            self._cursor.cancel()

    def query(self, sql: str) -> list[list[Any]]:
        """Rows of a query.

        :param sql: one statement.
        :raises RequestRefused: Trino finds fault with the statement or with what it names.
        :raises ServiceUnavailable: anything else kept Trino from answering.
        """
        self.log.info("%s", sql)
        with closing(self.hook.get_conn()) as connection:
            self._cursor = connection.cursor()
            try:
                self._cursor.execute(sql)
                return [list(row) for row in self._cursor.fetchall()]
            except TrinoUserError as error:
                raise RequestRefused("Trino", f"{error.error_name}: {error.message}\n{sql}") from error
            except (TrinoError, OSError) as error:
                raise ServiceUnavailable("Trino", str(error)) from error
            finally:
                self._cursor = None

    def columns(self, table: TableName) -> dict[str, str]:
        """Column → type of a table.

        :param table: which.
        :raises UserError: Trino shows no such table.
        """
        found = {str(name): str(type_) for name, type_ in self.query(table.columns_sql())}
        if not found:
            raise UserError(f"Trino shows no table {table}; is it made, and does the catalog name it so?")
        return found


class TrinoReconcileCheckOperator(_TrinoCheckOperator):
    """Two tables, perhaps of two catalogs, hold the same rows.

    With keys, every row is compared by key and column, and the result says which columns; without, only the
    numbers of rows are.

    :param left: ``catalog.schema.table`` (templated).
    :param right: likewise (templated).
    :param keys: columns that identify a row; none compares the numbers of rows only (templated).
    :param columns_to_compare: by default all columns that both tables have (templated).
    :param ignore: columns that only one of them is meant to have; a history's own always are (templated).
    :param left_where: SQL condition on the left rows, such as ``is_current`` (templated).
    :param right_where: SQL condition on the right rows (templated).
    :param require_all: fail where a column cannot be compared.
    :param allow_empty: pass where both are empty.
    :param samples: at most so many keys of each kind are shown.
    :param trino_conn_id: connection id (templated).
    :return: ``left_rows``, ``right_rows``, ``compared``, ``not_compared`` (column and reason), ``equal``.
    """

    template_fields = (
        "trino_conn_id",
        "left",
        "right",
        "keys",
        "columns_to_compare",
        "ignore",
        "left_where",
        "right_where",
    )

    def __init__(
        self,
        *,
        left: str,
        right: str,
        keys: Sequence[str] = (),
        columns_to_compare: Sequence[str] | None = None,
        ignore: Sequence[str] = (),
        left_where: str | None = None,
        right_where: str | None = None,
        require_all: bool = False,
        allow_empty: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.left = left
        self.right = right
        self.keys = keys
        self.columns_to_compare = columns_to_compare
        self.ignore = ignore
        self.left_where = left_where
        self.right_where = right_where
        self.require_all = require_all
        self.allow_empty = allow_empty

    def check(self) -> dict[str, Any]:
        """Compare.

        :raises CheckFailed: they differ, or are empty.
        """
        sides = [
            Side(name, self.columns(name), where)
            for name, where in (
                (TableName.parse(self.left), self.left_where),
                (TableName.parse(self.right), self.right_where),
            )
        ]
        return self._rows(*sides) if self.keys else self._counts(*sides)

    def _counts(self, left: Side, right: Side) -> dict[str, Any]:
        numbers = [int(self.query(count_sql(side))[0][0]) for side in (left, right)]
        if numbers[0] != numbers[1]:
            raise CheckFailed(f"{left.table} has {numbers[0]} rows, {right.table} has {numbers[1]}")
        self._not_empty(numbers[0], left, right)
        return {"left_rows": numbers[0], "right_rows": numbers[1], "compared": [], "equal": True}

    def _rows(self, left: Side, right: Side) -> dict[str, Any]:
        own = [name for name in left.types if name in COLUMNS or name.startswith(PROVENANCE)]
        plan = reconcile(
            left,
            right,
            [key.lower() for key in self.keys],
            columns=self.columns_to_compare,
            ignored=[*self.ignore, *own],
            samples=self.samples,
        )
        if plan.not_compared:
            text = "; ".join(f"{name}: {why}" for name, why in plan.not_compared.items())
            if self.require_all:
                raise CheckFailed(f"{left.table} and {right.table} cannot be compared in full: {text}")
            self.log.warning("columns not compared: %s", text)
        found = Comparison.of(self.query(plan.sql))
        if found.wrong:
            lines = found.describe(left.table, right.table)
            raise CheckFailed(
                f"{left.table} ({found.left} rows) and {right.table} ({found.right} rows) are not equal:\n"
                + "\n".join(lines)
            )
        self._not_empty(found.left, left, right)
        return {
            "left_rows": found.left,
            "right_rows": found.right,
            "compared": list(plan.compared),
            "not_compared": plan.not_compared,
            "equal": True,
        }

    def _not_empty(self, rows: int, left: Side, right: Side) -> None:
        if not rows and not self.allow_empty:
            raise CheckFailed(f"{left.table} and {right.table} are both empty; allow_empty=True accepts that")


class TrinoFreshnessCheckOperator(_TrinoCheckOperator):
    """The newest row of a table is young enough: against now, or against the newest row of its source.

    :param table: ``catalog.schema.table`` (templated).
    :param column: a timestamp column (templated).
    :param max_age: largest age allowed, a ``timedelta`` or seconds.
    :param where: SQL condition on the rows (templated).
    :param reference: a table that feeds this one: the age is then how far this one is behind it, so a quiet
        source makes no table stale (templated).
    :param reference_column: its timestamp column (templated).
    :param allow_empty: pass where the table is empty.
    :param trino_conn_id: connection id (templated).
    :return: ``newest``, ``age_seconds``, ``rows``.
    """

    template_fields = ("trino_conn_id", "table", "column", "where", "reference", "reference_column")

    def __init__(
        self,
        *,
        table: str,
        column: str,
        max_age: timedelta | float,
        where: str | None = None,
        reference: str | None = None,
        reference_column: str | None = None,
        allow_empty: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.table = table
        self.column = column
        self.max_age = max_age
        self.where = where
        self.reference = reference
        self.reference_column = reference_column
        self.allow_empty = allow_empty

    def check(self) -> dict[str, Any]:
        """Measure the age.

        :raises CheckFailed: it is too old, or empty.
        """
        limit = self.max_age.total_seconds() if isinstance(self.max_age, timedelta) else float(self.max_age)
        table = TableName.parse(self.table)
        newest = f"max(CAST({quoted(self.column)} AS timestamp(6) with time zone))"
        upto = "current_timestamp"
        if self.reference:
            source = TableName.parse(self.reference)
            column = quoted(self.reference_column or self.column)
            upto = f"(SELECT max(CAST({column} AS timestamp(6) with time zone)) FROM {source.sql})"  # noqa: S608
        condition = f" WHERE {self.where}" if self.where else ""
        sql = (
            f"SELECT CAST(n AS varchar), date_diff('millisecond', n, {upto}), r FROM "  # noqa: S608
            f"(SELECT {newest} AS n, count(*) AS r FROM {table.sql}{condition})"
        )
        shown, millis, rows = self.query(sql)[0]
        if not rows:
            if self.allow_empty:
                return {"newest": None, "age_seconds": None, "rows": 0}
            raise CheckFailed(f"{table} is empty; allow_empty=True accepts that where it is meant")
        age = None if millis is None else max(0.0, millis / 1000)
        if shown is None or (age is not None and age > limit):
            behind = f"the newest of {self.reference}" if self.reference else "now"
            raise CheckFailed(
                f"{table}: the newest {self.column} is {shown}, {age} s behind {behind}; allowed: {limit} s"
            )
        return {"newest": shown, "age_seconds": age, "rows": int(rows)}


class TrinoScd2InvariantsCheckOperator(_TrinoCheckOperator):
    """A history obeys its rules: one current version a key, no overlap, nothing empty, no gap but by delete.

    :param table: the history, ``catalog.schema.table`` (templated).
    :param keys: columns that identify a source row (templated).
    :param where: SQL condition on the keys to check; by default all (templated).
    :param allow_empty: pass where the history is empty.
    :param samples: at most so many versions of each broken rule are shown.
    :param trino_conn_id: connection id (templated).
    :return: ``versions``, ``keys``, ``broken``.
    """

    template_fields = ("trino_conn_id", "table", "keys", "where")

    def __init__(
        self,
        *,
        table: str,
        keys: Sequence[str],
        where: str | None = None,
        allow_empty: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.table = table
        self.keys = keys
        self.where = where
        self.allow_empty = allow_empty

    def check(self) -> dict[str, Any]:
        """Look for versions that break a rule.

        :raises CheckFailed: there are some, or the history is empty.
        """
        table = TableName.parse(self.table)
        keys = [key.lower() for key in self.keys]
        sql = invariants_sql(table, keys, self.columns(table), where=self.where, samples=self.samples)
        verdict = Verdict.of(self.query(sql))
        if verdict.broken:
            raise CheckFailed(f"{table} breaks rules of a history:\n" + "\n".join(verdict.describe()))
        if not verdict.versions and not self.allow_empty:
            raise CheckFailed(f"{table} is empty; allow_empty=True accepts that where it is meant")
        return {"versions": verdict.versions, "keys": verdict.keys, "broken": {}}
