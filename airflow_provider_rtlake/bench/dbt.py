"""dbt in one process: builds and tests the taxi project, and gives its own account of it."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from airflow_provider_rtlake.bench.record import DbtResult
from airflow_provider_rtlake.exceptions import TerminalError

PROFILE = "rtlake_taxi"
DATABASE_VARIABLE = "RTLAKE_TAXI_DATABASE"
EXPORTS_VARIABLE = "RTLAKE_TAXI_EXPORTS"
SPARK_APPLICATION = Path(__file__).parent / "dbt_spark_app.py"
SPARK_RESULT = "dbt-spark.json"  # what it leaves in its folder
SCHEMA_VARIABLE = "RTLAKE_TAXI_SCHEMA"
_KINDS = {"model": "models", "test": "tests", "unit_test": "unit_tests", "seed": "seeds", "snapshot": "snapshots"}


class DbtFailed(TerminalError):
    """dbt ended before it could build anything."""


def project() -> Path:
    """The taxi project."""
    return Path(__file__).parents[2] / "dbt" / "taxi"


def target(database: Path) -> Path:
    """Where dbt keeps what it parsed and how it went, for one database file."""
    return database.parent / f"target-{database.stem}"


def environment(database: Path) -> dict[str, str]:
    """What dbt is told by its environment.

    :param database: the DuckDB file.
    """
    folder = target(database)
    return {
        DATABASE_VARIABLE: str(database),
        EXPORTS_VARIABLE: str(folder),
        "DBT_TARGET_PATH": str(folder),
        "DBT_LOG_PATH": str(folder / "logs"),
        "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
        "DO_NOT_TRACK": "1",
    }


def arguments(months: Sequence[str] | None = None, *, engine: str = "duckdb") -> list[str]:
    """Of ``dbt build``.

    :param months: of the events; the microbatch model builds these.
    :param engine: target of the profile.
    """
    return ["build", *_where(engine), *(event_time(months) if months else ())]


def _where(engine: str) -> list[str]:
    return ["--project-dir", str(project()), "--profiles-dir", str(project()), "--target", engine]


def event_time(months: Sequence[str]) -> list[str]:
    """Arguments that tell the microbatch model which days to build.

    :param months: of the events.
    """
    from airflow_provider_rtlake.bench.silver import periods

    stretches = periods(months)
    return ["--event-time-start", f"{stretches[0][0]}", "--event-time-end", f"{stretches[-1][1]}"]


def build(
    database: Path, months: Sequence[str], *, engine: str = "duckdb", variables: Mapping[str, str] | None = None
) -> None:
    """Build and test everything; the results are in ``run_results.json`` of the target folder, failed ones too.

    :param database: the DuckDB file, or what stands for it where another engine is the target.
    :param months: of the events.
    :param engine: target of the profile.
    :param variables: further environment.
    :raises DbtFailed: dbt could not begin.
    """
    try:
        _invoke(arguments(months, engine=engine), database, variables)
    finally:
        _let_go(engine)


def parse(database: Path) -> dict[str, Any]:
    """The project's manifest; nothing is built.

    :param database: that would be built in.
    :raises DbtFailed: the project cannot be parsed.
    """
    _invoke(["parse", *_where("duckdb")], database)
    found: dict[str, Any] = json.loads((target(database) / "manifest.json").read_text())
    return found


def _invoke(command: Sequence[str], database: Path, variables: Mapping[str, str] | None = None) -> None:
    from dbt.cli.main import dbtRunner

    with _environment({**environment(database), **(variables or {})}), _output(target(database) / "build.log"):
        done = dbtRunner().invoke(["--log-level", "info", "--no-use-colors", *command])
    if done.exception is not None:
        raise DbtFailed(f"dbt: {done.exception}")


def _let_go(engine: str) -> None:
    """Close the DuckDB file: dbt keeps it open, with settings of its own, as long as the process lives."""
    if engine == "duckdb":
        from dbt.adapters.duckdb.connections import DuckDBConnectionManager

        DuckDBConnectionManager.close_all_connections()  # type: ignore[no-untyped-call]


def result(path: Path) -> DbtResult:
    """dbt's account of a build.

    :param path: its ``run_results.json``.
    """
    content = json.loads(path.read_text())
    found = DbtResult(seconds=round(content["elapsed_time"], 3))
    for node in content["results"]:
        kind = _KINDS.get(node["unique_id"].split(".", 1)[0])
        if kind is None:  # exposures are listed, not built
            continue
        setattr(found, kind, getattr(found, kind) + 1)
        status = node["status"]
        if status in ("success", "pass"):
            found.passed += 1
        elif status == "warn":
            found.warned += 1
        else:
            found.failed += 1
        found.nodes[node["unique_id"]] = round(node["execution_time"], 4)
    return found


def problems(path: Path) -> list[str]:
    """Nodes that failed, in dbt's words.

    :param path: its ``run_results.json``.
    """
    content = json.loads(path.read_text())
    good = ("success", "pass", "warn", "no-op", "skipped")  # what was skipped only follows from a failure
    bad = [node for node in content["results"] if node["status"] not in good]
    return [f"{node['unique_id'].split('.', 2)[-1]}: {' '.join((node['message'] or '').split())}" for node in bad]


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _output(path: Path) -> Iterator[None]:
    """dbt writes to standard output, which is for the answer: it goes to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    before = sys.stdout
    with path.open("w") as file:
        sys.stdout = file
        try:
            yield
        finally:
            sys.stdout = before


