"""Doors to the stack's databases, for those who compare them. Every query has a time limit."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any
from urllib.parse import quote

import httpx
import pinotdb
import psycopg
import requests
import trino
from confluent_kafka import Consumer

from airflow_provider_rtlake.exceptions import NotFound, ServiceError, ServiceUnavailable
from airflow_provider_rtlake.kit.stack import Stack
from airflow_provider_rtlake.streams.naming import quote_identifier as quoted

TRINO_USER = "rtlake"
ICEBERG = "nessie"  # Trino's catalog of the lakehouse
_MISSING = ("TABLE_NOT_FOUND", "SCHEMA_NOT_FOUND")
_TIMEOUT = 120  # seconds for one query


def literal(text: str) -> str:
    """An SQL text literal."""
    return "'" + text.replace("'", "''") + "'"


class Access:
    """Connections to the databases of one stack.

    :param stack: the running stack.
    """

    def __init__(self, stack: Stack) -> None:
        self.stack = stack

    @contextmanager
    def source(self, connection: str = "rtlake_source", database: str | None = None) -> Iterator[Any]:
        """An autocommit connection to a source database, as its owner.

        :param connection: connection id.
        :param database: database name; by default the connection's.
        :raises ServiceUnavailable: nobody answers.
        """
        given = self.stack.connection(connection)
        try:
            conn = psycopg.connect(
                host=given.host,
                port=given.port,
                user=given.login,
                password=self.stack.password(connection),
                dbname=database or given.schema or given.extra.get("dbname"),
                autocommit=True,
                connect_timeout=10,
                application_name="rtlake",
            )
        except psycopg.OperationalError as error:
            raise ServiceUnavailable("PostgreSQL", str(error).strip()) from error
        with conn:
            yield conn

    def trino(self, query: str) -> list[list[Any]]:
        """Rows of a query in Trino.

        :raises ServiceUnavailable: nobody answers.
        :raises NotFound: there is no such table.
        :raises ServiceError: Trino refuses or fails the query; the message is its own.
        """
        given = self.stack.connection("rtlake_trino")
        conn = trino.dbapi.connect(  # type: ignore[no-untyped-call]
            host=given.host, port=given.port, user=given.login or TRINO_USER, request_timeout=_TIMEOUT
        )
        try:
            cursor = conn.cursor()
            cursor.execute(query)
            return [list(row) for row in cursor.fetchall()]
        except trino.exceptions.TrinoQueryError as error:
            kind = NotFound if error.error_name in _MISSING else ServiceError
            raise kind("Trino", f"{error.message} in {query[:400]}") from error
        except (trino.exceptions.TrinoConnectionError, requests.ConnectionError) as error:
            raise ServiceUnavailable("Trino", str(error)) from error
        finally:
            conn.close()

    def pinot(self, query: str) -> list[list[Any]]:
        """Rows of a query at the Pinot broker.

        :raises ServiceUnavailable: nobody answers.
        :raises ServiceError: Pinot refuses the query, or not every server answered.
        """
        try:
            cursor = self._pinot.cursor()
            cursor.execute(query)
            return [list(row) for row in cursor.fetchall()]
        except pinotdb.exceptions.Error as error:
            raise ServiceError("Pinot", f"{error} in {query[:400]}") from error
        except httpx.TransportError as error:
            raise ServiceUnavailable("Pinot", str(error) or type(error).__name__) from error

    @cached_property
    def _pinot(self) -> Any:
        # Kept open: a new client costs more than most queries.
        broker = httpx.URL(str(self.stack.connection("rtlake_pinot").extra["broker_url"]))
        return pinotdb.connect(
            host=broker.host,
            port=broker.port,
            path="/query/sql",
            scheme=broker.scheme,
            timeout=_TIMEOUT,
            query_options=f"timeoutMs={_TIMEOUT * 1000}",
        )

    def close(self) -> None:
        """Close what was kept open."""
        if "_pinot" in self.__dict__:
            self._pinot.close()

    def pinot_schema(self, table: str) -> dict[str, dict[str, Any]]:
        """A Pinot table's fields by name, each with ``dataType`` and ``defaultNullValue``, if one is set.

        :raises NotFound: there is no such table.
        """
        with self.stack.rest("rtlake_pinot", "Pinot") as controller:
            schema = controller.get(f"/schemas/{quote(table, safe='')}")
        if isinstance(schema, str):
            schema = json.loads(schema)
        return {
            field["name"]: {**field, "metric": kind == "metricFieldSpecs"}
            for kind in ("dimensionFieldSpecs", "metricFieldSpecs", "dateTimeFieldSpecs")
            for field in schema.get(kind, ())
        }

    def consumer(self, settings: Mapping[str, str] | None = None) -> Consumer:
        """A consumer that commits nothing and starts at the beginning.

        :param settings: further client settings.
        """
        return Consumer(
            {
                "bootstrap.servers": self.stack.kafka_bootstrap,
                "group.id": "rtlake-demo",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "enable.partition.eof": True,
                "socket.timeout.ms": 20_000,
                **(settings or {}),
            }
        )


def table_name(name: str) -> str:
    """``namespace.table`` as Trino reads it, in the lakehouse's catalog."""
    return ".".join(map(quoted, (ICEBERG, *name.split(".", 1))))


def column_list(names: Sequence[str]) -> str:
    """Quoted names, separated by commas."""
    return ", ".join(map(quoted, names))
