"""dbt in one process: builds and tests the taxi project, and gives its own account of it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

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
    from airflow_provider_rtlake.bench.silver import periods

    found = ["build", "--project-dir", str(project()), "--profiles-dir", str(project()), "--target", engine]
    if months:
        stretches = periods(months)
        found += ["--event-time-start", f"{stretches[0][0]}", "--event-time-end", f"{stretches[-1][1]}"]
    return found


def build(
    database: Path, months: Sequence[str], *, engine: str = "duckdb", variables: Mapping[str, str] | None = None
) -> DbtResult:
    """Build and test everything.

    :param database: the DuckDB file, or what stands for it where another engine is the target.
    :param months: of the events.
    :param engine: target of the profile.
    :param variables: further environment.
    :raises DbtFailed: dbt could not begin.
    """
    from dbt.cli.main import dbtRunner

    with _environment({**environment(database), **(variables or {})}), _output(target(database) / "build.log"):
        done = dbtRunner().invoke(["--log-level", "info", "--no-use-colors", *arguments(months, engine=engine)])
    _let_go(engine)
    if done.exception is not None:
        raise DbtFailed(f"dbt: {done.exception}")
    return result(target(database) / "run_results.json")


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
    good = ("success", "pass", "warn", "no-op")
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
