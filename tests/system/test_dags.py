"""The DAGs on the real stack, as ``airflow dags test`` runs them: deploy, merge, gold, checks, maintenance."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psycopg
import pytest

from airflow_provider_rtlake.clients.kafka import KafkaClient
from airflow_provider_rtlake.demo import inputs
from airflow_provider_rtlake.demo.access import Access
from airflow_provider_rtlake.demo.airflow import Airflow
from airflow_provider_rtlake.demo.hops import TableCheck, captured, settle
from airflow_provider_rtlake.kit.airflow import airflow_env
from airflow_provider_rtlake.kit.stack import Stack
from airflow_provider_rtlake.lanes.dead_letters import dead_letters
from airflow_provider_rtlake.streams.load import load_connectors

pytestmark = [pytest.mark.system, pytest.mark.timeout(1_200)]

PROJECT = Path(__file__).parents[2]
DagsTest = Callable[[str], str]


@pytest.fixture(scope="module", autouse=True)
def _nothing_else_runs(stack: Stack) -> Iterator[None]:
    """Schedules rest meanwhile: ``dags test`` does not ask whether another run of the DAG is under way."""
    given = stack.connection("rtlake_airflow")
    airflow = Airflow(f"http://{given.host}:{given.port}", str(given.login), str(given.password))
    with airflow.quiet([dag for dag, paused in airflow.paused().items() if not paused]):
        yield
    airflow.close()


@pytest.fixture(scope="module")
def dags_test(rtlake: Callable[..., str]) -> DagsTest:
    """Runs one DAG to its end in this process's children; fails where the run is not a success."""

    def run(dag: str) -> str:
        printed = rtlake("airflow", "dags", "test", dag, limit=900, ok=False)
        states = [line for line in printed.splitlines() if "state=success" in line or "state=failed" in line]
        assert states and "state=success" in states[-1], printed[-6000:]
        return printed

    return run


@pytest.fixture(scope="module")
def checks(access: Access) -> list[TableCheck]:
    """The tables that the project declares."""
    return [TableCheck(access, *one) for one in captured(access, load_connectors(PROJECT / "connectors"))]


@pytest.fixture(scope="module")
def deployed(access: Access, dags_test: DagsTest) -> inputs.Input:
    """The declared tables hold rows, and everything declared was deployed by its DAG."""
    given = inputs.Input(rows=2_000, changes=2_000)
    with access.source() as conn:
        inputs.prepare(conn)
        inputs.bring_rows(conn, given)
    dags_test("lakehouse_deploy")
    return given


def arrive(checks: Sequence[TableCheck]) -> None:
    """Wait until bronze and Pinot hold what the source holds."""
    found = settle(checks, lanes=("bronze", "realtime"), limit=180)
    assert [problem for one in found for problem in one.problems] == []


def merge(dags_test: DagsTest, checks: Sequence[TableCheck]) -> None:
    """Merge until each history holds what the source holds.

    A transaction whose end had not arrived is left to the next merge, so a second one may be needed.
    """
    for last in (False, True):
        for check in checks:
            dags_test(check.stream.merge_dag)
        problems = [problem for one in settle(checks, limit=20) for problem in one.problems]
        if not problems:
            return
        assert not last, problems


def test_the_folder_is_read_without_errors(stack: Stack) -> None:
    program = (
        "from airflow.dag_processing.dagbag import DagBag;"
        f"bag = DagBag({str(PROJECT / 'dags')!r});"
        "print([bag.import_errors, sorted(bag.dags)])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=airflow_env(stack.home), capture_output=True, text=True, check=True
    )
    errors, dags = ast.literal_eval(done.stdout.strip().splitlines()[-1])
    assert errors == {}
    names = {"lakehouse_deploy", "lakehouse_checks", "lakehouse_gold", "lakehouse_maintenance"}
    assert names | {"scd2_sales_spark_processing", "scd2_taxi_trips_spark_processing"} <= set(dags)


def test_a_second_deployment_changes_nothing(
    deployed: inputs.Input, rtlake: Callable[..., str], dags_test: DagsTest
) -> None:
    """What runs as declared stays as it is: same Flink jobs, empty plan."""
    before = json.loads(rtlake("stream", "status", "--json").splitlines()[-1])
    dags_test("lakehouse_deploy")
    after = json.loads(rtlake("stream", "status", "--json").splitlines()[-1])
    jobs = [{lane["job"]: lane["job_id"] for lane in found["lanes"]} for found in (before, after)]
    assert jobs[0] == jobs[1] and jobs[0]
    plan = json.loads(rtlake("connectors", "plan", "--json").splitlines()[-1])
    assert plan["changes"] is False


def test_changes_reach_the_histories_and_the_gold_tables(
    deployed: inputs.Input, dags_test: DagsTest, checks: list[TableCheck], access: Access
) -> None:
    """The whole life of the lakehouse by its DAGs; in the end every hop holds the same."""
    with access.source() as conn:
        inputs.bring_changes(conn, deployed)
    arrive(checks)
    merge(dags_test, checks)
    dags_test("lakehouse_gold")
    rows = access.trino("SELECT count(*) FROM nessie.gold.dim_sales_current")[0][0]
    assert rows == access.trino("SELECT count(*) FROM postgresql.public.source_sales")[0][0]
    dags_test("lakehouse_checks")


def test_maintenance_leaves_the_tables_as_they_are(
    deployed: inputs.Input, dags_test: DagsTest, checks: list[TableCheck], pg: psycopg.Connection[object]
) -> None:
    """Compaction and expiry alter files, not rows, and a merge still finds where it left off."""
    dags_test("lakehouse_maintenance")
    pg.execute("UPDATE public.source_sales SET quantity = quantity + 1 WHERE id % 50 = 0")
    sales = [check for check in checks if check.stream.slug == "source_sales"]
    arrive(sales)
    merge(dags_test, sales)


def test_a_dead_letter_makes_its_tables_check_red(
    deployed: inputs.Input, stack: Stack, checks: list[TableCheck], rtlake: Callable[..., str]
) -> None:
    """A message that no lane can read fails the check, with its key and reason, until somebody deals with it."""
    stream = next(check.stream for check in checks if check.stream.slug == "taxi_trips")
    kafka = KafkaClient({"bootstrap.servers": stack.kafka_bootstrap})

    def check() -> str:
        return rtlake("airflow", "tasks", "test", "lakehouse_checks", "taxi_trips.dead_letters", ok=False)

    assert dead_letters(kafka, stream.connector, topic=stream.topic) == []
    kafka.send(stream.topic, b'{"poisoned": 1}', b"{no json")
    end = time.monotonic() + 120
    while not (letters := dead_letters(kafka, stream.connector, topic=stream.topic)):
        assert time.monotonic() < end, "no dead letter arrived"
        time.sleep(0.5)
    printed = check()
    assert '{"poisoned": 1}' in printed and letters[0].reason in printed, printed[-4000:]
    assert "dead-letters list" in printed
    rtlake("stream", "dead-letters", "dismiss", *(one.origin for one in letters), "--note", "a test's poison")
    assert "could not be read" not in check()
