"""Kafka Connect's REST API."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from airflow_provider_rtlake.clients.rest import RestClient
from airflow_provider_rtlake.exceptions import (
    Conflict,
    ConnectorConfigInvalid,
    ConnectorFailed,
    NotFound,
    RequestRefused,
    ServiceError,
    ServiceUnavailable,
    WaitTimeout,
)

SERVICE = "Kafka Connect"
_REBALANCE_SECONDS = 60.0  # that a request waits for a rebalance to end
_POLL_SECONDS = 0.3
_SETTLE_SECONDS = 10.0  # that a restart may take to show in the status
_TRACE_LINES = 12  # of a failed task, in an error; the whole trace is in the status


@dataclass(frozen=True)
class TaskStatus:
    """One task.

    :param id: its number.
    :param state: RUNNING, PAUSED, STOPPED, FAILED, UNASSIGNED, RESTARTING or DESTROYED.
    :param worker: where it runs.
    :param trace: the error of a FAILED one.
    """

    id: int
    state: str
    worker: str
    trace: str = ""


@dataclass(frozen=True)
class ConnectorStatus:
    """A connector and its tasks, as Connect last heard of them.

    :param name: of the connector.
    :param state: as of a task.
    :param worker: where it runs.
    :param trace: the error of a FAILED one.
    :param tasks: its tasks.
    """

    name: str
    state: str
    worker: str
    trace: str = ""
    tasks: tuple[TaskStatus, ...] = ()

    @property
    def running(self) -> bool:
        """Whether the connector and every one of its tasks run."""
        return self.state == "RUNNING" and bool(self.tasks) and all(task.state == "RUNNING" for task in self.tasks)

    @property
    def failed(self) -> bool:
        """Whether the connector or any of its tasks has failed."""
        return self.state == "FAILED" or any(task.state == "FAILED" for task in self.tasks)

    @property
    def failure(self) -> str:
        """The errors of what has failed, shortened."""
        traces = [self.trace] if self.state == "FAILED" else []
        traces += [f"task {task.id}: {task.trace}" for task in self.tasks if task.state == "FAILED"]
        return "\n".join(shorten(trace) for trace in traces)

    @property
    def summary(self) -> str:
        """State of the connector and of its tasks in a few words."""
        tasks = ", ".join(f"task {task.id} {task.state}" for task in self.tasks) or "no task"
        return f"{self.state}, {tasks}"


def shorten(trace: str) -> str:
    """The lines of a Java trace that say why: messages and causes, without the calls.

    :param trace: the whole of it.
    """
    lines = [
        line.strip() for line in trace.splitlines() if line.strip() and not line.lstrip().startswith(("at ", "..."))
    ]
    return "\n".join(lines[:_TRACE_LINES])


class KafkaConnectClient:
    """Connect's REST API, for one cluster of workers.

    :param base_url: scheme, host and port of any worker.
    :param auth: user and password, or None.
    :param timeout: seconds for one request. Connect itself gives up after 90.
    :param attempts: how often a request is tried when no answer comes.
    :param verify: False, True or a CA bundle's path.
    """

    def __init__(
        self,
        base_url: str,
        *,
        auth: tuple[str, str] | None = None,
        timeout: float = 95.0,
        attempts: int = 5,
        verify: bool | str = True,
    ) -> None:
        self.rest = RestClient(SERVICE, base_url, auth=auth, timeout=timeout, attempts=attempts, verify=verify)

    def __enter__(self) -> KafkaConnectClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self.rest.close()

    def version(self) -> str:
        """The worker's version of Kafka."""
        return str(self.rest.get("/")["version"])

    def plugins(self) -> list[dict[str, str]]:
        """Connector plugins that the worker has: ``class``, ``type`` and ``version``."""
        return list(self.rest.get("/connector-plugins"))

    def connectors(self) -> list[str]:
        """Names of all connectors, sorted."""
        return sorted(self._patiently("GET", "/connectors"))

    def config(self, name: str) -> dict[str, str] | None:
        """A connector's configuration; None where there is no such connector.

        :param name: of the connector.
        """
        try:
            return dict(self._patiently("GET", f"{_path(name)}/config"))
        except NotFound:
            return None

    def create(self, name: str, config: Mapping[str, str], *, stopped: bool = False) -> dict[str, Any]:
        """Make a connector. Where the answer to it was lost and it is there with this configuration, that is success.

        :param name: of the connector.
        :param config: its configuration.
        :param stopped: make it without starting it.
        :raises Conflict: there is one of that name with another configuration.
        :raises ConnectorConfigInvalid: the plugin refuses the configuration.
        """
        body: dict[str, Any] = {"name": name, "config": dict(config)}
        if stopped:
            body["initial_state"] = "STOPPED"
        try:
            return dict(self._patiently("POST", "/connectors", json=body))
        except (Conflict, ServiceUnavailable):
            if self._is_there(name, config):
                return body
            raise
        except RequestRefused as error:
            raise _invalid(error) from error

    def _is_there(self, name: str, config: Mapping[str, str]) -> bool:
        present = self.config(name)
        return present is not None and present == {**config, "name": name}

    def update(self, name: str, config: Mapping[str, str]) -> dict[str, Any]:
        """Replace a connector's configuration, or make the connector.

        :param name: of the connector.
        :param config: its configuration.
        :raises ConnectorConfigInvalid: the plugin refuses the configuration.
        """
        try:
            return dict(self._patiently("PUT", f"{_path(name)}/config", json=dict(config)))
        except (Conflict, NotFound):
            raise
        except RequestRefused as error:
            raise _invalid(error) from error

    def validate(self, config: Mapping[str, str]) -> dict[str, list[str]]:
        """Let the plugin check a configuration.

        :param config: the whole of it.
        :return: setting → what the plugin says against it; empty where all is well.
        """
        return {key: errors for key, errors in self.validation(config).items() if errors}

    def validation(self, config: Mapping[str, str]) -> dict[str, list[str]]:
        """Every setting that the plugin knows, with what it says against its value.

        :param config: the whole of it, incl. ``connector.class`` and ``name``.
        :raises NotFound: the worker has no such plugin.
        """
        plugin = quote(config["connector.class"].rsplit(".", 1)[-1], safe="")
        answer = self.rest.put(f"/connector-plugins/{plugin}/config/validate", json=dict(config))
        return {entry["value"]["name"]: list(entry["value"]["errors"]) for entry in answer["configs"]}

    def status(self, name: str) -> ConnectorStatus | None:
        """A connector's state and its tasks'; None where there is no such connector, or none has been told yet.

        :param name: of the connector.
        """
        try:
            answer = self._patiently("GET", f"{_path(name)}/status")
        except NotFound:
            return None
        connector = answer["connector"]
        return ConnectorStatus(
            name=name,
            state=connector["state"],
            worker=connector["worker_id"],
            trace=connector.get("trace", ""),
            tasks=tuple(
                TaskStatus(task["id"], task["state"], task["worker_id"], task.get("trace", ""))
                for task in answer["tasks"]
            ),
        )

    def restart(self, name: str, *, include_tasks: bool = True, only_failed: bool = False) -> None:
        """Restart a connector.

        :param name: of the connector.
        :param include_tasks: its tasks, too.
        :param only_failed: only what has failed.
        """
        flags = {"includeTasks": str(include_tasks).lower(), "onlyFailed": str(only_failed).lower()}
        self._patiently("POST", f"{_path(name)}/restart", params=flags)

    def pause(self, name: str) -> None:
        """Let a connector and its tasks pause; they keep what they hold.

        :param name: of the connector.
        """
        self._patiently("PUT", f"{_path(name)}/pause")

    def resume(self, name: str) -> None:
        """Let a paused or stopped connector go on.

        :param name: of the connector.
        """
        self._patiently("PUT", f"{_path(name)}/resume")

    def stop(self, name: str) -> None:
        """Shut a connector's tasks down; its configuration and offsets stay.

        :param name: of the connector.
        """
        self._patiently("PUT", f"{_path(name)}/stop")

    def delete(self, name: str) -> bool:
        """Delete a connector. Its offsets stay: see :meth:`delete_offsets`.

        :param name: of the connector.
        :return: whether there was one.
        """
        try:
            self._patiently("DELETE", _path(name))
        except NotFound:
            return False
        return True

    def offsets(self, name: str) -> list[dict[str, Any]]:
        """How far a connector has read: ``partition`` and ``offset`` of each.

        :param name: of the connector.
        """
        return list(self._patiently("GET", f"{_path(name)}/offsets")["offsets"])

    def delete_offsets(self, name: str) -> None:
        """Let a stopped connector forget how far it has read.

        :param name: of the connector.
        """
        self._patiently("DELETE", f"{_path(name)}/offsets")

    def wait(
        self,
        name: str,
        done: Callable[[ConnectorStatus | None], bool],
        *,
        what: str,
        limit: float,
        fail_on_failed: bool = True,
    ) -> ConnectorStatus | None:
        """Wait for a state.

        :param name: of the connector.
        :param done: whether a status is the one waited for.
        :param what: what is waited for, in words, for the error.
        :param limit: seconds.
        :param fail_on_failed: give up as soon as the connector or a task has failed.
        :raises ConnectorFailed: it has failed; the message carries the trace.
        :raises WaitTimeout: the limit has passed.
        """
        deadline = time.monotonic() + limit
        while True:
            status = self.status(name)
            if done(status):
                return status
            if fail_on_failed and status is not None and status.failed:
                raise ConnectorFailed(SERVICE, f"connector {name} has failed ({status.summary}): {status.failure}")
            if time.monotonic() > deadline:
                seen = "unknown to Connect" if status is None else status.summary
                raise WaitTimeout(f"connector {name} was not {what} after {limit:.0f} s: it is {seen}")
            time.sleep(_POLL_SECONDS)  # between two looks; Connect has no call that waits

    def restart_and_wait(self, name: str, *, only_failed: bool, limit: float) -> ConnectorStatus | None:
        """Restart a connector with its tasks, and wait until all of them run.

        The states of before the restart stay for a moment: a failure is believed only after they have changed.

        :param name: of the connector.
        :param only_failed: only what has failed.
        :param limit: seconds.
        :raises ConnectorFailed: it fails again; the message carries the trace.
        :raises WaitTimeout: the limit has passed.
        """
        before = self.status(name)
        self.restart(name, include_tasks=True, only_failed=only_failed)
        deadline = time.monotonic() + min(_SETTLE_SECONDS, limit)
        while self.status(name) == before and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)  # between two looks; Connect has no call that waits
        return self.wait(
            name, lambda status: status is not None and status.running, what="running with every task", limit=limit
        )

    def _patiently(self, method: str, path: str, **kwargs: Any) -> Any:
        """A request, again while Connect says that it is rebalancing (409, or 500 of an expired leader)."""
        deadline = time.monotonic() + _REBALANCE_SECONDS
        while True:
            try:
                return self.rest.request(method, path, retry=method != "POST", **kwargs)
            except ServiceError as error:
                if not _rebalancing(error):
                    raise
                if time.monotonic() > deadline:
                    raise ServiceUnavailable(
                        SERVICE,
                        f"still rebalancing after {_REBALANCE_SECONDS:.0f} s: {error}",
                        status=error.status,
                    ) from error
            time.sleep(_POLL_SECONDS)


def _path(name: str) -> str:
    return f"/connectors/{quote(name, safe='')}"


def _rebalancing(error: ServiceError) -> bool:
    """Connect answers 409 both to a rebalance and to a name that is taken; the text tells them apart."""
    text = error.body.lower()
    if error.status == 409:
        return "rebalance" in text or "stale configuration" in text or "conflict due to pending" in text
    return error.status == 500 and "request timed out" in text and "rebalance" in text


def _invalid(error: RequestRefused) -> RequestRefused:
    if error.status != 400:
        return error
    return ConnectorConfigInvalid(SERVICE, str(error).partition(": ")[2], status=400, body=error.body)
