"""The DAGs on the real stack, as ``airflow dags test`` runs them: deploy, merge, gold, checks, maintenance."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from airflow_provider_rtlake.demo import inputs
from airflow_provider_rtlake.demo.access import Access
from airflow_provider_rtlake.demo.hops import TableCheck, captured, settle
from airflow_provider_rtlake.kit.airflow import airflow_env
from airflow_provider_rtlake.kit.stack import Stack
from airflow_provider_rtlake.streams.load import load_connectors
from tests.declared import unproven

pytestmark = [pytest.mark.system, pytest.mark.timeout(1_200)]

PROJECT = Path(__file__).parents[2]
PARSE_SECONDS = 3.0


@pytest.fixture(scope="module")
def dags_test(stack: Stack, rtlake: Callable[..., str]) -> Callable[[str], str]:
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


@pytest.fixture(scope="module", autouse=True)
def brought(access: Access) -> inputs.Input:
    """The declared tables exist and hold rows."""
    given = inputs.Input(rows=2_000, changes=2_000)
    with access.source() as conn:
        inputs.prepare(conn)
        inputs.bring_rows(conn, given)
    return given


def test_the_folder_parses_quickly_and_without_errors(stack: Stack) -> None:
    """A fresh process reads all DAGs; measured in processor seconds, without the import of Airflow itself."""
    program = (
        "import time, airflow.sdk; begin = time.process_time();"
        "from airflow.dag_processing.dagbag import DagBag;"
        f"bag = DagBag({str(PROJECT / 'dags')!r});"
        "print([round(time.process_time() - begin, 2), bag.import_errors, sorted(bag.dags)])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=airflow_env(stack.home), capture_output=True, text=True, check=True
    )
    seconds, errors, dags = ast.literal_eval(done.stdout.strip().splitlines()[-1])
    assert errors == {}
    names = {"lakehouse_deploy", "lakehouse_checks", "lakehouse_gold", "lakehouse_maintenance"}
    assert names | {"scd2_sales_spark_processing", "scd2_taxi_trips_spark_processing"} <= set(dags)
    assert seconds <= PARSE_SECONDS


@unproven
def test_deploy_merge_gold_checks(
    dags_test: Callable[[str], str], checks: list[TableCheck], access: Access, brought: inputs.Input
) -> None:
    """The whole life of the lakehouse by its DAGs; in the end every hop holds the same."""
    dags_test("lakehouse_deploy")
    with access.source() as conn:
        inputs.bring_changes(conn, brought)
    arrived = settle(checks, lanes=("bronze", "realtime"), limit=180)
    assert [problem for one in arrived for problem in one.problems] == []
    for check in checks:
        name = "sales" if check.stream.slug == "source_sales" else check.stream.slug
        dags_test(f"scd2_{name}_spark_processing")
    found = settle(checks, limit=120)
    assert [problem for one in found for problem in one.problems] == []
    dags_test("lakehouse_gold")
    dags_test("lakehouse_checks")


@unproven
def test_a_second_deployment_changes_nothing(rtlake: Callable[..., str], dags_test: Callable[[str], str]) -> None:
    """What runs as declared stays as it is: same Flink jobs, empty plan."""
    dags_test("lakehouse_deploy")
    before = json.loads(rtlake("stream", "status", "--json").splitlines()[-1])
    dags_test("lakehouse_deploy")
    after = json.loads(rtlake("stream", "status", "--json").splitlines()[-1])
    jobs = [{lane["job"]: lane["job_id"] for lane in found["lanes"]} for found in (before, after)]
    assert jobs[0] == jobs[1] and jobs[0]
    plan = json.loads(rtlake("connectors", "plan", "--json").splitlines()[-1])
    assert plan["changes"] is False


@unproven
def test_maintenance_leaves_the_tables_as_they_are(
    dags_test: Callable[[str], str], checks: list[TableCheck], pg: psycopg.Connection[object]
) -> None:
    """Compaction and expiry alter files, not rows, and a merge still finds where it left off."""
    dags_test("lakehouse_maintenance")
    pg.execute("UPDATE public.source_sales SET quantity = quantity + 1 WHERE id % 50 = 0")
    arrived = settle(checks, lanes=("bronze", "realtime"), limit=120)
    assert [problem for one in arrived for problem in one.problems] == []
    dags_test("scd2_sales_spark_processing")
    found = settle(checks, limit=60)
    assert [problem for one in found for problem in one.problems] == []
