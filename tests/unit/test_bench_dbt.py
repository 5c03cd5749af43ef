"""dbt's account of a build, and how the DAGs show it node by node. No server."""

from __future__ import annotations

import asyncio
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSkipException
from airflow.sdk import DAG
from airflow.triggers.base import TaskFailedEvent, TaskSkippedEvent, TaskSuccessEvent

from airflow_provider_rtlake.bench import dbt, manifest
from airflow_provider_rtlake.operators.dbt import DbtNodeOperator
from airflow_provider_rtlake.triggers.dbt import DbtNodeTrigger

PROJECT = Path(__file__).parents[2]
RUN = "p00_parquet_duckdb/manual__1"


def node(kind: str, **more: Any) -> dict[str, Any]:
    return {"resource_type": kind, "depends_on": {"nodes": []}, **more}


def result(key: str, status: str, message: str | None = None) -> dict[str, Any]:
    return {"unique_id": key, "status": status, "execution_time": 0.5, "message": message}


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A build in which one model's test failed and one model was skipped for it."""
    monkeypatch.setenv("RTLAKE_BENCH_DIR", str(tmp_path))
    database = tmp_path / "dbt" / "p00.duckdb"
    folder = dbt.target(database)
    folder.mkdir(parents=True)
    nodes = {
        "model.t.good": node("model"),
        "model.t.bad": node("model"),
        "model.t.after": node("model"),
        "test.t.fits.1": node("test", attached_node="model.t.bad"),
        "test.t.agree.2": node("test", depends_on={"nodes": ["model.t.good", "seed.t.s"]}),
    }
    results = [
        result("model.t.good", "success"),
        result("test.t.agree.2", "pass"),
        result("unit_test.t.good.u", "pass"),
        result("model.t.bad", "success"),
        result("test.t.fits.1", "fail", "Got 3 results"),
        result("model.t.after", "skipped"),
    ]
    (folder / "manifest.json").write_text(json.dumps({"nodes": nodes}))
    (folder / "run_results.json").write_text(json.dumps({"results": results, "elapsed_time": 1.0}))
    dbt.keep_outcomes(tmp_path, RUN, database)
    return tmp_path


@pytest.mark.parametrize(
    ("key", "status", "words"),
    [
        ("model.t.good", "success", "2 steps"),
        ("model.t.bad", "failed", "fits.1: fail Got 3 results"),
        ("model.t.after", "skipped", ""),
        ("model.t.unheard_of", "skipped", "dbt did not come to it"),
    ],
)
def test_a_node_ends_as_dbt_says(build: Path, key: str, status: str, words: str) -> None:
    found = dbt.node_outcome(build, RUN, key)
    assert found.status == status and words in found.words


def test_a_run_without_a_build_has_skipped_nodes(build: Path) -> None:
    assert dbt.node_outcome(build, "p00_parquet_duckdb/manual__2", "model.t.good").status == "skipped"


@pytest.mark.parametrize(
    ("key", "event", "raised"),
    [
        ("model.t.good", TaskSuccessEvent, None),
        ("model.t.bad", TaskFailedEvent, AirflowFailException),
        ("model.t.after", TaskSkippedEvent, AirflowSkipException),
    ],
)
def test_triggerer_and_dags_test_show_the_same(
    build: Path, key: str, event: type[Any], raised: type[Exception] | None
) -> None:
    task = DbtNodeOperator(task_id="n", node=key, dag_run=RUN)
    assert task.start_from_trigger and task.start_trigger_args
    path, arguments = DbtNodeTrigger(dag_run=RUN, node=key).serialize()
    assert task.start_trigger_args.trigger_cls == path and task.start_trigger_args.trigger_kwargs == arguments

    async def events() -> list[Any]:
        return [one async for one in DbtNodeTrigger(**arguments).run()]

    assert [type(one) for one in asyncio.run(events())] == [event]
    if raised is None:
        task.execute({})
    else:
        with pytest.raises(raised):
            task.execute({})


@pytest.fixture(scope="module")
def dags() -> dict[str, DAG]:
    spec = importlib.util.spec_from_file_location("benchmark_dags", PROJECT / "dags" / "benchmarks.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return {value.dag_id: value for value in vars(module).values() if isinstance(value, DAG)}


def test_cosmos_renders_every_node_of_the_manifest(dags: dict[str, DAG]) -> None:
    kept = json.loads((PROJECT / "dbt" / "taxi" / "manifest.json").read_text())
    wanted = {key for key, one in kept["nodes"].items() if one["resource_type"] in ("model", "seed", "snapshot")}
    dag = dags["p01_kafka_flink_iceberg"]
    shown = {task.node for task in dag.tasks if isinstance(task, DbtNodeOperator)}
    assert shown == wanted and len(wanted) >= 20
    roots = {task.task_id for task in dag.tasks if "dbt" in task.upstream_task_ids}
    assert "query" in roots and len(roots) > 1
    # The stages do not wait for what only shows.
    assert dag.get_task("query").upstream_task_ids == {"dbt"}
    assert dag.get_task("record").upstream_task_ids == {"check"}


def test_what_is_kept_of_the_manifest_is_the_same_on_every_machine() -> None:
    made = {
        "metadata": {"project_name": "p", "generated_at": "now"},
        "nodes": {"model.p.a": node("model", fqn=["p", "a"], root_path="/somewhere", config={"materialized": "table"})},
        "sources": {},
    }
    kept = json.loads(manifest.text(made))
    assert kept["metadata"] == {"project_name": "p"}
    assert kept["nodes"]["model.p.a"] == {
        "resource_type": "model", "fqn": ["p", "a"], "depends_on": {"nodes": []}, "config": {"materialized": "table"},
    }  # fmt: skip
