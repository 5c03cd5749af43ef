"""What operators that work through Trino share: one query at a time, cancelled on kill."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseOperator

from airflow_provider_rtlake.checks.names import TableName, literal, quoted
from airflow_provider_rtlake.exceptions import NotFound, RequestRefused, ServiceUnavailable

if TYPE_CHECKING:
    from airflow.providers.trino.hooks.trino import TrinoHook

# Trino's names of errors that say that something does not exist.
_MISSING = frozenset({"TABLE_NOT_FOUND", "SCHEMA_NOT_FOUND", "CATALOG_NOT_FOUND"})


class TrinoOperator(BaseOperator):
    """Base of operators that work through Trino.

    :param trino_conn_id: connection id (templated).
    """

    template_fields: Sequence[str] = ("trino_conn_id",)

    def __init__(self, *, trino_conn_id: str = "rtlake_trino", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.trino_conn_id = trino_conn_id
        self._cursor: Any = None

    @cached_property
    def hook(self) -> TrinoHook:
        """The official hook."""
        # Not at the top: DAG files that name an operator need not wait for Trino's client.
        from airflow.providers.trino.hooks.trino import TrinoHook

        return TrinoHook(trino_conn_id=self.trino_conn_id)  # type: ignore[no-untyped-call]

    def on_kill(self) -> None:
        """Cancel the running query."""
        if self._cursor is not None:
            self.log.info("cancelling query %s", self._cursor.query_id)
            self._cursor.cancel()

    def query(self, sql: str, *, session: Mapping[str, str] | None = None) -> list[list[Any]]:
        """Rows of a statement.

        :param sql: one statement.
        :param session: session properties for it, ``catalog.property`` or ``property``.
        :raises NotFound: it names a table, schema or catalog that does not exist.
        :raises RequestRefused: Trino finds other fault with it.
        :raises ServiceUnavailable: anything else kept Trino from answering.
        """
        from trino.exceptions import Error as TrinoError
        from trino.exceptions import TrinoUserError

        self.log.info("%s", sql)
        with closing(self.hook.get_conn()) as connection:
            self._cursor = connection.cursor()
            try:
                for name, value in (session or {}).items():
                    property_ = ".".join(quoted(part) for part in name.split("."))
                    self._cursor.execute(f"SET SESSION {property_} = {literal(value)}")
                    self._cursor.fetchall()
                self._cursor.execute(sql)
                rows = [list(row) for row in self._cursor.fetchall()]
                self.log.info("query %s: %s rows", self._cursor.query_id, len(rows))
                return rows
            except TrinoUserError as error:
                kind = NotFound if error.error_name in _MISSING else RequestRefused
                raise kind("Trino", f"{error.error_name}: {error.message}\n{sql}") from error
            except (TrinoError, OSError) as error:
                raise ServiceUnavailable("Trino", str(error)) from error
            finally:
                self._cursor = None

    def columns(self, table: TableName) -> dict[str, str]:
        """Column → type of a table.

        :param table: which.
        :raises NotFound: Trino shows no such table.
        """
        found = {str(name): str(type_) for name, type_ in self.query(table.columns_sql())}
        if not found:
            raise NotFound("Trino", f"there is no table {table}; is it made, and does the catalog name it so?")
        return found
