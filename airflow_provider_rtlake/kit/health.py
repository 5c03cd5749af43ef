"""Healthy means: a real request was answered just now."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import httpx
import psutil

from airflow_provider_rtlake.exceptions import RtlakeError, WaitTimeout
from airflow_provider_rtlake.kit.stack import Stack
from airflow_provider_rtlake.kit.supervise import Supervisor, supervisor_of

REQUEST_SECONDS = 10.0  # for one request
_PAUSE = 0.5  # seconds between two rounds of asking
_LOG_LINES = 12


@dataclasses.dataclass(frozen=True)
class Health:
    """A service's answer.

    :param detail: what it answered, or why not.
    :param rss_mb: resident memory of the service's processes, MB.
    """

    healthy: bool
    detail: str
    rss_mb: int = 0


class _Unwell(Exception):
    """It answered, and said that it is not well."""


def _get(url: str) -> Any:
    response = httpx.get(url, timeout=REQUEST_SECONDS)
    response.raise_for_status()
    return response.json() if "json" in response.headers.get("content-type", "") else response.text


def _postgresql(stack: Stack) -> str:
    with stack.postgres(connect_timeout=5) as connection:
        row = connection.execute("SELECT version()").fetchone()
    return str(row[0]).split(" on ")[0] if row else ""


def _s3(stack: Stack) -> str:
    from botocore.auth import S3SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    connection = stack.connection("rtlake_s3")
    request = AWSRequest("HEAD", f"{connection.extra['endpoint_url']}/lakehouse")
    keys = Credentials(connection.login, stack.password("rtlake_s3"))
    S3SigV4Auth(keys, "s3", connection.extra["region_name"]).add_auth(request)
    httpx.head(request.url, headers=dict(request.headers), timeout=REQUEST_SECONDS).raise_for_status()
    return "bucket lakehouse"


def _zookeeper(stack: Stack) -> str:
    address = ("127.0.0.1", stack.service("zookeeper").port)
    with socket.create_connection(address, timeout=REQUEST_SECONDS) as connection:
        connection.sendall(b"srvr")
        answer = connection.makefile().read()
    if "Mode:" not in answer:
        raise _Unwell(answer.strip() or "no answer")
    return next(line for line in answer.splitlines() if line.startswith("Mode"))


def _kafka(stack: Stack) -> str:
    from confluent_kafka.admin import AdminClient

    admin = AdminClient({"bootstrap.servers": stack.kafka_bootstrap, "log_level": 0})
    topics = admin.list_topics(timeout=REQUEST_SECONDS).topics
    return f"{len(topics)} topics"


def _connect(stack: Stack) -> str:
    plugins = _get(f"{stack.service('connect').url}/connector-plugins")
    if not any("PostgresConnector" in p["class"] for p in plugins):
        raise _Unwell("the Debezium plugin is not there")
    return f"{len(_get(stack.service('connect').url + '/connectors'))} connectors"


def _nessie(stack: Stack) -> str:
    config = _get(f"{stack.service('nessie').url}/api/v2/config")
    branch = config["defaultBranch"]
    _get(f"{stack.service('nessie').url}/api/v2/trees/{branch}")
    return f"branch {branch}"


def _pinot(stack: Stack) -> str:
    connection = stack.connection("rtlake_pinot")
    instances = _get(f"{connection.url}/instances")["instances"]
    kinds = {name.split("_", 1)[0] for name in instances}
    if not {"Controller", "Broker", "Server"} <= kinds:
        raise _Unwell(f"registered so far: {', '.join(sorted(kinds)) or 'nothing'}")
    _get(f"http://127.0.0.1:{_pinot_server_port(stack)}/health")
    query = {"sql": "SELECT 1"}
    answer = httpx.post(f"{connection.extra['broker_url']}/query/sql", json=query, timeout=REQUEST_SECONDS)
    answer.raise_for_status()
    if answer.json().get("exceptions"):
        raise _Unwell(str(answer.json()["exceptions"])[:200])
    return f"{len(_get(connection.url + '/tables')['tables'])} tables"


def _pinot_server_port(stack: Stack) -> int:
    return 8097 + stack.port_offset


def _flink_jobmanager(stack: Stack) -> str:
    overview = _get(f"{stack.service('flink-jobmanager').url}/overview")
    slots = f"{overview['slots-available']} of {overview['slots-total']} slots free"
    return f"{overview['jobs-running']} jobs, {slots}"


def _flink_taskmanager(stack: Stack) -> str:
    managers = _get(f"{stack.service('flink-taskmanager').url}/taskmanagers")["taskmanagers"]
    if not managers:
        raise _Unwell("no TaskManager is registered")
    age = time.time() - max(m["timeSinceLastHeartbeat"] for m in managers) / 1000
    if age > 30:
        raise _Unwell(f"last heartbeat {age:.0f} s ago")
    return f"{len(managers)} registered"


def _flink_gateway(stack: Stack) -> str:
    info = _get(f"{stack.service('flink-sql-gateway').url}/v1/info")
    return f"{info['productName']} {info['version']}"


def _trino(stack: Stack) -> str:
    url, headers = f"{stack.service('trino').url}/v1/statement", {"X-Trino-User": "rtlake-health"}
    answer = httpx.post(url, content="SELECT 1", headers=headers, timeout=REQUEST_SECONDS).raise_for_status().json()
    limit = time.monotonic() + REQUEST_SECONDS
    while "nextUri" in answer:
        if time.monotonic() > limit:
            raise _Unwell("a query did not end")
        answer = httpx.get(answer["nextUri"], headers=headers, timeout=REQUEST_SECONDS).raise_for_status().json()
    if "error" in answer:
        raise _Unwell(answer["error"]["message"])
    return "a query was answered"


def _airflow(part: str) -> Callable[[Stack], str]:
    def check(stack: Stack) -> str:
        health = _get(f"{stack.service('airflow-api-server').url}/api/v2/monitor/health")
        status = health.get(part, {}).get("status")
        if status != "healthy":
            raise _Unwell(f"{part}: {status or 'unknown'}")
        return part

    return check


def _ready(name: str) -> Callable[[Stack], str]:
    def check(stack: Stack) -> str:
        _get(f"{stack.service(name).url}/-/ready")
        return "ready"

    return check


def _superset(stack: Stack) -> str:
    answer = str(_get(f"{stack.service('superset').url}/health")).strip()
    if answer != "OK":
        raise _Unwell(answer[:100])
    return answer


def _grafana(stack: Stack) -> str:
    answer = _get(f"{stack.service('grafana').url}/api/health")
    if answer.get("database") != "ok":
        raise _Unwell(f"its database: {answer.get('database')}")
    return f"version {answer.get('version')}"


def _kafka_ui(stack: Stack) -> str:
    return str(_get(f"{stack.service('kafka-ui').url}/actuator/health")["status"])  # 503 unless UP


def _exporter(name: str, metric: str) -> Callable[[Stack], str]:
    def check(stack: Stack) -> str:
        lines = str(_get(f"{stack.service(name).url}/metrics")).splitlines()
        if not any(line.startswith(metric) and not line.endswith(" 0") for line in lines):
            raise _Unwell(f"{metric} is 0 or missing")
        return f"{sum(not line.startswith('#') for line in lines)} figures"

    return check


CHECKS: Mapping[str, Callable[[Stack], str]] = {
    "postgresql": _postgresql,
    "s3": _s3,
    "zookeeper": _zookeeper,
    "kafka": _kafka,
    "connect": _connect,
    "nessie": _nessie,
    "pinot": _pinot,
    "flink-jobmanager": _flink_jobmanager,
    "flink-taskmanager": _flink_taskmanager,
    "flink-sql-gateway": _flink_gateway,
    "trino": _trino,
    "airflow-api-server": _airflow("metadatabase"),
    "airflow-scheduler": _airflow("scheduler"),
    "airflow-dag-processor": _airflow("dag_processor"),
    "airflow-triggerer": _airflow("triggerer"),
    "prometheus": _ready("prometheus"),
    "alertmanager": _ready("alertmanager"),
    "node-exporter": _exporter("node-exporter", "node_load1"),
    "postgres-exporter": _exporter("postgres-exporter", "pg_up"),
    "rtlake-exporter": _exporter("rtlake-exporter", "rtlake_probe_up"),
    "kafka-ui": _kafka_ui,
    "grafana": _grafana,
    "superset": _superset,
}


def check(stack: Stack, name: str) -> Health:
    """Ask one service, once.

    :param name: the service.
    """
    try:
        return Health(True, CHECKS[name](stack))
    except Exception as error:  # whatever goes wrong is the answer
        return Health(False, f"{type(error).__name__.lstrip('_')}: {error}".strip()[:300])


def check_all(stack: Stack, names: Iterable[str] | None = None, *, memory: bool = True) -> dict[str, Health]:
    """Ask services side by side.

    :param names: which; all if None.
    :param memory: also sum up the memory of their processes.
    """
    wanted = list(names if names is not None else stack.services)
    if not wanted:
        return {}
    with concurrent.futures.ThreadPoolExecutor(len(wanted)) as pool:
        answers = dict(zip(wanted, pool.map(lambda n: check(stack, n), wanted), strict=True))
    if not memory:
        return answers
    supervisor = supervisor_of(stack.home, stack.supervisor)
    return {n: dataclasses.replace(h, rss_mb=rss_mb(supervisor, n)) for n, h in answers.items()}


def rss_mb(supervisor: Supervisor, name: str) -> int:
    """Resident memory of a service's process tree, MB; 0 where it does not run."""
    try:
        pid = supervisor.pid(name)
        return tree_rss(pid) if pid else 0
    except (RtlakeError, OSError):  # the figure is an extra: health does not hang on it
        return 0


