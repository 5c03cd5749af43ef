"""Apache Flink: the JobManager's REST API and the SQL gateway's (v3)."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

import httpx

from airflow_provider_rtlake.clients.rest import RestClient, mask_secrets
from airflow_provider_rtlake.exceptions import (
    JobFailed,
    JobNotFound,
    NotFound,
    RequestRefused,
    ServiceError,
    ServiceUnavailable,
    StatementFailed,
    WaitTimeout,
)

_TASK_MANAGER_LOST = "is no longer reachable"  # said of one whose heartbeat has stopped
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0  # seconds between two polls: doubles from the first to the longest
# What a JobManager answers with status 500 while it or its jobs come back after a fault
_COMING_BACK = ("UnavailableDispatcherOperationException", "RecipientUnreachableException", "FencingTokenException")
_NO_CHECKPOINTS = "Checkpointing has not been enabled"
_CAUSE = re.compile(r"^(?:Caused by: |\[?CIRCULAR REFERENCE:\s*)?([\w.$]+(?:Exception|Error|Throwable)\b.*)$")


class JobState(str, Enum):
    """State of a Flink job."""

    INITIALIZING = "INITIALIZING"
    CREATED = "CREATED"
    RUNNING = "RUNNING"
    FAILING = "FAILING"
    FAILED = "FAILED"
    CANCELLING = "CANCELLING"
    CANCELED = "CANCELED"
    FINISHED = "FINISHED"
    RESTARTING = "RESTARTING"
    SUSPENDED = "SUSPENDED"
    RECONCILING = "RECONCILING"

    @property
    def is_terminal(self) -> bool:
        """Nothing more will happen to the job."""
        return self in (JobState.FAILED, JobState.CANCELED, JobState.FINISHED)

    @property
    def is_ending(self) -> bool:
        """The job has ended, or will end by itself soon and must not be counted on."""
        return self.is_terminal or self in (JobState.FAILING, JobState.CANCELLING)


@dataclass(frozen=True)
class Job:
    """A job as the cluster lists it.

    :param job_id: 32 hexadecimal digits.
    :param name: as given at its start; not unique.
    :param state: its state.
    :param start_ms: milliseconds since 1970.
    :param duration_ms: how long it has run.
    :param tasks: number of tasks by state, lower case.
    """

    job_id: str
    name: str
    state: JobState
    start_ms: int = 0
    duration_ms: int = 0
    tasks: Mapping[str, int] = field(default_factory=dict)

    @property
    def all_tasks_running(self) -> bool:
        """Every task is deployed and processes records."""
        total = self.tasks.get("total", 0)
        return self.state is JobState.RUNNING and total > 0 and self.tasks.get("running", 0) == total


@dataclass(frozen=True)
class SavepointStatus:
    """What became of a savepoint that was asked for.

    :param completed: whether the operation has ended, well or not.
    :param location: where the savepoint lies; None while it is under way or where it failed.
    :param error: root cause of its failure.
    :param trace: the whole of it, for the log.
    """

    completed: bool
    location: str | None = None
    error: str | None = None
    trace: str = ""


@dataclass(frozen=True)
class Checkpoints:
    """A job's checkpoints.

    :param completed: number completed since the job's start.
    :param failed: number failed.
    :param latest_id: id of the last completed one.
    :param restorable: where the newest one is kept that is still there, savepoints among them.
    :param latest_ms: when it was triggered, milliseconds since 1970.
    :param duration_ms: how long it took.
    """

    completed: int = 0
    failed: int = 0
    latest_id: int | None = None
    restorable: str | None = None
    latest_ms: int | None = None
    duration_ms: int | None = None


@dataclass(frozen=True)
class StatementResult:
    """What a statement gave.

    :param columns: names.
    :param rows: values in the order of the columns.
    :param job_id: the job that the statement started, if any.
    """

    columns: tuple[str, ...] = ()
    rows: tuple[tuple[Any, ...], ...] = ()
    job_id: str | None = None


def root_cause(trace: str) -> str:
    """The innermost exception of a Java stack trace, with its message, on few lines.

    :param trace: a trace, or any text.
    """
    text = trace.replace("\\n", "\n").replace("\\t", "\t") if "\n" not in trace else trace
    found: list[str] = []
    keeping = False
    for line in text.splitlines():
        stripped = line.strip()
        match = _CAUSE.match(stripped.lstrip("<"))
        if match:
            found, keeping = [match.group(1)], True
        elif stripped.startswith(("at ", "... ", "End of exception", "Suppressed:")):
            keeping = False
        elif keeping and stripped and len(found) < 12:
            found.append(stripped)
    return "\n".join(found) if found else text.strip()[:2000]


class _FlinkRest(RestClient):
    """REST client whose errors tell the root cause and keep the trace."""

    def _error(self, method: str, path: str, response: httpx.Response) -> ServiceError:
        plain = super()._error(method, path, response)
        text = mask_secrets(response.text)
        try:
            errors = json.loads(text).get("errors") or [text]
        except (ValueError, AttributeError):
            errors = [text]
        trace = "\n".join(str(error) for error in errors)
        message = f"{method} {path} answered {response.status_code}: {root_cause(trace)}"
        kind = ServiceUnavailable if any(name in trace for name in _COMING_BACK) else type(plain)
        return kind(self.service, message, status=response.status_code, body=trace)


class FlinkClient:
    """A session cluster and its SQL gateway.

    :param url: the JobManager's REST endpoint.
    :param gateway_url: the SQL gateway's endpoint; None where no statement is to be run.
    :param auth: user and password of a proxy in front of them, or None.
    :param timeout: seconds for one request.
    :param attempts: how often a request is tried when no answer comes.
    :param verify: as for :class:`RestClient`.
    """

    def __init__(
        self,
        url: str,
        gateway_url: str | None = None,
        *,
        auth: tuple[str, str] | None = None,
        timeout: float = 30.0,
        attempts: int = 5,
        verify: bool | str = True,
    ) -> None:
        self.url = url.rstrip("/")
        self.gateway_url = gateway_url.rstrip("/") if gateway_url else None
        self._rest = _FlinkRest("Flink", url, auth=auth, timeout=timeout, attempts=attempts, verify=verify)
        self._gateway = (
            _FlinkRest("Flink SQL gateway", gateway_url, auth=auth, timeout=timeout, attempts=attempts, verify=verify)
            if gateway_url
            else None
        )

    def __enter__(self) -> FlinkClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._rest.close()
        if self._gateway:
            self._gateway.close()

    # The cluster

    def overview(self) -> dict[str, Any]:
        """Version, task managers, slots, number of jobs by state."""
        answer: dict[str, Any] = self._rest.get("/overview")
        return answer

    def task_heap(self) -> int:
        """Heap that the smallest task manager has for tasks, bytes; 0 where there is none.

        :raises ServiceError: Flink does not answer.
        """
        found = self._rest.get("/taskmanagers")["taskmanagers"]
        return min((int(one["memoryConfiguration"]["taskHeap"]) for one in found), default=0)

    def config(self) -> dict[str, str]:
        """The JobManager's configuration; Flink itself hides the values of secret keys."""
        return {entry["key"]: entry["value"] for entry in self._rest.get("/jobmanager/config")}

    # Jobs

    def jobs(self) -> list[Job]:
        """Every job that the cluster remembers, the newest start first."""
        listed = [_job(entry) for entry in self._rest.get("/jobs/overview")["jobs"]]
        return sorted(listed, key=lambda job: job.start_ms, reverse=True)

    def job(self, job_id: str) -> Job:
        """One job.

        :raises JobNotFound: the cluster knows no such job, or has forgotten it.
        """
        entry = self._job_get(job_id, "")
        return _job(entry)

    def job_parameters(self, job_id: str) -> dict[str, str]:
        """What was given as ``pipeline.global-job-parameters`` when the job was started.

        :raises JobNotFound: there is no such job.
        """
        answer = self._job_get(job_id, "/config")
        return dict(answer.get("execution-config", {}).get("user-config") or {})

    def exception(self, job_id: str) -> tuple[str, str] | None:
        """Root cause and complete trace of the failure that happened last, None where none did.

        :raises JobNotFound: there is no such job.
        """
        answer = self._job_get(job_id, "/exceptions?maxExceptions=1")
        entries = (answer.get("exceptionHistory") or {}).get("entries") or []
        trace = entries[0].get("stacktrace", "") if entries else answer.get("root-exception") or ""
        return (root_cause(trace), mask_secrets(trace)) if trace else None

    def checkpoints(self, job_id: str) -> Checkpoints:
        """The job's checkpoints; none for a job that makes none, as in batch mode.

        :raises JobNotFound: there is no such job.
        """
        try:
            answer = self._job_get(job_id, "/checkpoints")
        except JobNotFound as error:
            if _NO_CHECKPOINTS not in error.body:
                raise
            answer = {}
        counts, newest = answer.get("counts") or {}, answer.get("latest") or {}
        latest = newest.get("completed") or {}
        # Flink lists a savepoint apart, also the one that a job was stopped with
        kept = [one for one in (latest, newest.get("savepoint") or {}) if one and not one.get("discarded")]
        return Checkpoints(
            completed=counts.get("completed", 0),
            failed=counts.get("failed", 0),
            latest_id=latest.get("id"),
            restorable=max(kept, key=lambda one: int(one["id"]), default={}).get("external_path"),
            latest_ms=latest.get("trigger_timestamp"),
            duration_ms=latest.get("end_to_end_duration"),
        )

    def job_metrics(self, job_id: str, names: Sequence[str]) -> dict[str, float]:
        """Metrics of a job by name; those that it does not have (yet) are left out.

        :param names: such as ``numRestarts``.
        :raises JobNotFound: there is no such job.
        """
        answer = self._job_request("GET", job_id, "/metrics", params={"get": ",".join(names)})
        return {entry["id"]: float(entry["value"]) for entry in answer}

    def vertices(self, job_id: str) -> list[dict[str, Any]]:
        """The job's chains of operators, as the cluster tells them: state, parallelism and what each has done.

        :raises JobNotFound: there is no such job.
        """
        return list(self._job_get(job_id, "")["vertices"])

    def cancel(self, job_id: str) -> None:
        """Cancel a job; one that has ended already, or is unknown, is left alone."""
        try:
            self._rest.request("PATCH", f"/jobs/{quote(job_id)}", params={"mode": "cancel"})
        except NotFound:
            return
        except RequestRefused as error:  # 409: it has ended meanwhile
            if error.status != 409:
                raise

    def stop(self, job_id: str, trigger_id: str, *, target: str | None = None, drain: bool = False) -> None:
        """Ask a job to stop with a savepoint; read on with :meth:`savepoint_status`.

        :param trigger_id: 32 hexadecimal digits chosen by the caller, so that the same request sent twice is one.
        :param target: folder of the savepoint; by default the cluster's.
        :param drain: let every event-time timer fire first; only for a job that will not be resumed.
        :raises JobNotFound: there is no such job.
        """
        body: dict[str, Any] = {"drain": drain, "triggerId": trigger_id}
        if target:
            body["targetDirectory"] = target
        self._job_request("POST", job_id, "/stop", json=body, retry=True)

    def savepoint(self, job_id: str, trigger_id: str, *, target: str | None = None) -> None:
        """Ask for a savepoint of a running job; see :meth:`stop`."""
        body: dict[str, Any] = {"cancel-job": False, "triggerId": trigger_id}
        if target:
            body["target-directory"] = target
        self._job_request("POST", job_id, "/savepoints", json=body, retry=True)

    def savepoint_status(self, job_id: str, trigger_id: str) -> SavepointStatus:
        """What became of the savepoint asked for under that trigger id.

        :raises JobNotFound: neither the job nor the request is known.
        """
        answer = self._job_get(job_id, f"/savepoints/{quote(trigger_id)}")
        if answer["status"]["id"] != "COMPLETED":
            return SavepointStatus(completed=False)
        operation = answer.get("operation") or {}
        failure = operation.get("failure-cause")
        if failure:
            trace = failure.get("stack-trace") or failure.get("class", "unknown")
            return SavepointStatus(True, error=root_cause(trace), trace=mask_secrets(trace))
        return SavepointStatus(True, location=operation.get("location"))

    def dispose_savepoint(self, path: str) -> None:
        """Ask the cluster to remove a savepoint that nobody needs any more."""
        self._rest.post("/savepoint-disposal", json={"savepoint-path": path})

    def _job_get(self, job_id: str, path: str) -> dict[str, Any]:
        answer: dict[str, Any] = self._job_request("GET", job_id, path)
        return answer

    def _job_request(self, method: str, job_id: str, path: str, *, retry: bool = True, **kwargs: Any) -> Any:
        try:
            return self._rest.request(method, f"/jobs/{quote(job_id)}{path}", retry=retry, **kwargs)
        except NotFound as error:
            raise JobNotFound(error.service, f"no job {job_id}: {error}", status=404, body=error.body) from error

    # Jars

    def jars(self) -> dict[str, str]:
        """Uploaded jars: id → file name."""
        return {entry["id"]: entry["name"] for entry in self._rest.get("/jars")["files"]}

    def upload_jar(self, path: Path) -> str:
        """Upload a jar and return its id.

        :param path: a file.
        """
        with path.open("rb") as stream:
            files = {"jarfile": (path.name, stream, "application/x-java-archive")}
            answer = self._rest.post("/jars/upload", files=files, timeout=300.0)
        return str(answer["filename"]).rsplit("/", 1)[-1]

    def run_jar(
        self,
        jar_id: str,
        *,
        job_id: str | None = None,
        entry_class: str | None = None,
        arguments: Sequence[str] = (),
        parallelism: int | None = None,
        savepoint: str | None = None,
        allow_non_restored: bool = False,
        properties: Mapping[str, str] | None = None,
    ) -> str:
        """Start a job from an uploaded jar and return the job's id.

        :param job_id: 32 hexadecimal digits chosen by the caller: a second start under the same id is refused.
        :param entry_class: by default the one that the jar's manifest names.
        :param arguments: of the main method.
        :param parallelism: by default the cluster's.
        :param savepoint: where to start from.
        :param allow_non_restored: start although the savepoint has state that the job has no place for.
        :param properties: Flink settings for this job.
        """
        body = {
            "jobId": job_id,
            "entryClass": entry_class,
            "programArgsList": list(arguments) or None,
            "parallelism": parallelism,
            "savepointPath": savepoint,
            "allowNonRestoredState": allow_non_restored or None,
            "flinkConfiguration": dict(properties) if properties else None,
        }
        answer = self._rest.post(
            f"/jars/{quote(jar_id)}/run",
            json={key: value for key, value in body.items() if value is not None},
        )
        return str(answer["jobid"])

    def delete_jar(self, jar_id: str) -> None:
        """Delete an uploaded jar; one that is not there is left alone."""
        try:
            self._rest.delete(f"/jars/{quote(jar_id)}")
        except NotFound:
            return
        except RequestRefused as error:
            if jar_id in self.jars():
                raise error

    # SQL

    def gateway_info(self) -> dict[str, Any]:
        """Product and version of the SQL gateway."""
        answer: dict[str, Any] = self._need_gateway().get("/v3/info")
        return answer

    def session(self, properties: Mapping[str, str] | None = None) -> SqlSession:
        """Open a session of the SQL gateway; use it in a ``with`` block, or close it.

        :param properties: settings for every statement of the session.
        """
        return SqlSession(self._need_gateway(), properties or {})

    def _need_gateway(self) -> RestClient:
        if self._gateway is None:
            raise RequestRefused("Flink SQL gateway", "no gateway_url is set: SQL cannot be run")
        return self._gateway

    # Waiting

    def wait_until_running(self, job_id: str, *, timeout: float) -> Job:
        """Wait until every task of a job runs (or a bounded job has finished).

        :param timeout: seconds.
        :raises JobFailed: it failed or was cancelled.
        :raises WaitTimeout: not within the time; the message carries the last exception.
        """

        def running(job: Job) -> bool:
            return job.all_tasks_running or job.state is JobState.FINISHED

        return self._wait(job_id, running, timeout, "to run")

    def wait_until_finished(self, job_id: str, *, timeout: float) -> Job:
        """Wait until a bounded job has finished.

        :param timeout: seconds.
        :raises JobFailed: it failed or was cancelled.
        :raises WaitTimeout: not within the time.
        """
        return self._wait(job_id, lambda job: job.state is JobState.FINISHED, timeout, "to finish")

    def wait_until_ended(self, job_id: str, *, timeout: float) -> JobState | None:
        """Wait until a job is in whatever terminal state; None where the cluster does not know it any more.

        :param timeout: seconds.
        :raises WaitTimeout: not within the time.
        """
        for _ in pauses(timeout):
            try:
                job = self.job(job_id)
            except JobNotFound:
                return None
            except ServiceUnavailable:  # the JobManager is coming back
                continue
            if job.state.is_terminal:
                return job.state
        raise WaitTimeout(f"Flink: job {job_id} did not end within {timeout:g} s")

    def _wait(self, job_id: str, reached: Any, timeout: float, what: str) -> Job:
        job: Job | None = None
        for _ in pauses(timeout):
            try:
                job = self.job(job_id)
            except ServiceUnavailable:  # the JobManager is coming back
                continue
            if reached(job):
                return job
            if job.state.is_terminal:
                raise self.failure(job)
        found = self.exception(job_id)
        state = job.state.value if job else "unknown"
        detail = f"; last exception: {found[0]}" if found else f"; tasks: {dict(job.tasks)}" if job else ""
        raise WaitTimeout(f"Flink: waited {timeout:g} s for job {job_id} {what}; it is {state}{detail}")

    def failure(self, job: Job) -> JobFailed:
        """The error that tells why a job ended.

        :param job: an ended job.
        """
        found = self.exception(job.job_id)
        cause, trace = found or ("no exception is recorded", "")
        return JobFailed("Flink", f"job {job.name!r} ({job.job_id}) is {job.state.value}: {cause}", body=trace)


