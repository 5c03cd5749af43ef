"""The questions that users of the lakehouse ask, the answers, and whether two systems give the same one."""

# ruff: noqa: S608 - every name in a query went through quoted()

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from psycopg import sql

from airflow_provider_rtlake.demo.access import Access, table_name
from airflow_provider_rtlake.demo.sales import identifier
from airflow_provider_rtlake.streams.model import Stream
from airflow_provider_rtlake.streams.naming import quote_identifier as quoted

_SHOWN = 12  # rows of an answer


@dataclass(frozen=True)
class Answer:
    """A question and what came back.

    :param question: in words.
    :param system: who answered.
    :param query: what was asked.
    :param columns: names of the answer's columns.
    :param rows: the answer.
    :param problem: why it is wrong; empty where it is right.
    """

    question: str
    system: str
    query: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    problem: str = ""


class Questions:
    """The questions on one sales table.

    :param access: doors to the databases.
    :param stream: a table with the columns of ``source_sales``.
    """

    def __init__(self, access: Access, stream: Stream) -> None:
        self._access = access
        self._stream = stream
        self._history = table_name(str(stream.history_table))

    def all(self) -> list[Answer]:
        """Ask everything."""
        key = self._liveliest()
        return [
            self.revenue(),
            self.audit_trail(key),
            self.versions(key),
            self.as_of(),
            self.join(),
        ]

    def _liveliest(self) -> int:
        """An id with as many versions as any: its story shows the most."""
        found = self._access.trino(f"SELECT id FROM {self._history} GROUP BY id ORDER BY count(*) DESC, id LIMIT 1")
        return int(found[0][0]) if found else 1

    def revenue(self) -> Answer:
        """Revenue by category, from the real-time table; compared with PostgreSQL."""
        query = (
            f"SELECT category, SUM(price * quantity) AS revenue, COUNT(*) AS sales"
            f" FROM {quoted(str(self._stream.pinot_current))} WHERE is_deleted = false"
            " GROUP BY category ORDER BY SUM(price * quantity) DESC LIMIT 100"
        )
        rows = self._access.pinot(query)
        problem = _compare_revenue(rows, self._source_revenue())
        columns = ("category", "revenue", "sales")
        return _answer("Revenue by category now", "Pinot", query, columns, rows, problem)

    def _source_revenue(self) -> dict[str, Decimal]:
        database = self._stream.connector.database
        query = sql.SQL("SELECT coalesce(category, 'null'), sum(price * quantity) FROM {} GROUP BY category").format(
            identifier(self._stream.source)
        )
        with self._access.source(database.connection, database.name) as conn:
            return dict(conn.execute(query).fetchall())

    def audit_trail(self, key: int) -> Answer:
        """What happened to one record, in time order, from the real-time table of changes."""
        columns = (
            "event_timestamp",
            "op_description",
            "before_price",
            "after_price",
            "after_quantity",
            "tx_id",
        )
        query = (
            f"SELECT {', '.join(columns)} FROM {quoted(str(self._stream.pinot_history))}"
            f" WHERE after_id = {key} OR before_id = {key} ORDER BY event_timestamp, position LIMIT 1000"
        )
        rows = self._access.pinot(query)
        problem = "" if rows else f"no change of id {key}"
        return _answer(f"Audit trail of id {key}", "Pinot", query, columns, rows, problem)

    def versions(self, key: int) -> Answer:
        """All versions of one id."""
        columns = ("price", "quantity", "effective_start_ts", "effective_end_ts", "is_current", "is_deleted")
        query = f"SELECT {', '.join(columns)} FROM {self._history} WHERE id = {key} ORDER BY effective_start_ts"
        rows = self._access.trino(query)
        problem = "" if rows else f"no version of id {key}"
        return _answer(f"All versions of id {key}", "Trino", query, columns, rows, problem)

    def as_of(self) -> Answer:
        """The current rows as they were before the newest publication, by time travel."""
        snapshots = self._access.trino(
            "SELECT CAST(committed_at AT TIME ZONE 'UTC' AS varchar) FROM"
            f" {_metadata(self._stream, 'snapshots')} ORDER BY committed_at DESC LIMIT 2"
        )
        moment = str(snapshots[-1][0])
        query = (
            "SELECT count(*) AS current_rows, sum(price * quantity) AS revenue"
            f" FROM {self._history} FOR TIMESTAMP AS OF TIMESTAMP '{moment}' WHERE is_current"
        )
        columns = ("current_rows", "revenue")
        return _answer(f"Current rows as of {moment}", "Trino", query, columns, self._access.trino(query))

    def join(self) -> Answer:
        """History joined with PostgreSQL: rows whose current version differs from the source. None should."""
        schema, table = self._stream.schema_name, self._stream.table_name
        source = ".".join(map(quoted, ("postgresql", schema, table)))
        columns = ("source_rows", "with_history", "different", "mean_versions")
        query = (
            "SELECT count(*) AS source_rows, count(h.id) AS with_history,"
            " count_if(h.price <> s.price OR h.quantity <> s.quantity) AS different,"
            " round(avg(h.versions), 2) AS mean_versions"
            f" FROM {source} s LEFT JOIN (SELECT id, max_by(price, effective_start_ts) AS price,"
            " max_by(quantity, effective_start_ts) AS quantity, CAST(count(*) AS double) AS versions"
            f" FROM {self._history} GROUP BY id) h ON h.id = s.id"
        )
        rows = self._access.trino(query)
        total, known, different, _ = rows[0]
        problem = "" if total == known and not different else "the history is not what the source holds"
        return _answer("History joined with PostgreSQL", "Trino", query, columns, rows, problem)


def _metadata(stream: Stream, kind: str) -> str:
    namespace, name = str(stream.history_table).split(".", 1)
    return ".".join(map(quoted, ("nessie", namespace, f"{name}${kind}")))


def _compare_revenue(rows: Sequence[Sequence[Any]], source: dict[str, Decimal]) -> str:
    served = {str(category): Decimal(str(revenue)) for category, revenue, _ in rows}
    wrong = [
        category
        for category in sorted(served.keys() | source.keys())
        if abs(served.get(category, Decimal(-1)) - source.get(category, Decimal(-1))) > Decimal("0.01")
    ]
    return f"differs from PostgreSQL in {', '.join(map(repr, wrong))}" if wrong else ""


def _answer(
    question: str,
    system: str,
    query: str,
    columns: tuple[str, ...],
    rows: Sequence[Sequence[Any]],
    problem: str = "",
) -> Answer:
    return Answer(question, system, query, columns, tuple(tuple(row) for row in rows[:_SHOWN]), problem)
