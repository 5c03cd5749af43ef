"""Write, audit, publish: the order of its tasks, and that what fails publishes nothing and leaves the branch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.providers.standard.operators.python import PythonOperator
from airflow.sdk import DAG, Connection, TaskGroup

from airflow_provider_rtlake.hooks.nessie import NessieHook
from airflow_provider_rtlake.task_groups.write_audit_publish import DEFAULT_BRANCH, write_audit_publish
from tests.unit.nessie_server import Nessie, serving

SALES, LINES = ("default", "sales"), ("default", "lines")
RUN = "manual__2026-01-02T03:04:05.678+00:00"
BRANCH = "wap_shop_manual__2026-01-02T030405_678_0000"


@pytest.fixture
def nessie(monkeypatch: pytest.MonkeyPatch) -> Iterator[Nessie]:
    with serving(Nessie()) as server:
        url = urlsplit(server.url)
        connection = Connection(
            conn_id="rtlake_nessie", conn_type="nessie", host=url.hostname, port=url.port, schema="http"
        )
        monkeypatch.setattr(NessieHook, "get_connection", lambda *_: connection)
        yield server


def group(**given: Any) -> DAG:
    def tasks(kind: str) -> Callable[[str], list[EmptyOperator]]:
        return lambda branch: [EmptyOperator(task_id=f"{kind}_{n}", doc=branch) for n in (1, 2)]

    with DAG("shop", schedule=None) as dag:
        made = write_audit_publish("orders", **{"write": tasks("write"), "audit": tasks("audit"), **given})
        assert isinstance(made, TaskGroup)
        made >> EmptyOperator(task_id="behind")
    return dag


def test_the_tasks_and_their_order() -> None:
    dag = group()
    before = {task.task_id: task.upstream_task_ids for task in dag.tasks}
    writes = {f"orders.write.write_{n}" for n in (1, 2)}
    audits = {f"orders.audit.audit_{n}" for n in (1, 2)}
    assert before == {
        "orders.branch": set(),
        **{write: {"orders.branch"} for write in writes},
        **dict.fromkeys(audits, writes),
        "orders.publish": audits,
        "behind": {"orders.publish"},
    }


def test_nothing_is_published_unless_every_task_before_has_succeeded() -> None:
    assert {task.trigger_rule for task in group().tasks} == {"all_success"}


def test_tasks_and_operators_get_the_same_branch_and_connection() -> None:
    dag = group(branch="b_{{ ds }}", into="release", message="m", nessie_conn_id="n", prefix_group_id=False)
    make, publish = dag.get_task("branch"), dag.get_task("publish")
    assert (make.branch, make.from_ref, make.nessie_conn_id) == ("b_{{ ds }}", "release", "n")
    assert (publish.branch, publish.into, publish.message) == ("b_{{ ds }}", "release", "m")
    assert (publish.nessie_conn_id, publish.delete_branch) == ("n", True)
    assert {task.doc for task in dag.tasks if task.doc} == {"b_{{ ds }}"}


def run(dag: DAG, run_id: str = RUN) -> list[str]:
    """Run the tasks as Airflow would: each in its turn, and none behind one that fails. Which have succeeded."""
    done: list[str] = []
    for task in dag.topological_sort():
        if task.upstream_task_ids <= set(done):
            instance = SimpleNamespace(dag_id=dag.dag_id, run_id=run_id, task_id=task.task_id, map_index=-1)
            context: Any = {"ti": instance, "dag": dag, "run_id": run_id}
            one = task.prepare_for_execution()
            one.render_template_fields(context)
            try:
                one.execute(context)
            except AirflowFailException:
                continue
            done.append(task.task_id)
    return done


def shop(nessie: Nessie, *, passes: Callable[[], bool]) -> DAG:
    """Two tables are written; the audit says of the branch what it is told to."""

    def write(branch: str) -> None:
        nessie.put(branch, SALES, "s3://sales")
        nessie.put(branch, LINES, "s3://lines")
        assert not nessie.head("main").contents

    def audit(branch: str) -> None:
        assert set(nessie.head(branch).contents) == {SALES, LINES}
        if not passes():
            raise AirflowFailException("a rule is broken")

    def task(kind: str, call: Callable[[str], None]) -> Callable[[str], PythonOperator]:
        return lambda branch: PythonOperator(task_id=kind, python_callable=call, op_args=[branch])

    return group(write=task("tables", write), audit=task("rules", audit))


def test_what_passes_is_published_at_once_and_its_branch_goes(nessie: Nessie) -> None:
    assert run(shop(nessie, passes=lambda: True))[-2:] == ["orders.publish", "behind"]
    assert set(nessie.head("main").contents) == {SALES, LINES}
    assert set(nessie.references) == {"main"}
    assert sum(request.endswith("/merge") for request in nessie.requests) == 1


def test_a_failed_audit_publishes_nothing_keeps_the_branch_and_goes_on_when_cleared(nessie: Nessie) -> None:
    passes = False
    dag = shop(nessie, passes=lambda: passes)
    before = nessie.head("main").hash
    assert run(dag) == ["orders.branch", "orders.write.tables"]
    assert nessie.head("main").hash == before
    assert set(nessie.head(BRANCH).contents) == {SALES, LINES}
    passes = True
    assert "orders.publish" in run(dag)
    assert set(nessie.head("main").contents) == {SALES, LINES}
    assert set(nessie.references) == {"main"}


def test_every_run_has_a_branch_of_its_own(nessie: Nessie) -> None:
    dag = shop(nessie, passes=lambda: False)
    run(dag)
    run(dag, "scheduled__2026-01-03T00:00:00+00:00")
    assert set(nessie.references) == {"main", BRANCH, "wap_shop_scheduled__2026-01-03T000000_0000"}
    assert "run_id" in DEFAULT_BRANCH
