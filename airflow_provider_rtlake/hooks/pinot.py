"""Airflow's connection to a Pinot cluster."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from airflow.providers.common.compat.sdk import BaseHook

from airflow_provider_rtlake.clients.pinot import PinotBroker, PinotController, QueryResult
from airflow_provider_rtlake.exceptions import NotFound, UserError

DEFAULT_PORT = 9000


class PinotControllerHook(BaseHook):
    """A Pinot controller over its REST API, and SQL on a broker of the same cluster.

    The connection's host, port and ``schema`` (``http`` or ``https``) name the controller, login and password
    are sent as HTTP basic authentication. Of the extra, ``broker_url``, ``bootstrap_servers`` (Kafka as the
    Pinot servers reach it) and ``verify`` (a CA bundle's path, or false) are read.

    :param pinot_conn_id: connection id.
    :param timeout: seconds for one request.
    """

    conn_name_attr = "pinot_conn_id"
    default_conn_name = "rtlake_pinot"
    conn_type = "pinot_controller"
    hook_name = "Pinot controller"

    def __init__(self, pinot_conn_id: str = default_conn_name, *, timeout: float = 30.0) -> None:
        super().__init__()
        self.pinot_conn_id = pinot_conn_id
        self.timeout = timeout

    def _client_arguments(self) -> dict[str, Any]:
        connection = self.get_connection(self.pinot_conn_id)
        verify = connection.extra_dejson.get("verify")
        return {
            "auth": (connection.login, connection.password or "") if connection.login else None,
            "timeout": self.timeout,
            "verify": verify if isinstance(verify, (bool, str)) and verify != "" else True,
        }

    def get_conn(self) -> PinotController:
        """A client of the controller; close it, or use :attr:`controller`."""
        return PinotController.connect(self.controller_url, **self._client_arguments())

    @cached_property
    def controller_url(self) -> str:
        """The controller's base URL."""
        connection = self.get_connection(self.pinot_conn_id)
        scheme = connection.schema or "http"
        return f"{scheme}://{connection.host}:{connection.port or DEFAULT_PORT}"

    @cached_property
    def controller(self) -> PinotController:
        """The hook's own client of the controller."""
        return self.get_conn()

    @cached_property
    def broker(self) -> PinotBroker:
        """The hook's own client of the broker.

        :raises UserError: the connection names none.
        """
        url = self.get_connection(self.pinot_conn_id).extra_dejson.get("broker_url")
        if not url:
            raise UserError(
                f"connection {self.pinot_conn_id}: extra has no broker_url; add it, such as http://localhost:8099"
            )
        return PinotBroker.connect(str(url), **self._client_arguments())

    def close(self) -> None:
        """Close the hook's own clients, where they were used; they are made anew when needed again."""
        for name in ("controller", "broker"):
            client = self.__dict__.pop(name, None)
            if client is not None:
                client.close()

    def __enter__(self) -> PinotControllerHook:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def bootstrap_servers(self) -> str | None:
        """Kafka as the Pinot servers reach it, where the connection says so."""
        found = self.get_connection(self.pinot_conn_id).extra_dejson.get("bootstrap_servers")
        return str(found) if found else None

    def query(
        self,
        sql: str,
        *,
        options: Mapping[str, str | int | bool] | None = None,
        timeout: float | None = None,
    ) -> QueryResult:
        """Run a query on the broker.

        :param sql: Pinot SQL.
        :param options: query options.
        :param timeout: seconds.
        """
        return self.broker.query(sql, options=options, timeout=timeout)

    def unhealthy(self, tables: Mapping[str, int | None]) -> dict[str, str]:
        """Tables whose ingestion is not healthy, with the reason.

        :param tables: name → partitions that must be consumed, or None for those that there are.
        :raises NotFound: a table does not exist.
        """
        result = {}
        for name, partitions in tables.items():
            ingestion = self.controller.ingestion(name)
            if not ingestion.healthy(partitions):
                result[name] = ingestion.reason()
        return result

    def lag_seconds(self, table: str, time_column: str, where: str | None = None) -> float | None:
        """Age of the newest row, in seconds; None where there is no row.

        :param table: table.
        :param time_column: column of milliseconds since 1970.
        :param where: which rows count.
        :raises NotFound: the table does not exist.
        """
        if self.controller.table(table) is None:
            raise NotFound("Pinot controller", f"there is no table {table}", status=404)
        condition = f" where {where}" if where else ""
        rows = self.query(f'select count(*), max("{time_column}") from "{table}"{condition}').rows  # noqa: S608
        if not rows or not rows[0][0]:
            return None
        return max(0.0, time.time() - float(rows[0][1]) / 1000)

    def test_connection(self) -> tuple[bool, str]:
        """Ask the controller for its health and version."""
        try:
            healthy, version = self.controller.health(), self.controller.version
        except Exception as error:
            return False, str(error)
        return healthy, f"Pinot {version.major}.{version.minor}"

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, Any]:
        """What the connection form shows."""
        return {
            "hidden_fields": [],
            "relabeling": {"schema": "http or https"},
            "placeholders": {
                "port": str(DEFAULT_PORT),
                "schema": "http",
                "extra": '{"broker_url": "http://localhost:8099"}',
            },
        }
