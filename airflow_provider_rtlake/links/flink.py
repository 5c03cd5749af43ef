"""Links from a task to Flink's dashboard."""

from __future__ import annotations

from typing import Any

from airflow.providers.common.compat.sdk import BaseOperatorLink, Context, XCom


class FlinkJobLink(BaseOperatorLink):
    """Opens the job's page in Flink's dashboard."""

    name = "Flink job"
    key = "flink_job_link"

    @property
    def xcom_key(self) -> str:
        """Where the link is stored."""
        return self.key

    @classmethod
    def persist(cls, context: Context, url: str) -> None:
        """Store the link of a running task.

        :param context: the task's context.
        :param url: of the job's page.
        """
        context["ti"].xcom_push(key=cls.key, value=url)

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """The stored link.

        :param operator: the operator.
        :param ti_key: the task instance's key.
        """
        return str(XCom.get_value(key=self.key, ti_key=ti_key) or "")
