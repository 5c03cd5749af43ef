"""The stages of every pipeline: what the stack does its own way is asked of its engine, all else is here once."""

from __future__ import annotations

import importlib
import logging
import statistics
import time
from collections.abc import Callable
from contextlib import closing

import duckdb

from airflow_provider_rtlake.bench import dbt, queries, silver
from airflow_provider_rtlake.bench.catalog import Pipeline
from airflow_provider_rtlake.bench.engines.base import Asker, Engine
from airflow_provider_rtlake.bench.record import TO_SILVER, QueryTimes, Record
from airflow_provider_rtlake.bench.run import Account, Run
from airflow_provider_rtlake.exceptions import CheckFailed

log = logging.getLogger(__name__)

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

    :param name: one of :data:`.record.STAGES`.
    """
    with run.stage(name) as account, closing(engine(run)) as stack:
        _STAGES[name](stack, account)


def finish(run: Run) -> Record:
    """The run's record; what it made in shared services is taken away, also where that does not succeed at once.

    :param run: whose stages have ended.
    """
    stack = engine(run)
    record = run.record(stack.versions)
    try:
        stack.clean()
    except Exception:  # a service that died fails the run, and must not hide that by failing its end as well
        log.exception("%s: not everything that the run made could be taken away", run.run_id)
    return record


def _prepare(stack: Engine, account: Account) -> None:
    stack.prepare(account)


def _generate(stack: Engine, account: Account) -> None:
    stack.generate(account)


def _process(stack: Engine, account: Account) -> None:
    stack.process(account)


def _before_dbt(stack: Engine, account: Account) -> None:
    """Make silver readable for dbt, and note its checksum."""
    begin = time.monotonic()
    with duckdb.connect(str(stack.database)) as connection:
        stack.bring_silver(connection)
        _, account.checksum = connection.execute(silver.checksum("silver.trips")).fetchone() or (0, None)
    account.measures["silver_read_seconds"] = round(time.monotonic() - begin, 3)


def _dbt(stack: Engine, account: Account) -> None:
    build_by(stack, account, lambda: dbt.build(stack.database, stack.events.source.months))


def build_by(stack: Engine, account: Account, build: Callable[[], None]) -> None:
    """dbt, run by whoever: silver is made readable for it before, and its results are taken in after it.

    :param build: runs dbt on the stack's database; does not raise where nodes fail.
    :raises CheckFailed: a model or a test failed.
    """
    results = dbt.target(stack.database) / "run_results.json"
    results.unlink(missing_ok=True)  # those of an earlier run
    _before_dbt(stack, account)
    build()
    account.dbt = dbt.result(results)
    if account.dbt.failed:
        found = dbt.problems(results)
        raise CheckFailed(
            f"dbt: {len(found)} nodes failed, its results are in {results.parent}: {'; '.join(found[:3])}"
        )


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


def _compact(stack: Engine, account: Account) -> None:
    stack.compact(account)


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
    "compact": _compact,
    "check": _check,
}