def tree_rss(pid: int) -> int:
    """Resident memory of a process and all below it, MB."""
    total = 0
    try:
        root = psutil.Process(pid)
        family = [root, *root.children(recursive=True)]
    except psutil.Error:
        return 0
    for process in family:
        try:
            total += process.memory_info().rss
        except psutil.Error:
            continue
    return round(total / 2**20)


def wait_all(
    stack: Stack,
    seconds: float,
    names: Iterable[str] | None = None,
    told: Callable[[str, float], None] = lambda _name, _seconds: None,
) -> dict[str, float]:
    """Ask until every service has answered well once; returns after how many seconds each did.

    :param seconds: the limit for all together.
    :param names: which; all if None.
    :param told: called with each service's name and seconds as it becomes healthy.
    :raises WaitTimeout: names those that did not, why, and the end of their logs.
    """
    started = time.monotonic()
    pending = list(names if names is not None else stack.services)
    done: dict[str, float] = {}
    while pending:
        answers = check_all(stack, pending, memory=False)
        elapsed = time.monotonic() - started
        for name in [n for n in pending if answers[n].healthy]:
            done[name] = round(elapsed, 1)
            told(name, elapsed)
            pending.remove(name)
        if not pending:
            break
        if elapsed > seconds:
            raise WaitTimeout("\n".join(_obituary(stack, n, answers[n].detail, elapsed) for n in pending))
        time.sleep(_PAUSE)
    return done


def _obituary(stack: Stack, name: str, detail: str, seconds: float) -> str:
    end = "\n    ".join(last_lines(stack, name, _LOG_LINES))
    where = "its journal" if stack.supervisor == "systemd" else stack.service(name).log
    return f"{name} did not answer within {seconds:.0f} s ({detail}); {where} ends:\n    {end}"


def last_lines(stack: Stack, name: str, lines: int) -> list[str]:
    """The end of a service's log or journal.

    :param lines: how many.
    """
    if stack.supervisor != "systemd":
        return tail(stack.service(name).log, lines)
    command = ["journalctl", "-u", f"rtlake-{name}", "-n", str(lines), "-o", "cat", "--no-pager", "-q"]
    return subprocess.run(command, capture_output=True, text=True, errors="replace", check=False).stdout.splitlines()


def tail(path: Path, lines: int) -> list[str]:
    """The last lines of a file; empty where there is none.

    :param lines: how many.
    """
    try:
        with path.open("rb") as stream:
            stream.seek(0, 2)
            stream.seek(max(0, stream.tell() - lines * 400))
            return stream.read().decode(errors="replace").splitlines()[-lines:]
    except OSError:
        return []
