"""The SCD Type 2 merge as a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator
from airflow.providers.common.compat.sdk import Context

from airflow_provider_rtlake.exceptions import UserError
from airflow_provider_rtlake.operators.errors import no_retry_of_terminal_errors
from airflow_provider_rtlake.scd2.request import MergeRequest, request_for
from airflow_provider_rtlake.scd2.serve import Asking, default_socket
from airflow_provider_rtlake.scd2.submit import (
    APPLICATION,
    SPARK_SETTINGS,
    Desk,
    JobDied,
    environment,
    raise_errors,
)
from airflow_provider_rtlake.streams.model import Stream

Mode = Literal["submit", "warm"]


class IcebergScd2MergeOperator(SparkSubmitOperator):
    """Merge what is new in a table's bronze into its history: on a Nessie branch, checked there, published at once.

    A second run without anything new changes nothing. A batch that breaks a rule of the history fails the task for
    good, with rule and keys; its branch stays for inspection. The object store's keys come from Spark's environment.

    :param stream: the declared table; it keeps a history.
    :param conn_id: Spark connection id (templated).
    :param settings: further fields of the request, such as ``patience_seconds`` or ``max_rows`` (templated).
    :param driver_memory: of the Spark driver; by default as Spark's settings say.
    :param mode: ``submit`` starts a Spark job by spark-submit; ``warm`` asks the merge server (``rtlake scd2 serve``),
        which has its session already (templated).
    :param socket: the merge server's socket; by default that of the stack in RTLAKE_HOME (templated).
    :return: ``changed``, ``changes``, ``position``, ``waiting``, ``seconds`` and the statistics of each merge.
    """

    template_fields: Sequence[str] = (*SparkSubmitOperator.template_fields, "conn_id", "settings", "mode", "socket")

    def __init__(
        self,
        *,
        stream: Stream,
        conn_id: str = "rtlake_spark",
        settings: Mapping[str, Any] | None = None,
        driver_memory: str | None = None,
        mode: Mode = "submit",
        socket: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(application=APPLICATION, conn_id=conn_id, driver_memory=driver_memory, durable=False, **kwargs)
        self.stream = stream
        self.conn_id = conn_id
        self.settings = settings
        self.mode = mode
        self.socket = socket
        self._asking: Asking | None = None

    def execute(self, context: Context) -> Any:
        """Merge, and wait for it.

        :param context: the task's context.
        :raises AirflowFailException: the merge was refused, or cannot succeed without a person.
        """
        with no_retry_of_terminal_errors():
            request = request_for(self.stream, **dict(self.settings or {}))
            if self.mode not in ("submit", "warm"):
                raise UserError(f"mode {self.mode!r}: choose submit or warm")
            result = self._ask(request) if self.mode == "warm" else self._submit_job(request, context)
        self.log.info("%s", {name: value for name, value in result.items() if name != "merges"})
        return result

    def on_kill(self) -> None:
        """Stop the merge: nothing of it is published, and the next one starts clean."""
        if self._asking is not None:
            self._asking.take_back()
        else:
            super().on_kill()

    def _ask(self, request: MergeRequest) -> dict[str, Any]:
        self._asking = Asking(Path(self.socket) if self.socket else default_socket())
        results = self._asking.results([request])
        raise_errors(results)
        return results[0]

    def _submit_job(self, request: MergeRequest, context: Context) -> dict[str, Any]:
        self._conn_id = self.conn_id
        with TemporaryDirectory(prefix="rtlake-scd2-") as folder:
            desk = Desk(Path(folder))
            self.name = f"scd2 {request.history}"
            self.application_args = desk.arguments([request])
            self.conf = {**SPARK_SETTINGS, **(self.conf or {})}
            self.env_vars = {**environment(), **(self.env_vars or {})}
            try:
                super().execute(context)
            except Exception:
                self._explain(desk)
                raise
            return desk.outcome()[0]

    @staticmethod
    def _explain(desk: Desk) -> None:
        """The job's own account of its failure, where it left one, says more than an exit code."""
        try:
            desk.outcome()
        except JobDied:
            return
