"""The erasure of a key as a task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow.providers.common.compat.sdk import AirflowFailException, BaseOperator, Context

from airflow_provider_rtlake.operators.errors import no_retry_of_terminal_errors
from airflow_provider_rtlake.streams.model import Stream


class IcebergScd2EraseOperator(BaseOperator):
    """Erase keys from a history, its bronze and its topics for good, and fail where something remains.

    The rows must be gone at the source. Run again, it goes on where it was stopped.

    :param stream: the declared table; it keeps a history.
    :param keys: keys as JSON objects (templated).
    :param source_conn_id: the source database (templated); by default the one that the declaration names.
    :param kafka_conn_id: Kafka (templated).
    :param home: RTLAKE_HOME, below which Spark is installed (templated); by default of the environment.
    :return: rows and files erased, where was searched, and what remains.
    """

    template_fields: Sequence[str] = ("keys", "source_conn_id", "kafka_conn_id", "home")

    def __init__(
        self,
        *,
        stream: Stream,
        keys: Sequence[str],
        source_conn_id: str | None = None,
        kafka_conn_id: str = "rtlake_kafka",
        home: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.stream = stream
        self.keys = keys
        self.source_conn_id = source_conn_id
        self.kafka_conn_id = kafka_conn_id
        self.home = home

    def execute(self, context: Context) -> dict[str, Any]:
        """Erase, and search.

        :param context: the task's context.
        :raises AirflowFailException: a row is at the source still, or something remains.
        """
        import os
        from pathlib import Path

        from airflow_provider_rtlake.hooks.kafka import kafka_client
        from airflow_provider_rtlake.hooks.sources import source_access
        from airflow_provider_rtlake.scd2.erasure import Places, erase_everywhere

        with no_retry_of_terminal_errors():
            places = Places(
                stream=self.stream,
                kafka=kafka_client(self.kafka_conn_id),
                source=source_access(self.source_conn_id or self.stream.connector.database.connection),
                home=Path(self.home or os.environ["RTLAKE_HOME"]),
            )
            report = erase_everywhere(places, list(self.keys))
        for place, what in report["remains"].items():
            self.log.error("remains: %s: %s", place, what)
        if report["remains"]:
            raise AirflowFailException(f"erased, but something remains: {'; '.join(report['remains'])}")
        return report
