"""What Airflow costs: reading the DAG files, and running steps as a DAG instead of by hand.

Both sides of a comparison do the same work on the same stack, in turn (A B A B), at the same priority. The wall time of
a DAG run is the scheduler's own: from its queueing to its end.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from dateutil.parser import isoparse

from airflow_provider_rtlake.demo.airflow import Airflow
from airflow_provider_rtlake.exceptions import CheckFailed, UserError
from airflow_provider_rtlake.kit.airflow import airflow_env
from airflow_provider_rtlake.kit.stack import Stack

_DBT = str(Path(sys.executable).with_name("dbt"))
LIMIT = 900.0  # seconds for one run of a DAG or a step

# Prints: seconds for Airflow's own import, for the folder, for one more look at its largest file.
_PARSE = """
import time
begin = time.perf_counter()
from airflow.dag_processing.dagbag import DagBag
imported = time.perf_counter()
bag = DagBag({folder!r})
read = time.perf_counter()
largest = max(bag.file_last_changed, key=lambda name: __import__("os").path.getsize(name))
bag.process_file(largest, only_if_updated=False)
print([imported - begin, read - imported, time.perf_counter() - read, len(bag.dags), list(bag.import_errors)])
"""


@dataclass
class Series:
    """Seconds of the same thing, several times."""

    seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.seconds)

    def as_dict(self) -> dict[str, Any]:
        """As plain values."""
        return {"median": round(self.median, 2), "runs": [round(one, 2) for one in self.seconds]}


def parse(stack: Stack, project: Path, runs: int) -> dict[str, Any]:
    """Read the whole folder of DAGs in a fresh process each time.

    :param stack: whose environment Airflow has.
    :param project: folder above ``dags/``.
    :param runs: how many times.
    :return: seconds of the process, of which Airflow's import, the folder and one more file; and what was found.
    """
    process, imported, folder, further = Series(), Series(), Series(), Series()
    found: list[Any] = []
    for _ in range(runs):
        begin = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", _PARSE.format(folder=str(project / "dags"))],
            env=airflow_env(stack.home),
            capture_output=True,
            text=True,
            check=False,
        )
        process.seconds.append(time.monotonic() - begin)
        if done.returncode:
            raise CheckFailed(f"the DAG files could not be read:\n{done.stderr[-2000:]}")
        found = json.loads(done.stdout.strip().splitlines()[-1].replace("'", '"'))
        for series, seconds in zip((imported, folder, further), found[:3], strict=True):
            series.seconds.append(float(seconds))
    return {
        "process": process.as_dict(),
        "import_of_airflow": imported.as_dict(),
        "folder": folder.as_dict(),
        "further_file": further.as_dict(),
        "dags": found[3],
        "import_errors": found[4],
    }


@dataclass(frozen=True)
class Comparison:
    """A DAG and the same steps by hand.

    :param dag: its id.
    :param steps: commands, each a process.
    :param env: further environment of the commands.
    :param conf: parameters of the DAG's run.
    """

    dag: str
    steps: tuple[tuple[str, ...], ...]
    env: Mapping[str, str] = field(default_factory=dict)
    conf: Mapping[str, str] = field(default_factory=dict)


def comparisons(stack: Stack, project: Path, scratch: Path) -> dict[str, Comparison]:
    """What is compared.

    :param stack: the stack.
    :param project: folder of the project.
    :param scratch: folder for what the steps by hand leave behind.
    """
    rtlake = (sys.executable, "-m", "airflow_provider_rtlake.cli")
    trino = stack.connection("rtlake_trino")
    dbt = project / "dbt" / "sales"
    deploy = (
        (*rtlake, "connectors", "apply"),
        (*rtlake, "stream", "apply", "--lane", "bronze", "--lane", "transactions"),
        (*rtlake, "pinot", "apply"),
        (*rtlake, "stream", "apply", "--lane", "realtime"),
    )
    build = (_DBT, "build", "--project-dir", str(dbt), "--profiles-dir", str(dbt))
    return {
        "deploy": Comparison("lakehouse_deploy", deploy, {"RTLAKE_HOME": str(stack.home), "PYTHONPATH": str(project)}),
        "gold": Comparison(
            "lakehouse_gold",
            (build,),
            {
                "RTLAKE_TRINO_HOST": trino.host,
                "RTLAKE_TRINO_PORT": str(trino.port),
                "RTLAKE_TRINO_USER": trino.login or "rtlake",
                "DBT_TARGET_PATH": str(scratch / "target"),
                "DBT_LOG_PATH": str(scratch / "logs"),
                "DO_NOT_TRACK": "1",
            },
        ),
    }


def _dbt_modes(stack: Stack, scratch: Path) -> dict[str, Comparison]:
    """The modes of dbt_modes.py, each against ``dbt build`` by hand; each has a file of its own with silver."""
    from airflow_provider_rtlake.bench import dbt, source
    from airflow_provider_rtlake.dag_factories.dbt_modes import MODES

    bench = stack.home / "var" / "bench"
    events = source.prepare(bench / "events", events=10_000)
    days = dbt.event_time(events.source.months)
    by_hand = scratch / "taxi.duckdb"
    source.lay_silver(by_hand, events)
    steps = ((_DBT, *dbt.arguments(events.source.months)),)
    found = {}
    for name in MODES:
        database = bench / "dbt" / f"{name}.duckdb"
        source.lay_silver(database, events)
        conf = {"database": str(database), "event_time_start": days[1], "event_time_end": days[3]}
        found[name] = Comparison(name, steps, dbt.environment(by_hand), conf)
    return found


def compare(
    stack: Stack, project: Path, names: list[str], runs: int, told: Callable[[str], None]
) -> dict[str, dict[str, Any]]:
    """Run DAGs and their steps by hand in turn, after one round of each that is not counted.

    :param stack: a running one.
    :param project: folder of the project.
    :param names: of the comparisons.
    :param runs: of each side.
    :param told: gets a line after each run.
    :return: for each name the two sides, their ratio and what a task costs beside its step.
    :raises UserError: there is no such comparison.
    """
    from airflow_provider_rtlake.dag_factories.dbt_modes import MODES

    given = stack.connection("rtlake_airflow")
    result = {}
    with tempfile.TemporaryDirectory(prefix="rtlake-bench-") as scratch:
        known = comparisons(stack, project, Path(scratch))
        if any(name.startswith("dbt_") for name in names):
            known |= _dbt_modes(stack, Path(scratch))
        unknown = [name for name in names if name not in known]
        if unknown:
            raise UserError(f"no such comparison: {', '.join(unknown)}; there are {', '.join([*known, *MODES])}")
        airflow = Airflow(f"http://{given.host}:{given.port}", str(given.login), str(given.password))
        try:
            for name in names:
                result[name] = _one(airflow, stack, known[name], runs, told)
        finally:
            airflow.close()
    return result


def _one(
    airflow: Airflow, stack: Stack, comparison: Comparison, runs: int, told: Callable[[str], None]
) -> dict[str, Any]:
    by_dag, by_hand, tasks = Series(), Series(), 0
    priority = _priority(stack)
    with airflow.unpaused([comparison.dag]):
        for number in range(runs + 1):
            hand = sum(_step(command, comparison.env, priority) for command in comparison.steps)
            dag, tasks = _dag_run(airflow, comparison)
            told(f"{comparison.dag}: by hand {hand:.1f} s, as a DAG {dag:.1f} s{'' if number else ' (not counted)'}")
            if number:
                by_hand.seconds.append(hand)
                by_dag.seconds.append(dag)
    return {
        "dag": by_dag.as_dict(),
        "by_hand": by_hand.as_dict(),
        "ratio": round(by_dag.median / by_hand.median, 3),
        "seconds_a_task": round((by_dag.median - by_hand.median) / tasks, 2),
        "tasks": tasks,
        "nice": priority,
    }


def _dag_run(airflow: Airflow, comparison: Comparison) -> tuple[float, int]:
    """Seconds from queueing to end, and how many tasks ran."""
    dag = comparison.dag
    run = airflow.trigger(dag, dict(comparison.conf))
    airflow.wait({dag: run}, limit=LIMIT)
    told = airflow.dag_run(dag, run)
    begin, end = (isoparse(str(told[key])) for key in ("queued_at", "end_date"))
    return (end - begin).total_seconds(), len(airflow.tasks(dag, run))


def _step(command: tuple[str, ...], env: Mapping[str, str], priority: int) -> float:
    begin = time.monotonic()
    done = subprocess.run(
        ["nice", "-n", str(priority), *command],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT,
    )
    if done.returncode:
        raise CheckFailed(f"{' '.join(command)} failed:\n{(done.stdout + done.stderr)[-2000:]}")
    return time.monotonic() - begin


def _priority(stack: Stack) -> int:
    """How nice the scheduler is, and so its tasks: steps by hand must be as nice."""
    mine = int(psutil.Process().nice())
    for process in psutil.process_iter(["cmdline", "nice"]):
        words = process.info["cmdline"] or []
        if "scheduler" in words and any(str(stack.home) in word and word.endswith("airflow") for word in words):
            return max(0, int(process.info["nice"] or 0) - mine)
    return 0
