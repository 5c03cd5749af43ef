"""The DAGs come from the declarations alone, and nothing is reached when they are parsed."""

from __future__ import annotations

import importlib.util
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from airflow.sdk import DAG

from airflow_provider_rtlake import dag_factories
from airflow_provider_rtlake.exceptions import DeclarationError

PROJECT = Path(__file__).parents[2]
DAG_FILE = PROJECT / "dags" / "lakehouse.py"
DECLARATION = """
connector: shop
topic_prefix: shop
tables:
  public.orders: {}
  crm.Kunden: {}
  public.quiet:
    history: false
"""


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a DAG file reached for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    yield


def load() -> dict[str, DAG]:
    spec = importlib.util.spec_from_file_location("lakehouse_dags", DAG_FILE)
    assert spec is not None
    assert spec.loader is not None
    module: ModuleType = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return {value.dag_id: value for value in vars(module).values() if isinstance(value, DAG)}


@pytest.fixture
def declared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_network: None) -> Path:
    (tmp_path / "shop.yaml").write_text(DECLARATION)
    monkeypatch.setenv("RTLAKE_CONNECTORS", str(tmp_path))
    return tmp_path


def test_the_projects_own_dags(no_network: None) -> None:
    dags = load()
    assert {
        "lakehouse_deploy",
        "scd2_sales_spark_processing",
        "lakehouse_checks",
        "lakehouse_gold",
        "lakehouse_maintenance",
    } <= set(dags)
    for dag in dags.values():
        assert dag.max_active_runs == 1
        assert dag.catchup is False
        assert dag.start_date is None, "a start in the past runs everything as soon as it is installed"
        for task in dag.tasks:
            callbacks: Any = task.on_failure_callback
            assert dag_factories.log_link in (callbacks if isinstance(callbacks, (list, tuple)) else [callbacks])


def test_a_table_gets_its_dag_by_its_declaration(declared: Path) -> None:
    dags = load()
    merges = {name for name in dags if name.startswith("scd2_")}
    assert "scd2_orders_spark_processing" in merges
    assert len(merges) == 2, "public.quiet keeps no history"
    checks = {task.removeprefix("quiet.") for task in dags["lakehouse_checks"].task_ids if "quiet" in task}
    assert checks == {"dead_letters", "pinot_removed_rows"}, "what there is of a table without a history"
    assert "orders.pinot_removed_rows" not in dags["lakehouse_checks"].task_ids, "its merges do it"
    assert "quiet.bronze" in dags["lakehouse_maintenance"].task_ids
    assert dags["lakehouse_gold"].schedule is None, "these models read the sales history only"


def test_a_merge_is_checked_after_it_is_published(declared: Path) -> None:
    dag = load()["scd2_orders_spark_processing"]
    assert dag.get_task("merge").upstream_task_ids == {"new_changes"}
    assert dag.get_task("merge").downstream_task_ids == {
        "checks.invariants",
        "checks.freshness",
        "checks.dead_letters",
        "checks.unread",
        "pinot_removed_rows",
    }
    assert dag.get_task("merge").pool == dag_factories.SPARK_POOL


def test_users_find_documentation_tags_and_parameters(no_network: None) -> None:
    for dag in load().values():
        assert dag.description and dag.doc_md and dag.doc_md.startswith(dag.description)
        assert "rtlake" in dag.tags and len(dag.tags) > 1
        for name in dag.params:
            assert f"`{name}`" in dag.doc_md, f"{dag.dag_id} does not document its parameter {name}"
            assert dag.params.get_param(name).description, name
        for task in dag.tasks:
            assert task.doc_md, f"{dag.dag_id}.{task.task_id} has no documentation"


def test_dead_letters_of_a_table_and_of_its_connector_are_checked(declared: Path) -> None:
    dags = load()
    own: Any = dags["lakehouse_checks"].get_task("orders.dead_letters")
    assert (own.dead_letter_topic, own.topics) == ("shop.dead_letters", ["shop.public.orders"])
    quiet: Any = dags["lakehouse_checks"].get_task("quiet.dead_letters")
    assert quiet.topics == ["shop.public.quiet"]
    rest: Any = dags["lakehouse_checks"].get_task("shop.transactions")
    assert set(rest.except_topics) == {"shop.public.orders", "shop.crm.Kunden", "shop.public.quiet"}
    assert "checks.dead_letters" in dags["scd2_orders_spark_processing"].task_ids


def test_a_table_may_be_named_like_its_connector(declared: Path) -> None:
    (declared / "shop.yaml").write_text(DECLARATION.replace("public.orders", "public.shop"))
    assert {"shop.dead_letters", "shop.transactions"} <= set(load()["lakehouse_checks"].task_ids)


def test_reading_the_dags_imports_nothing_heavy() -> None:
    """In a process of its own: what the dag processor does for every look at the file."""
    heavy = ["psycopg", "pandas", "numpy", "pyarrow", "dbt", "trino", "pyspark", "pyiceberg", "kubernetes"]
    program = f"import runpy, sys; runpy.run_path({str(DAG_FILE)!r}); print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=PROJECT, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == "[]"


def test_a_tasks_process_makes_its_own_dag_only(declared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_AIRFLOW_PARSING_CONTEXT_DAG_ID", "scd2_orders_spark_processing")
    assert set(load()) == {"scd2_orders_spark_processing"}


def test_deployment_has_its_order(declared: Path) -> None:
    dag = load()["lakehouse_deploy"]
    assert dag.get_task("bronze_lanes").upstream_task_ids == {"connectors"}
    lanes: Any = dag.get_task("realtime_lanes")
    assert lanes.upstream_task_ids == {"connectors", "pinot_tables"}
    # It runs after a Pinot table that cannot be changed in place, and fails then: a run's state is that of its leaves
    assert (lanes.trigger_rule, lanes.pinot_task_id) == ("all_done_min_one_success", "pinot_tables")
    assert str(declared) in str(vars(dag.get_task("connectors")).values())


def test_a_broken_declaration_is_the_import_error(declared: Path) -> None:
    (declared / "shop.yaml").write_text("connector: shop\n")
    with pytest.raises(DeclarationError, match=r"shop\.yaml"):
        load()


@pytest.mark.parametrize(
    ("flags", "full", "wanted"),
    [(["", ""], "False", ["build"]), (["--select", "dim"], "True", ["build", "--full-refresh", "--select", "dim"])],
)
def test_parameters_of_gold_become_dbts_arguments(
    no_network: None, flags: list[str], full: str, wanted: list[str]
) -> None:
    """What the templates render to, for parameters left alone and for parameters given."""
    task: Any = load()["lakehouse_gold"].get_task("dbt_build")
    assert task.dbt_cmd_flags == ["{{ '--select' if params.select else '' }}", "{{ params.select }}"]
    task.dbt_cmd_flags, task.full_refresh, task.get_env = flags, full, lambda context: {}
    assert task.build_cmd({}, task.add_cmd_flags())[0][1:] == wanted
