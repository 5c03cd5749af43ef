"""Deferred in the real triggerer, killed for real, and seen in the running api-server."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import yaml

from airflow_provider_rtlake.clients.flink import FlinkClient
from airflow_provider_rtlake.clients.kafka import KafkaClient
from airflow_provider_rtlake.clients.kafka_connect import KafkaConnectClient
from airflow_provider_rtlake.clients.pinot import PinotController
from airflow_provider_rtlake.clients.pinot_apply import PinotDeployment
from airflow_provider_rtlake.clients.pinot_topics import PinotTopics
from airflow_provider_rtlake.demo.access import Access
from airflow_provider_rtlake.demo.airflow import Airflow
from airflow_provider_rtlake.exceptions import RtlakeError
from airflow_provider_rtlake.kit.airflow import airflow_env
from airflow_provider_rtlake.kit.stack import Stack
from airflow_provider_rtlake.pinot_config.load import load_text

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

DAG = "rtlake_waits"
FILE = Path(__file__).parent / "dags" / f"{DAG}.py"
NAME = "it_waits"
WAITING = (
    "connector_runs",
    "pinot_applied",
    "pinot_healthy",
    "pinot_fresh",
    "new_snapshot",
    "sql_finished",
    "job_finished",
    "checkpoints",
    "jar_finished",
    "killed_deferred",
)
DONE = ("success", "failed", "upstream_failed", "skipped")
KILLED = ("killed_deferred", "killed_running")
PINOT = f"""
table: {NAME}
mode: append
kafka: {{topic: {NAME}, partitions: 1}}
time_column: at_ms
columns:
  id: {{type: INT}}
  at_ms: {{type: LONG, field: dateTime}}