class SqlSession:
    """A session of the SQL gateway. Temporary tables and catalogs live as long as it.

    :param rest: client of the gateway.
    :param properties: settings for every statement.
    """

    def __init__(self, rest: RestClient, properties: Mapping[str, str]) -> None:
        self._rest = rest
        self.handle: str = rest.post("/v3/sessions", json={"properties": dict(properties)})["sessionHandle"]

    def __enter__(self) -> SqlSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except ServiceError:
            if error is None:
                raise

    def close(self) -> None:
        """Close the session; a job that it started goes on."""
        try:
            self._rest.delete(f"/v3/sessions/{self.handle}")
        except NotFound:
            return

    def execute(self, statement: str, *, timeout: float = 120.0, max_rows: int = 100_000) -> StatementResult:
        """Run a statement and read its whole result. An INSERT gives the started job's id and does not wait for it.

        :param timeout: seconds for all of it.
        :param max_rows: more rows than these are an error.
        :raises StatementFailed: the gateway refuses the statement, or it failed; the message has the root cause.
        :raises ServiceUnavailable: the gateway does not answer, or the TaskManager that worked on it was lost.
        :raises WaitTimeout: no result within the time; the operation is cancelled.
        """
        operation = self._submit(statement)
        columns: tuple[str, ...] = ()
        rows: list[tuple[Any, ...]] = []
        job_id: str | None = None
        uri = f"/v3/sessions/{self.handle}/operations/{operation}/result/0"
        for _ in pauses(timeout):
            answer = self._fetch(uri, statement)
            while answer.get("resultType") == "PAYLOAD":
                job_id = answer.get("jobID") or job_id
                results = answer.get("results") or {}
                columns = tuple(column["name"] for column in results.get("columns", ())) or columns
                rows.extend(tuple(row["fields"]) for row in results.get("data", ()))
                if len(rows) > max_rows:
                    self.cancel(operation)
                    raise StatementFailed("Flink SQL gateway", f"more than {max_rows} rows: {_head(statement)}")
                uri = answer.get("nextResultUri") or uri
                answer = self._fetch(uri, statement)
            if answer.get("resultType") == "EOS":
                self._close_operation(operation)
                return StatementResult(columns, tuple(rows), answer.get("jobID") or job_id)
        self.cancel(operation)
        raise WaitTimeout(f"Flink SQL gateway: no result within {timeout:g} s: {_head(statement)}")

    def cancel(self, operation: str) -> None:
        """Cancel a running operation (and the query that it runs)."""
        try:
            self._rest.post(f"/v3/sessions/{self.handle}/operations/{operation}/cancel")
        except (NotFound, RequestRefused):
            return

    def _submit(self, statement: str) -> str:
        try:
            answer = self._rest.post(f"/v3/sessions/{self.handle}/statements", json={"statement": statement})
        except ServiceUnavailable:
            raise
        except RequestRefused as error:
            raise _failed(error, statement) from error
        return str(answer["operationHandle"])

    def _fetch(self, uri: str, statement: str) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = self._rest.get(uri.split("?")[0], params={"rowFormat": "JSON"})
        except ServiceUnavailable:
            raise
        except RequestRefused as error:
            raise _failed(error, statement) from error
        return answer

    def _close_operation(self, operation: str) -> None:
        try:
            self._rest.delete(f"/v3/sessions/{self.handle}/operations/{operation}/close")
        except ServiceError:
            return  # only memory of the gateway; the session's end frees it too


