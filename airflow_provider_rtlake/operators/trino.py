"""Checks of data through Trino: equal across catalogs, fresh, and a history that obeys its rules.

Each pushes what it found to XCom; a failed one names rules and keys in its message. A query still running
when the task is killed is cancelled. An empty table never passes unless that is allowed.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from airflow.providers.common.compat.sdk import AirflowSkipException, Context

from airflow_provider_rtlake.checks.names import TableName, quoted
from airflow_provider_rtlake.checks.reconcile import Comparison, Side, count_sql, reconcile
from airflow_provider_rtlake.checks.scd2 import COLUMNS, PROVENANCE, Verdict, invariants_sql
from airflow_provider_rtlake.checks.source import (
    KEY,
    Instant,
    Pair,
    differences,
    history_sql,
    key_columns,
    pair,
    position_sql,
    present_names,
    remote_columns_sql,
    source_sql,
)
from airflow_provider_rtlake.checks.unread import describe_unread, unread_sql
from airflow_provider_rtlake.exceptions import CheckFailed, NotFound
from airflow_provider_rtlake.operators.errors import no_retry_of_terminal_errors
from airflow_provider_rtlake.operators.trino_base import TrinoOperator

_PATIENCE = timedelta(hours=1)  # that the first merge may take


class _TrinoCheckOperator(TrinoOperator):
    """What all checks share.

    :param samples: at most so many keys of each kind are shown.
    :param fed_from: ``catalog.schema.table`` of the changes that the checked table is made from. Where that does not
        exist, the task is skipped while these are not there either, or younger than an hour; else it fails.
    """

    ui_color = "#dfe3f5"
    checked = "table"  # the attribute that names the table which is checked

    def __init__(self, *, samples: int = 10, fed_from: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.samples = samples
        self.fed_from = fed_from

    def execute(self, context: Context) -> dict[str, Any]:
        """Check; the result goes to XCom.

        :param context: the task's context.
        """
        with no_retry_of_terminal_errors():
            try:
                result = self._checked()
            except CheckFailed as failure:
                context["ti"].xcom_push(key="failure", value=str(failure))
                raise
        self.log.info("%s", result)
        return result

    def _checked(self) -> dict[str, Any]:
        """Check; a table that is not there yet is right as long as there is nothing to make it from."""
        try:
            return self.check()
        except NotFound as error:
            table = TableName.parse(getattr(self, self.checked))
            if self.fed_from is None or self._exists(table):
                raise
            waiting = self._waiting(TableName.parse(self.fed_from))
            if waiting:
                raise CheckFailed(
                    f"there is no table {table}, though {self.fed_from} holds {waiting} changes that came more than "
                    f"{_PATIENCE} ago: does the merge fail, or not run?"
                ) from error
            raise AirflowSkipException(str(error)) from error

    def _exists(self, table: TableName) -> bool:
        try:
            return bool(self.columns(table))
        except NotFound:
            return False

    def _waiting(self, changes: TableName) -> int:
        old = f"kafka_ts < current_timestamp - INTERVAL '{_PATIENCE.total_seconds():.0f}' SECOND"
        try:
            return int(self.query(f"SELECT count(*) FROM {changes.sql} WHERE {old}")[0][0])  # noqa: S608
        except NotFound:
            return 0

    def check(self) -> dict[str, Any]:
        """Ask Trino, judge the answer.

        :raises CheckFailed: something is wrong.
        """
        raise NotImplementedError


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
    checked = "left"

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


class TrinoScd2UnreadCheckOperator(_TrinoCheckOperator):
    """No row of bronze waits that the merge could not understand.

    Such rows stop no merge: they are written to a table beside the history, from which they are deleted by hand once
    they are settled. Without that table there were none.

    :param table: ``catalog.schema.table`` of these rows, ``<history>_unread`` (templated).
    :param samples: at most so many are shown.
    :param trino_conn_id: connection id (templated).
    :return: ``unread`` (none).
    """

    template_fields = ("trino_conn_id", "table")

    def __init__(self, *, table: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.table = table

    def check(self) -> dict[str, Any]:
        """Look for rows.

        :raises CheckFailed: there are some.
        """
        table = TableName.parse(self.table)
        try:
            rows = self.query(unread_sql(table, self.samples))
        except NotFound:
            rows = []
        if rows:
            raise CheckFailed(describe_unread(table, rows))
        return {"unread": 0}


class TrinoScd2SourceCheckOperator(_TrinoCheckOperator):
    """A history's current state equals its source at one position of the log, also while the source changes.

    The source's rows, with the snapshot that they are of, are read in one statement. Then the state that
    the history
    had in that snapshot is compared; where it differs and the merges have not got so far yet, the next one
    is awaited.

    :param history: ``catalog.schema.table`` (templated).
    :param checkpoint: the history's table of positions, likewise (templated).
    :param schema: the source table's schema as PostgreSQL spells it (templated).
    :param table: the source table as PostgreSQL spells it (templated).
    :param source_catalog: Trino's name of the source database (templated).
    :param exclude: columns that the declaration leaves out (templated).
    :param renamed_from: new column name → old one, as declared (templated).
    :param timeout: how long to wait for the merges, a ``timedelta`` or seconds.
    :param poll_seconds: seconds between two looks at the position.
    :param require_all: fail where a column cannot be compared.
    :param allow_empty: pass where both are empty.
    :param samples: at most so many keys of each kind are shown.
    :param trino_conn_id: connection id (templated).
    :return: ``rows``, ``snapshot``, ``lsn``, ``position``, ``compared``, ``not_compared``, ``equal``.
    """

    template_fields = (
        "trino_conn_id",
        "history",
        "checkpoint",
        "schema",
        "table",
        "source_catalog",
        "exclude",
        "renamed_from",
    )
    checked = "history"

    def __init__(
        self,
        *,
        history: str,
        checkpoint: str,
        schema: str,
        table: str,
        source_catalog: str = "postgresql",
        exclude: Sequence[str] = (),
        renamed_from: Mapping[str, str] | None = None,
        timeout: timedelta | float = timedelta(minutes=15),
        poll_seconds: float = 5.0,
        require_all: bool = False,
        allow_empty: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.history = history
        self.checkpoint = checkpoint
        self.schema = schema
        self.table = table
        self.source_catalog = source_catalog
        self.exclude = exclude
        self.renamed_from = dict(renamed_from or {})
        self.timeout = timeout
        self.poll_seconds = poll_seconds
        self.require_all = require_all
        self.allow_empty = allow_empty

    def check(self) -> dict[str, Any]:
        """Compare, and wait for the merges where need be.

        :raises CheckFailed: they differ, or the merges did not get there in time, or both are empty.
        """
        history = TableName.parse(self.history)
        columns = self._pair(history)
        if columns is None:
            return self._nothing(history)
        source, instant, snapshot = self._source(columns)
        lines, position = self._settle(history, columns, source, instant)
        if lines:
            reached = "" if position and instant.passed(position) else f", and the merges only got to {position or 0}"
            raise CheckFailed(
                f"{history} and {self.schema}.{self.table} are not equal at log position {instant.lsn}"
                f"{reached}:\n" + "\n".join(lines)
            )
        if not source:
            return self._nothing(history)
        return {
            "rows": len(source),
            "snapshot": snapshot,
            "lsn": instant.lsn,
            "position": position,
            "compared": sorted(columns.source),
            "not_compared": columns.not_compared,
            "equal": True,
        }

    def _nothing(self, history: TableName) -> dict[str, Any]:
        if not self.allow_empty:
            raise CheckFailed(f"{history} and {self.schema}.{self.table} are both empty; allow_empty=True accepts that")
        return {"rows": 0, "equal": True}

    def _pair(self, history: TableName) -> Pair | None:
        """What can be compared; None where both sides are empty."""
        # A current version's, if there is one: a history may hold keys of other columns, which a new snapshot closed.
        sample = self.query(f"SELECT {KEY} FROM {history.sql} WHERE is_current LIMIT 1")  # noqa: S608
        sample = sample or self.query(f"SELECT {KEY} FROM {history.sql} LIMIT 1")  # noqa: S608
        place = TableName(self.source_catalog, self.schema, self.table)
        try:
            source = self.columns(place)
        except NotFound as error:
            raise CheckFailed(
                f"{place}, the source of {history}, does not exist: dropped or renamed? Declare the table that is "
                "there now, or take it out of the declaration"
            ) from error
        if not sample:
            rows = self.query(f"SELECT count(*) FROM {place.sql}")[0][0]  # noqa: S608
            if rows:
                raise CheckFailed(f"{history} is empty, {place} has {rows} rows")
            return None
        types = self.columns(history)
        own = [name for name in types if name in COLUMNS or name.startswith(PROVENANCE)]
        left_out = {name.lower() for name in self.exclude}
        captured = {name: type_ for name, type_ in source.items() if name not in left_out}
        renamed = {new.lower(): old.lower() for new, old in self.renamed_from.items()}
        keys = present_names([name.lower() for name in key_columns(str(sample[0][0]))], captured, renamed)
        columns = pair(types, captured, keys, own)
        if columns.not_compared:
            text = "; ".join(f"{name}: {why}" for name, why in columns.not_compared.items())
            if self.require_all:
                raise CheckFailed(f"{history} and {place} cannot be compared in full: {text}")
            self.log.warning("columns not compared: %s", text)
        return columns

    def _source(self, columns: Pair) -> tuple[dict[str, str], Instant, str]:
        place = (self.source_catalog, self.schema, self.table)
        remote = {str(name): bool(is_array) for name, is_array in self.query(remote_columns_sql(*place))}
        rows = self.query(source_sql(*place, columns, remote))
        snapshot, lsn = str(rows[0][1]), int(rows[0][2])
        found = {str(key): str(value) for present, _, _, key, value in rows if present}
        return found, Instant.parse(snapshot, lsn), snapshot

    def _settle(
        self, history: TableName, columns: Pair, source: dict[str, str], instant: Instant
    ) -> tuple[list[str], str]:
        """Compare after each merge until equal, or the history is past the snapshot, or time is up."""
        limit = self.timeout.total_seconds() if isinstance(self.timeout, timedelta) else float(self.timeout)
        deadline = time.monotonic() + limit
        lines, position, seen = ["nothing is merged yet"], "", None
        while True:
            newest = self.query(position_sql(TableName.parse(self.checkpoint)))
            if newest and newest[0][0] and newest[0] != seen:
                seen = newest[0]
                position = str(seen[0])
                current = self.query(history_sql(history, columns, instant))
                lines = differences({str(key): str(value) for key, value in current}, source, self.samples)
                if not lines or instant.passed(position):
                    return lines, position
                self.log.info("not equal yet at %s: %s", position, "; ".join(lines))
            if time.monotonic() >= deadline:
                return lines, position
            time.sleep(self.poll_seconds)
