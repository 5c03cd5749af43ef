"""Links from a task to Pinot's own pages."""

from __future__ import annotations

from typing import Any

from airflow.providers.common.compat.sdk import BaseOperatorLink, Context, XCom


class PinotTableLink(BaseOperatorLink):
    """Opens the table's page in the controller's console."""

    name = "Pinot table"
    key = "pinot_table_link"

    @property
    def xcom_key(self) -> str:
        """Where the link is stored."""
        return self.key

    @classmethod
    def persist(cls, context: Context, controller_url: str, table: str) -> None:
        """Store the link of a running task.

        :param context: the task's context.
        :param controller_url: the controller's base URL.
        :param table: table; without one the link opens the list.
        """
        page = f"#/tenants/table/{table}_REALTIME" if table else "#/tables"
        context["ti"].xcom_push(key=cls.key, value=f"{controller_url}/{page}")

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """The stored link.

        :param operator: the operator.
        :param ti_key: the task instance's key.
        """
        return str(XCom.get_value(key=self.key, ti_key=ti_key) or "")