"""
JAVA = """
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
public class Slow {
  public static void main(String[] a) throws Exception {
    StreamExecutionEnvironment e = StreamExecutionEnvironment.getExecutionEnvironment();
    e.setParallelism(1);
    e.fromSequence(1, 300).map(x -> { Thread.sleep(100); return x; }).returns(Long.class).print();
    e.execute(a[0]);
  }
}
"""


@dataclass
class Things:
    """What the tasks wait for: made not ready, and made ready when all of them wait."""

    stack: Stack
    access: Access
    rtlake: Callable[..., str]
    folder: Path
    made: list[Callable[[], object]] = field(default_factory=list)

    def url(self, conn_id: str) -> str:
        given = self.stack.connection(conn_id)
        return f"http://{given.host}:{given.port}"

    def make(self) -> dict[str, str]:
        return {**self._connector(), **self._pinot(), **self._lake(), "jar": self._jar()}

    def _connector(self) -> dict[str, str]:
        declared = self.folder / "connectors"
        declared.mkdir()
        connector = NAME.replace("_", "-")
        declaration = {
            "connector": connector,
            "topic_prefix": NAME,
            "publication": NAME,
            "tables": {f"public.{NAME}": {"history": False, "realtime": False}},
        }
        (declared / "it.yaml").write_text(yaml.safe_dump(declaration))
        with self.access.source() as conn:
            conn.execute(f"DROP TABLE IF EXISTS public.{NAME}")
            conn.execute(f"CREATE TABLE public.{NAME} (id int PRIMARY KEY)")
        self.made.append(self._drop_source)
        where = ("--connectors", str(declared))
        self.made.append(lambda: self.rtlake("connectors", "delete", connector, "--yes", *where, ok=False))
        self.rtlake("connectors", "apply", *where)
        self.connect = KafkaConnectClient(self.url("rtlake_kafka_connect"))
        self.made.append(self.connect.close)
        self.connect.pause(connector)
        return {"connector": connector}

    def _drop_source(self) -> None:
        with self.access.source() as conn:
            conn.execute(f"DROP TABLE IF EXISTS public.{NAME}")

    def _pinot(self) -> dict[str, str]:
        folder = self.folder / "pinot"
        folder.mkdir()
        (folder / f"{NAME}.yaml").write_text(PINOT)
        self.kafka = KafkaClient({"bootstrap.servers": self.stack.kafka_bootstrap})
        self.pinot = PinotController.connect(self.url("rtlake_pinot"))
        self.made.append(self.pinot.close)
        topics = PinotTopics(self.kafka)
        tool = PinotDeployment(self.pinot, topics, bootstrap_servers=self.stack.kafka_bootstrap)
        self.made.append(lambda: tool.delete(NAME, topic=NAME))
        tool.apply(load_text(PINOT))
        self.pinot.pause(NAME)
        return {"pinot_table": NAME, "pinot_folder": str(folder)}

    def _lake(self) -> dict[str, str]:
        table = f"nessie.default.{NAME}"
        self.access.trino(f"DROP TABLE IF EXISTS {table}")
        self.made.append(lambda: self.access.trino(f"DROP TABLE IF EXISTS {table}"))
        self.access.trino(f"CREATE TABLE {table} AS SELECT 1 AS id")
        newest = f'SELECT snapshot_id FROM nessie.default."{NAME}$snapshots" ORDER BY committed_at DESC LIMIT 1'
        return {"lake_table": f"default.{NAME}", "snapshot": str(self.access.trino(newest)[0][0])}

    def _jar(self) -> str:
        """A jar whose job takes some seconds; nothing where there is no compiler."""
        if shutil.which("javac") is None:
            return ""
        code = self.folder / "Slow.java"
        code.write_text(JAVA)
        libraries = next(self.stack.home.glob("opt/flink-*")).rglob("flink-dist*.jar")
        path = os.pathsep.join(str(one) for one in libraries)
        subprocess.run(["javac", "-cp", path, "-d", str(self.folder), str(code)], check=True)
        jar = self.folder / "it-waits.jar"
        with zipfile.ZipFile(jar, "w") as archive:
            archive.writestr("META-INF/MANIFEST.MF", "Manifest-Version: 1.0\nMain-Class: Slow\n")
            archive.write(self.folder / "Slow.class", "Slow.class")
        return str(jar)

    def ready(self, params: dict[str, str]) -> None:
        """What every sensor waits for comes to pass."""
        self.connect.resume(params["connector"])
        self.pinot.resume(NAME)
        self.access.trino(f"INSERT INTO nessie.default.{NAME} VALUES 2")

    def send(self) -> None:
        """A fresh row for Pinot."""
        row = {"id": 1, "at_ms": int(time.time() * 1000)}
        self.kafka.send(NAME, b"1", json.dumps(row).encode())

    def take_away(self) -> None:
        for undo in reversed(self.made):
            with suppress(RtlakeError):
                undo()


@dataclass
class Waited:
    """One run of the DAG, and what was seen of it."""

    airflow: Airflow
    run: str
    with_jar: bool
    seen: dict[str, set[str]] = field(default_factory=dict)
    triggerers: dict[str, str] = field(default_factory=dict)
    states: dict[str, str] = field(default_factory=dict)
    killed: set[str] = field(default_factory=set)

    @property
    def place(self) -> str:
        return f"/api/v2/dags/{DAG}/dagRuns/{quote(self.run, safe='')}/taskInstances"

    def look(self) -> None:
        for task in self.airflow.tasks(DAG, self.run):
            name, state = task["task_id"], str(task["state"])
            self.states[name] = state
            self.seen.setdefault(name, set()).add(state)
            if task.get("trigger") and task.get("triggerer_job"):
                self.triggerers[name] = task["trigger"]["classpath"]

    def over(self) -> set[str]:
        return {task for task, state in self.states.items() if state in DONE}

    def link(self, task: str, name: str) -> str:
        return str(self.airflow.rest.get(f"{self.place}/{task}/links")["extra_links"][name] or "")

    def xcom(self, task: str, key: str = "return_value") -> Any:
        return self.airflow.rest.get(f"{self.place}/{task}/xcomEntries/{key}", params={"deserialize": "true"})["value"]

    def wait(self, holds: Callable[[], bool], limit: float, act: Callable[[], None] = lambda: None) -> None:
        end = time.monotonic() + limit
        while True:
            self.look()
            if holds():
                return
            assert time.monotonic() < end, f"after {limit:.0f} s: {self.states}; in the triggerer: {self.triggerers}"
            act()
            time.sleep(0.5)

    def kill_those_that_work(self) -> None:
        """The tasks that are to be killed, each as soon as its job runs in the state that it is to be killed in."""
        for task, state in (("killed_deferred", "deferred"), ("killed_running", "running")):
            works = self.states.get(task) == state and (state != "deferred" or task in self.triggerers)
            if task not in self.killed and works and self._has_link(task):
                self.airflow.rest.request("PATCH", f"{self.place}/{task}", json={"new_state": "failed"})
                self.killed.add(task)

    def _has_link(self, task: str) -> bool:
        with suppress(RtlakeError):
            return bool(self.link(task, "Flink job"))
        return False


@pytest.fixture(scope="module")
def airflow(stack: Stack) -> Iterator[Airflow]:
    """The stack's api-server."""
    given = stack.connection("rtlake_airflow")
    api = Airflow(f"http://{given.host}:{given.port}", str(given.login), str(given.password))
    yield api
    api.close()


@pytest.fixture(scope="module")
def flink(stack: Stack) -> Iterator[FlinkClient]:
    """The stack's Flink."""
    given = stack.connection("rtlake_flink")
    client = FlinkClient(f"http://{given.host}:{given.port}")
    yield client
    client.close()


