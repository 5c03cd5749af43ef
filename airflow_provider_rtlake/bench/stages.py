"""The stages of every pipeline: what the stack does its own way is asked of its engine, all else is here once."""

from __future__ import annotations

import importlib
import statistics
import time

import duckdb

from airflow_provider_rtlake.bench import dbt, queries, silver
from airflow_provider_rtlake.bench.catalog import Pipeline
from airflow_provider_rtlake.bench.engines.base import Asker, Engine
from airflow_provider_rtlake.bench.record import TO_SILVER, QueryTimes
from airflow_provider_rtlake.bench.run import Account, Run
from airflow_provider_rtlake.exceptions import CheckFailed

_WARM = 3  # further executions of each query


def engine(run: Run) -> Engine:
    """The engine of a run's pipeline.

    :param run: whose events are laid down.
    """
    return engine_class(run.pipeline)(run)


def engine_class(pipeline: Pipeline) -> type[Engine]:
    """The class that a declaration names."""
    module, name = pipeline.engine.split(":")
    found: type[Engine] = getattr(importlib.import_module(f"airflow_provider_rtlake.bench.engines.{module}"), name)
    return found


def execute(run: Run, name: str) -> None:
    """Run one stage and leave its account.

    :param name: one of ``prepare``, ``generate``, ``process``, ``dbt``, ``query``, ``check``.
    """
    with run.stage(name) as account:
        _STAGES[name](engine(run), account)


def _prepare(stack: Engine, account: Account) -> None:
    stack.prepare(account)


def _generate(stack: Engine, account: Account) -> None:
    stack.generate(account)


def _process(stack: Engine, account: Account) -> None:
    stack.process(account)


def before_dbt(stack: Engine, account: Account) -> None:
    """Make silver readable for dbt, and note its checksum."""
    begin = time.monotonic()
    with duckdb.connect(str(stack.database)) as connection:
        stack.bring_silver(connection)
        _, account.checksum = connection.execute(silver.checksum("silver.trips")).fetchone() or (0, None)
    account.measures["silver_read_seconds"] = round(time.monotonic() - begin, 3)


def _dbt(stack: Engine, account: Account) -> None:
    before_dbt(stack, account)
    account.dbt = dbt.build(stack.database, stack.events.source.months)
    after_dbt(stack, account)


def after_dbt(stack: Engine, account: Account) -> None:
    """A failed test fails the stage.

    :raises CheckFailed: a model or a test failed.
    """
    folder = dbt.target(stack.database)
    found = dbt.problems(folder / "run_results.json")
    if account.dbt is None or account.dbt.failed:
        raise CheckFailed(f"dbt: {len(found)} nodes failed, its log is {folder / 'build.log'}: {'; '.join(found[:3])}")


def _query(stack: Engine, account: Account) -> None:
    wanted = stack.events.reference.answers
    for asker in stack.askers():
        for name in queries.TITLES:
            times, rows = _timed(asker, name)
            account.queries.setdefault(name, []).append(
                QueryTimes(
                    engine=asker.engine,
                    cold=times[0],
                    warm=statistics.median(times[1:]),
                    rows=len(rows),
                    note=asker.note,
                )
            )
            wrong = queries.difference(wanted[name], rows)
            if wrong:
                raise CheckFailed(f"{name} from {asker.engine}: {wrong}")


def _timed(asker: Asker, name: str) -> tuple[list[float], queries.Answer]:
    times, rows = [], queries.Answer()
    for _ in range(1 + _WARM):
        begin = time.perf_counter()
        found = asker.ask(name)
        times.append(round(time.perf_counter() - begin, 4))
        rows = queries.canonical(found)
    return times, rows


def _windows(stack: Engine, account: Account) -> None:
    stack.windows(account)


def _check(stack: Engine, account: Account) -> None:
    stack.count_hops(account)
    with duckdb.connect(str(stack.database), read_only=True) as connection:
        rows, found = connection.execute(silver.checksum("silver.trips")).fetchone() or (0, "")
    reference = stack.events.reference
    if (rows, found) != (reference.rows_out, reference.checksum):
        raise CheckFailed(
            f"silver has {rows} rows and checksum {found}, the reference {reference.rows_out} and {reference.checksum}"
        )
    counted = [*account.hops, *(hop for outcome in stack.run.outcomes() for hop in outcome.hops)]
    hops = [hop for hop in counted if hop.name == TO_SILVER]
    rejected = {reason: count for hop in hops for reason, count in hop.rejected.items() if count}
    if rejected != reference.rejected:
        raise CheckFailed(f"rejected {rejected}, the reference {reference.rejected}")


_STAGES = {
    "prepare": _prepare,
    "generate": _generate,
    "process": _process,
    "dbt": _dbt,
    "query": _query,
    "windows": _windows,
    "check": _check,
}