def pauses(timeout: float) -> Iterator[None]:
    """Yield at once and then at growing intervals until the time is over: the rhythm of a poll.

    :param timeout: seconds.
    """
    end, pause = time.monotonic() + timeout, FIRST_PAUSE
    while True:
        yield
        left = end - time.monotonic()
        if left <= 0:
            return
        time.sleep(min(pause, left))
        pause = min(pause * 2, LONGEST_PAUSE)


def _job(entry: Mapping[str, Any]) -> Job:
    tasks = entry.get("tasks") or {}
    if "status-counts" in entry:  # the detail endpoint counts in upper case and knows no total
        tasks = {key.lower(): count for key, count in entry["status-counts"].items()}
        tasks["total"] = sum(tasks.values())
    return Job(
        job_id=entry["jid"],
        name=entry["name"],
        state=JobState(entry["state"]),
        start_ms=entry.get("start-time", 0),
        duration_ms=entry.get("duration", 0),
        tasks=tasks,
    )


def _head(statement: str) -> str:
    line = " ".join(statement.split())
    return line if len(line) <= 200 else f"{line[:200]}…"


def _failed(error: ServiceError, statement: str) -> ServiceError:
    reason = root_cause(error.body)
    kind = ServiceUnavailable if _TASK_MANAGER_LOST in reason else StatementFailed
    return kind(
        error.service,
        f"{reason}\nin: {mask_secrets(_head(statement))}",
        status=error.status,
        body=error.body,
    )