class NodeOutcome(BaseModel):
    """How a model, seed or snapshot went, its tests included."""

    status: Literal["success", "failed", "skipped"]
    seconds: float
    words: str


def node_outcomes(folder: Path) -> dict[str, NodeOutcome]:
    """The outcome of each node that a task can stand for.

    :param folder: with ``run_results.json`` and ``manifest.json``.
    """
    nodes = json.loads((folder / "manifest.json").read_text())["nodes"]
    found: dict[str, list[Mapping[str, Any]]] = {}
    for result in json.loads((folder / "run_results.json").read_text())["results"]:
        key = result["unique_id"]
        node = nodes.get(key, {})  # unit tests and exposures are no nodes
        shown = [key] if node.get("resource_type") in ("model", "seed", "snapshot") else _tested(node)
        for one in shown:
            found.setdefault(one, []).append(result)
    return {key: _outcome(results) for key, results in found.items()}


def _tested(node: Mapping[str, Any]) -> list[str]:
    if node.get("resource_type") != "test":
        return []
    attached = node.get("attached_node")
    return [attached] if attached else [one for one in node["depends_on"]["nodes"] if one.startswith("model.")]


def _outcome(results: Sequence[Mapping[str, Any]]) -> NodeOutcome:
    bad = [one for one in results if one["status"] in ("error", "fail", "runtime error")]
    skipped = [one for one in results if one["status"] == "skipped"]
    words = [f"{one['unique_id'].split('.', 2)[-1]}: {one['status']} {one['message'] or ''}".strip() for one in bad]
    return NodeOutcome(
        status="failed" if bad else "skipped" if skipped else "success",
        seconds=round(sum(one["execution_time"] for one in results), 3),
        words="; ".join(words) or f"{len(results)} steps: model and tests",
    )


def outcomes_file(results: Path, dag_run: str) -> Path:
    """Where a run of a DAG leaves what its nodes' tasks show.

    :param results: folder of all runs.
    :param dag_run: ``dag id/run id``.
    """
    return results / "dbt" / "nodes" / f"{hashlib.sha256(dag_run.encode()).hexdigest()[:24]}.json"


def keep_outcomes(results: Path, dag_run: str, database: Path) -> None:
    """Leave the outcomes of a build for the tasks that stand for its nodes.

    :param database: that dbt has built in.
    """
    path = outcomes_file(results, dag_run)
    path.parent.mkdir(parents=True, exist_ok=True)
    found = node_outcomes(target(database))
    path.write_text(json.dumps({key: one.model_dump() for key, one in found.items()}))


def node_outcome(results: Path, dag_run: str, node: str) -> NodeOutcome:
    """One node's outcome; one that dbt did not come to was skipped.

    :param node: its unique id.
    """
    try:
        found = json.loads(outcomes_file(results, dag_run).read_text()).get(node)
    except FileNotFoundError:
        found = None
    if found is None:
        return NodeOutcome(status="skipped", seconds=0.0, words="dbt did not come to it")
    return NodeOutcome.model_validate(found)
