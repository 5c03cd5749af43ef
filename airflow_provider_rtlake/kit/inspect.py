"""Looks into services that answer: what they carry may be broken all the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import httpx

from airflow_provider_rtlake.kit.airflow import database
from airflow_provider_rtlake.kit.stack import Stack

_SECONDS = 10.0
_SLOT_LIMIT = 2 * 2**30  # bytes of WAL that a slot may hold back before it is worth a word
_BAD_JOBS = frozenset({"FAILED", "FAILING", "RESTARTING"})
_ENDED = frozenset({"FAILED", "CANCELED", "FINISHED"})
_SLOTS = """
SELECT slot_name, active, wal_status, coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn), 0)::bigint
FROM pg_replication_slots WHERE slot_type = 'logical'
"""
# A problem: what, detail, remedy.
Problem = tuple[str, str, str]


def _json(url: str) -> Any:
    return httpx.get(url, timeout=_SECONDS).raise_for_status().json()


def connectors(stack: Stack) -> Iterator[Problem]:
    """Connectors and tasks that failed."""
    url = stack.service("connect").url
    for name, entry in _json(f"{url}/connectors?expand=status").items():
        status = entry["status"]
        parts = [("connector", status["connector"]), *((f"task {t['id']}", t) for t in status["tasks"])]
        for part, one in parts:
            if one["state"] == "FAILED":
                cause = _cause(one.get("trace", ""))
                yield f"connector {name}", f"{part} failed: {cause}", "mend the cause, then ./rtlake connectors apply"


def _cause(trace: str) -> str:
    """The innermost cause of a Java stack trace."""
    lines = [line for line in trace.splitlines() if line and not line.startswith(("\t", "    at "))]
    return (lines[-1] if lines else "no trace").removeprefix("Caused by: ")[:300]


def jobs(stack: Stack) -> Iterator[Problem]:
    """Flink jobs that failed for good or fail again and again; a failed one that runs again under its name is past."""
    found = _json(f"{stack.service('flink-jobmanager').url}/jobs/overview")["jobs"]
    running = {job["name"] for job in found if job["state"] == "RUNNING"}
    for job in found:
        if job["state"] in _BAD_JOBS and job["name"] not in running:
            url = f"{stack.service('flink-jobmanager').url}/#/job/running/{job['jid']}/exceptions"
            yield f"Flink job {job['name']}", f"is {job['state']}", f"see {url}; then ./rtlake stream apply"


def lanes(stack: Stack) -> Iterator[Problem]:
    """Topics that a connector writes and no bronze lane reads: their changes do not arrive, and nothing else fails."""
    if "connect" not in stack.services:
        return
    found = _json(f"{stack.service('flink-jobmanager').url}/jobs/overview")["jobs"]
    there = {job["name"] for job in found if job["state"] not in _ENDED}
    url = stack.service("connect").url
    try:
        written = {
            name: _json(f"{url}/connectors/{name}/topics")[name]["topics"] for name in _json(f"{url}/connectors")
        }
    except httpx.HTTPError:
        return  # it does not answer: that is told by itself
    for connector, topics in written.items():
        for topic in sorted(topics):
            if not topic.startswith("__") and f"bronze.{topic}" not in there:
                detail = f"connector {connector} writes it, but no Flink job bronze.{topic} reads it"
                yield f"topic {topic}", detail, "./rtlake stream apply goes on where bronze ends"


def slots(stack: Stack) -> Iterator[Problem]:
    """Replication slots that are lost, or hold back much WAL because nobody reads them."""
    with stack.postgres() as connection:
        rows = connection.execute(_SLOTS).fetchall()
    for name, active, status, held in rows:
        if status == "lost":
            yield f"slot {name}", "PostgreSQL removed WAL that it needed", "./rtlake connectors apply (a new snapshot)"
        elif not active and held > _SLOT_LIMIT:
            remedy = "start its connector, or delete it: ./rtlake connectors status"
            yield f"slot {name}", f"nobody reads it, it holds {held / 2**30:.1f} GB of WAL back", remedy


def buckets(stack: Stack) -> Iterator[Problem]:
    """Buckets that are gone."""
    import boto3
    from botocore.config import Config

    given = stack.connection("rtlake_s3")
    options = Config(connect_timeout=_SECONDS, read_timeout=_SECONDS, retries={"max_attempts": 1})
    client = boto3.client(
        "s3",
        endpoint_url=given.extra["endpoint_url"],
        region_name=given.extra["region_name"],
        aws_access_key_id=given.login,
        aws_secret_access_key=stack.password("rtlake_s3"),
        config=options,
    )
    there = {b["Name"] for b in client.list_buckets()["Buckets"]}
    for name in ("lakehouse", "streaming", "flink"):
        if name not in there:
            yield f"bucket {name}", "does not exist", "restore it from a backup, or ./rtlake restart s3 makes it empty"


def dags(stack: Stack) -> Iterator[Problem]:
    """DAG files that Airflow cannot import."""
    with database(stack).connect() as connection:
        rows = connection.execute("SELECT filename, stacktrace FROM import_error").fetchall()
    for filename, trace in rows:
        yield f"DAG file {filename}", str(trace).strip().splitlines()[-1][:300], "mend the file; Airflow reads it again"


# What is looked at when a service answers.
INSPECTIONS: Mapping[str, tuple[Callable[[Stack], Iterator[Problem]], ...]] = {
    "connect": (connectors,),
    "flink-jobmanager": (jobs, lanes),
    "postgresql": (slots,),
    "s3": (buckets,),
    "airflow-dag-processor": (dags,),
}


def problems(stack: Stack, service: str) -> Iterator[Problem]:
    """What is broken inside a service that answers.

    :param service: its name.
    """
    for inspection in INSPECTIONS.get(service, ()):
        try:
            yield from inspection(stack)
        except Exception as error:
            yield (
                service,
                f"answers, but {inspection.__name__} cannot be looked at: {error}"[:300],
                f"./rtlake logs {service}",
            )
