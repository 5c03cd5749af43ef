"""Run in the node: Superset, asked as its pages do; the last line printed is the answer."""

from __future__ import annotations

import json
from typing import Any

import httpx

from airflow_provider_rtlake.kit.stack import Stack

_KEPT = "kept"


class Superset:
    """Its API, as its administrator uses it."""

    def __init__(self) -> None:
        self.stack = Stack.load()
        self.client = httpx.Client(base_url=f"{self.stack.service('superset').url}/api/v1/", timeout=120)
        login = {"username": "admin", "password": self.stack.secret("superset_admin"), "provider": "db"}
        self.client.headers["Authorization"] = f"Bearer {self.ask('POST', 'security/login', login)['access_token']}"

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """One request.

        :raises AssertionError: an error was answered; it is in the message.
        """
        answer = self.client.request(method, path, json=body)
        assert answer.status_code < 300, f"{path}: {answer.status_code} {answer.text[:2000]}"
        return answer.json()

    def change(self, path: str, body: Any) -> Any:
        """A request that needs what guards pages against others."""
        token = self.ask("GET", "security/csrf_token/")["result"]
        self.client.headers.update({"X-CSRFToken": token, "Referer": str(self.client.base_url)})
        return self.ask("POST", path, body)


def query(params: dict[str, Any]) -> dict[str, Any]:
    """A chart's question.

    :param params: as the chart was saved.
    """
    filters = [one["sqlExpression"] for one in params["adhoc_filters"]]
    return {
        "columns": params.get("groupby", []),
        "metrics": params.get("metrics") or [params["metric"]],
        "extras": {"where": " AND ".join(f"({one})" for one in filters)},
        "row_limit": params["row_limit"],
    }


def show() -> None:
    """What every chart shows, by its name, and which dashboards there are."""
    superset = Superset()
    shown = {}
    for found in superset.ask("GET", "chart/")["result"]:
        chart = superset.ask("GET", f"chart/{found['id']}")["result"]
        source = {"id": found["datasource_id"], "type": "table"}
        body = {"datasource": source, "queries": [query(json.loads(chart["params"]))]}
        (answer,) = superset.ask("POST", "chart/data", body)["result"]
        shown[chart["slice_name"]] = answer["data"]
    dashboards = sorted(one["dashboard_title"] for one in superset.ask("GET", "dashboard/")["result"])
    print(json.dumps({"dashboards": dashboards, "charts": shown}))


def keep() -> None:
    """Store another way to Pinot, one with a password, which Superset encrypts."""
    superset = Superset()
    (pinot,) = [one["id"] for one in superset.ask("GET", "database/")["result"] if one["database_name"] == "Pinot"]
    url = superset.ask("GET", f"database/{pinot}/connection")["result"]["sqlalchemy_uri"]
    superset.change("database/", {"database_name": _KEPT, "sqlalchemy_uri": url.replace("://", "://me:secret-word@")})


def ask_kept() -> None:
    """The number of current sales, asked that way."""
    superset = Superset()
    (kept,) = [one["id"] for one in superset.ask("GET", "database/")["result"] if one["database_name"] == _KEPT]
    sql = "SELECT COUNT(*) AS sales FROM sales_current_3 WHERE is_deleted = false"
    (row,) = superset.change("sqllab/execute/", {"database_id": kept, "sql": sql})["data"]
    print(*row.values())
