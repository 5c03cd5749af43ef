"""Airflow's connection to Flink."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from airflow.providers.common.compat.sdk import BaseHook

from airflow_provider_rtlake.clients.flink import FlinkClient
from airflow_provider_rtlake.flink_sql.settings import LaneSettings
from airflow_provider_rtlake.hooks.kafka import kafka_client
from airflow_provider_rtlake.hooks.nessie import NessieHook
from airflow_provider_rtlake.lanes.lanes import LaneRunner

DEFAULT_PORT = 8081


class FlinkHook(BaseHook):
    """A Flink session cluster and its SQL gateway.

    The connection's host, port and ``schema`` (``http`` or ``https``) name the JobManager's REST endpoint, login and
    password are those of a proxy in front of it. Of the extra, ``gateway_url`` (the SQL gateway), ``web_url`` (the
    dashboard, where people reach it elsewhere), ``verify`` (a CA bundle, or false) and the lanes' tuning
    (``bronze_interval_ms``, ``realtime_interval_ms``, ``parallelism``) are read.

    :param flink_conn_id: connection id.
    :param timeout: seconds for one request.
    """

    conn_name_attr = "flink_conn_id"
    default_conn_name = "rtlake_flink"
    conn_type = "flink"
    hook_name = "Apache Flink"

    def __init__(self, flink_conn_id: str = default_conn_name, *, timeout: float = 30.0) -> None:
        super().__init__()
        self.flink_conn_id = flink_conn_id
        self.timeout = timeout

    @cached_property
    def extra(self) -> dict[str, Any]:
        """The connection's extra."""
        found: dict[str, Any] = self.get_connection(self.flink_conn_id).extra_dejson
        return found

    @cached_property
    def url(self) -> str:
        """The JobManager's REST endpoint."""
        connection = self.get_connection(self.flink_conn_id)
        return f"{connection.schema or 'http'}://{connection.host}:{connection.port or DEFAULT_PORT}"

    def get_conn(self) -> FlinkClient:
        """A client of the connection's cluster; close it, or use :attr:`client`."""
        connection = self.get_connection(self.flink_conn_id)
        gateway, verify = self.extra.get("gateway_url"), self.extra.get("verify")
        return FlinkClient(
            self.url,
            str(gateway) if gateway else None,
            auth=(connection.login, connection.password or "") if connection.login else None,
            timeout=self.timeout,
            verify=verify if isinstance(verify, (bool, str)) and verify != "" else True,
        )

    @cached_property
    def client(self) -> FlinkClient:
        """The hook's own client."""
        return self.get_conn()

    def job_url(self, job_id: str) -> str:
        """A job's page in Flink's dashboard.

        :param job_id: of the job.
        """
        return f"{str(self.extra.get('web_url') or self.url).rstrip('/')}/#/job/running/{job_id}/overview"

    def lane_settings(
        self,
        *,
        kafka_conn_id: str = "rtlake_kafka",
        nessie_conn_id: str = NessieHook.default_conn_name,
        s3_conn_id: str = "rtlake_s3",
    ) -> LaneSettings:
        """The lanes' settings from the connections. Keys and passwords of them stay where they are.

        :param kafka_conn_id: connection id of the brokers.
        :param nessie_conn_id: connection id of the catalog.
        :param s3_conn_id: connection id of the object store.
        """
        nessie = self.get_connection(nessie_conn_id)
        s3 = self.get_connection(s3_conn_id).extra_dejson
        path = str(nessie.extra_dejson.get("api_path") or "/api/v2").strip("/")
        return LaneSettings(
            bootstrap=kafka_client(kafka_conn_id).bootstrap_servers,
            nessie_uri=f"{nessie.schema or 'http'}://{nessie.host}:{nessie.port}/{path}",
            s3_endpoint=str(s3.get("endpoint_url") or f"https://s3.{s3.get('region_name', 'us-east-1')}.amazonaws.com"),
            region=str(s3.get("region_name") or "us-east-1"),
            warehouse=str(nessie.extra_dejson.get("warehouse") or LaneSettings.warehouse),
        ).tuned(self.extra)

    def lane_runner(self, settings: LaneSettings, *, kafka_conn_id: str = "rtlake_kafka") -> LaneRunner:
        """What applies lanes.

        :param settings: of the lanes.
        :param kafka_conn_id: connection id of the brokers.
        """
        return LaneRunner(self.client, settings, kafka_client(kafka_conn_id))

    def test_connection(self) -> tuple[bool, str]:
        """Ask the cluster for its overview, and the gateway for its version."""
        try:
            overview = self.client.overview()
            slots = f"{overview['slots-available']} of {overview['slots-total']} slots free"
            message = f"Flink {overview['flink-version']}, {slots}"
            if self.extra.get("gateway_url"):
                message += f"; SQL gateway {self.client.gateway_info()['version']}"
        except Exception as error:
            return False, str(error)
        return True, message
