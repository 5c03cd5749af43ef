"""A few words with a running Airflow's REST API: trigger a DAG, wait for it, say why it failed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

from airflow_provider_rtlake.clients.rest import RestClient
from airflow_provider_rtlake.exceptions import CheckFailed, WaitTimeout

_SERVICE = "Airflow"
_POLL = 1.0  # seconds between two looks at a run
_LOG_LINES = 25  # of a failed task, shown in the error
_API = "/api/v2"

Watch = Callable[[str, str], None]  # DAG and what it does now


class Airflow:
    """The REST API of one Airflow.

    :param url: of its api-server.
    :param user: login.
    :param password: of that login.
    """

    def __init__(self, url: str, user: str, password: str) -> None:
        with RestClient(_SERVICE, url) as login:
            token = login.post("/auth/token", json={"username": user, "password": password})["access_token"]
        self._rest = RestClient(_SERVICE, url, headers={"Authorization": f"Bearer {token}"})

    @property
    def rest(self) -> RestClient:
        """The client, logged in, for what has no method here."""
        return self._rest

    def close(self) -> None:
        """Close the connections."""
        self._rest.close()

    def dags(self, prefix: str) -> list[str]:
        """Ids of the DAGs whose name begins so, in order.

        :param prefix: first part of the id.
        """
        found = self._rest.get(f"{_API}/dags", params={"dag_id_pattern": f"{prefix}%", "limit": 500})
        return sorted(dag["dag_id"] for dag in found["dags"] if dag["dag_id"].startswith(prefix))

    def wait_for_dag(self, dag: str, limit: float = 120.0) -> None:
        """Wait until Airflow has read a DAG.

        :raises WaitTimeout: it did not; the message holds the import errors.
        """
        deadline = time.monotonic() + limit
        while dag not in self.dags(dag):
            if time.monotonic() > deadline:
                errors = self._rest.get(f"{_API}/importErrors")["import_errors"]
                shown = "\n".join(f"{one['filename']}: {one['stack_trace']}" for one in errors)
                raise WaitTimeout(f"Airflow has no DAG {dag} after {limit:.0f} s\n{shown}".rstrip())
            time.sleep(_POLL)

    def unpause(self, dag: str) -> None:
        """Let a DAG run, also on its schedule."""
        self._set_paused(dag, False)

    def pause(self, dag: str) -> None:
        """Let a DAG begin no further run."""
        self._set_paused(dag, True)

    @contextmanager
    def quiet(self, dags: Sequence[str]) -> Iterator[None]:
        """Let DAGs run only where :meth:`run` says so; their schedules go on at the end, also after an error.

        :param dags: their ids.
        """
        for dag in dags:
            self.pause(dag)
        try:
            yield
        finally:
            for dag in dags:
                self.unpause(dag)

    @contextmanager
    def unpaused(self, dags: Sequence[str]) -> Iterator[None]:
        """Let DAGs run, also on their schedules; those that were paused are paused again at the end.

        :param dags: their ids.
        """
        were = self.paused()
        for dag in dags:
            self.unpause(dag)
        try:
            yield
        finally:
            for dag in dags:
                if were.get(dag):
                    self.pause(dag)

    def paused(self) -> dict[str, bool]:
        """Whether each DAG is paused."""
        return {
            dag["dag_id"]: dag["is_paused"] for dag in self._rest.get(f"{_API}/dags", params={"limit": 500})["dags"]
        }

    def _set_paused(self, dag: str, paused: bool) -> None:
        self._rest.request("PATCH", f"{_API}/dags/{_part(dag)}", json={"is_paused": paused})

    def trigger(self, dag: str, conf: dict[str, Any] | None = None) -> str:
        """Start a run now.

        :param dag: its id.
        :param conf: parameters of the run.
        :returns: the run's id.
        """
        body = {"logical_date": None, "conf": conf or {}}
        return str(self._rest.post(f"{_API}/dags/{_part(dag)}/dagRuns", json=body)["dag_run_id"])

    def wait(self, runs: dict[str, str], *, limit: float, watch: Watch | None = None) -> None:
        """Wait for runs to succeed.

        :param runs: DAG id → run id.
        :param limit: seconds for all of them.
        :param watch: told when a run's state or its running tasks change.
        :raises CheckFailed: one failed; the message holds the end of the failed tasks' logs.
        :raises WaitTimeout: they did not end in time.
        """
        deadline, told, left = time.monotonic() + limit, dict[str, str](), dict(runs)
        while left:
            for dag, run in list(left.items()):
                state = self._rest.get(self._run(dag, run))["state"]
                if state == "failed":
                    raise CheckFailed(f"{dag} failed (run {run})\n{self._why(dag, run)}".rstrip())
                if state == "success":
                    del left[dag]
                now = state if state != "running" else f"running {', '.join(self._running(dag, run))}".rstrip()
                if watch and told.get(dag) != now:
                    told[dag] = now
                    watch(dag, now)
            if left and time.monotonic() > deadline:
                raise WaitTimeout(f"{', '.join(left)}: not done after {limit:.0f} s (run {', '.join(left.values())})")
            if left:
                time.sleep(_POLL)

    def run(
        self,
        dags: Sequence[str],
        *,
        limit: float,
        conf: dict[str, Any] | None = None,
        watch: Watch | None = None,
    ) -> None:
        """Trigger DAGs side by side and wait for them; see :meth:`wait`. A paused one is paused again after it."""
        runs = {dag: self.trigger(dag, conf) for dag in dags}
        with self.unpaused(dags):  # not before: what their schedules have in store for them comes after these runs
            self.wait(runs, limit=limit, watch=watch)

    @staticmethod
    def _run(dag: str, run: str) -> str:
        return f"{_API}/dags/{_part(dag)}/dagRuns/{_part(run)}"

    def dag_run(self, dag: str, run: str) -> dict[str, Any]:
        """A run, as the API tells it.

        :param dag: its id.
        :param run: the run's id.
        """
        return dict(self._rest.get(self._run(dag, run)))

    def tasks(self, dag: str, run: str) -> list[dict[str, Any]]:
        """The task instances of a run, as the API tells them.

        :param dag: its id.
        :param run: the run's id.
        """
        found = self._rest.get(f"{self._run(dag, run)}/taskInstances", params={"limit": 500})
        return list(found["task_instances"])

    def _running(self, dag: str, run: str) -> list[str]:
        busy = ("running", "deferred", "up_for_retry")
        return sorted(task["task_id"] for task in self.tasks(dag, run) if task["state"] in busy)

    def _why(self, dag: str, run: str) -> str:
        parts = []
        for task in self.tasks(dag, run):
            if task["state"] == "failed":
                log = self._rest.get(
                    f"{self._run(dag, run)}/taskInstances/{_part(task['task_id'])}/logs/{task['try_number']}",
                    params={"full_content": "true", "map_index": task.get("map_index", -1)},
                )
                parts.append(f"task {task['task_id']}:\n{_tail(log)}")
        return "\n".join(parts)


def _part(text: str) -> str:
    return quote(text, safe="")


def _tail(log: Any) -> str:
    content = log.get("content", "") if isinstance(log, dict) else log
    if isinstance(content, list):
        lines = [line for one in content for line in (_lines(one) if isinstance(one, dict) else [str(one)])]
    else:
        lines = str(content).splitlines()
    return "\n".join(f"    {line}" for line in lines[-_LOG_LINES:])


def _lines(entry: dict[str, Any]) -> list[str]:
    """A log entry, with the error that it tells of: what went wrong last, then its causes."""
    errors = [f"{error.get('exc_type')}: {error.get('exc_value')}" for error in entry.get("error_detail") or []]
    return [str(entry.get("event", entry)), *errors]