@pytest.fixture(scope="module")
def waited(
    stack: Stack,
    access: Access,
    rtlake: Callable[..., str],
    airflow: Airflow,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Waited]:
    """The DAG ran: all that waits waited in the triggerer, then came what it waited for; two tasks were killed."""
    dags = Path(_setting(stack, "core", "dags_folder"))
    there = dags / FILE.name
    things = Things(stack, access, rtlake, tmp_path_factory.mktemp("waits"))
    shutil.copy(FILE, there)
    try:
        params = things.make()
        airflow.wait_for_dag(DAG, 180)
        airflow.unpause(DAG)
        found = Waited(airflow, airflow.trigger(DAG, params), with_jar=bool(params["jar"]))
        expected = {task for task in WAITING if task != "jar_finished" or params["jar"]}
        found.wait(lambda: expected <= set(found.triggerers) | found.over(), 180, found.kill_those_that_work)
        things.ready(params)
        sent = time.monotonic() - 10

        def act() -> None:
            nonlocal sent
            found.kill_those_that_work()
            if time.monotonic() - sent > 5:  # a row that arrives while consumption is about to go on ages
                things.send()
                sent = time.monotonic()

        found.wait(lambda: found.over() == set(found.states), 180, act)
        yield found
    finally:
        there.unlink(missing_ok=True)
        things.take_away()
        with suppress(RtlakeError):
            airflow.rest.request("DELETE", f"/api/v2/dags/{DAG}")


def _setting(stack: Stack, section: str, key: str) -> str:
    import configparser

    parser = configparser.ConfigParser(interpolation=None)
    parser.read(airflow_env(stack.home)["AIRFLOW_CONFIG"])
    return parser[section][key]


def test_everything_waits_in_the_triggerer_and_goes_on(waited: Waited) -> None:
    killed = dict.fromkeys(KILLED, "failed")
    no_jar = {} if waited.with_jar else {"jar_finished": "failed"}
    wanted = {**dict.fromkeys(waited.states, "success"), **killed, **no_jar}
    assert waited.states == wanted
    assert set(waited.triggerers) >= {task for task in WAITING if task not in no_jar}
    assert waited.triggerers["new_snapshot"].endswith("IcebergNewSnapshotTrigger")


def test_what_waited_returns_what_it_found(waited: Waited) -> None:
    assert waited.xcom("connector_runs") == [NAME.replace("_", "-")]
    assert waited.xcom("pinot_healthy") == [NAME]
    assert waited.xcom("pinot_applied")["changed"] is False
    assert 0 <= waited.xcom("pinot_fresh") <= 60
    assert waited.xcom("new_snapshot")
    assert waited.xcom("job_finished") == "FINISHED"
    assert waited.xcom("checkpoints") >= 15
    finished = waited.xcom("sql_finished")
    assert (finished["state"], finished["changed"]) == ("FINISHED", True)


@pytest.mark.parametrize("task", KILLED)
def test_a_killed_task_cancels_its_job(waited: Waited, flink: FlinkClient, task: str) -> None:
    """In the triggerer as in a worker: the job is cancelled, and soon."""
    job_id = waited.link(task, "Flink job").split("/job/running/")[1].split("/")[0]
    end = time.monotonic() + 60
    while (state := flink.job(job_id).state.value) != "CANCELED":
        assert time.monotonic() < end, state
        time.sleep(0.5)


@pytest.mark.parametrize(
    ("task", "name", "part"),
    [
        ("connector_runs", "Connector status", f"/connectors/{NAME.replace('_', '-')}/status"),
        ("pinot_healthy", "Pinot table", f"/#/tenants/table/{NAME}_REALTIME"),
        ("sql_finished", "Flink job", "/#/job/running/"),
        ("checkpoints", "Flink job", "/#/job/running/"),
    ],
)
def test_links_lead_to_the_services(waited: Waited, task: str, name: str, part: str) -> None:
    assert part in waited.link(task, name)


def test_connection_forms_are_served(airflow: Airflow) -> None:
    """What the form of a new connection in the UI is made from."""
    found = {entry["connection_type"]: entry for entry in airflow.rest.get("/ui/connections/hook_meta")}
    names = {"kafka_connect": "Kafka Connect", "flink": "Apache Flink", "nessie": "Nessie"}
    for kind, shown in {**names, "pinot_controller": "Pinot controller"}.items():
        assert found[kind]["hook_name"] == shown
        assert "verify" in found[kind]["extra_fields"]
        assert found[kind]["standard_fields"]["host"]["placeholder"] == "127.0.0.1"
    assert found["nessie"]["standard_fields"]["password"]["title"] == "Bearer token"
    assert {"database_login", "database_secret", "secrets_dir"} <= set(found["kafka_connect"]["extra_fields"])


def test_the_provider_and_its_connections_are_known(airflow: Airflow) -> None:
    providers = {
        one["package_name"] for one in airflow.rest.get("/api/v2/providers", params={"limit": 500})["providers"]
    }
    assert "airflow-provider-rtlake" in providers
    for conn_id in ("rtlake_kafka_connect", "rtlake_flink", "rtlake_nessie", "rtlake_pinot"):
        body = airflow.rest.get(f"/api/v2/connections/{conn_id}")
        assert body["password"] in (None, "", "***"), f"{conn_id}: the password is shown"
        answer = airflow.rest.post(
            "/api/v2/connections/test", json={"connection_id": conn_id, "conn_type": body["conn_type"]}
        )
        assert answer["status"] is True, f"{conn_id}: {answer['message']}"
