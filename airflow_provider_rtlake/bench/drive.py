"""Runs a pipeline's stages one after another in this process."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from airflow_provider_rtlake.bench import machine, services, stages
from airflow_provider_rtlake.bench import source as sources
from airflow_provider_rtlake.bench.catalog import Pipeline
from airflow_provider_rtlake.bench.record import Record
from airflow_provider_rtlake.bench.run import Run
from airflow_provider_rtlake.exceptions import UserError
from airflow_provider_rtlake.kit.stack import default_home

RESULTS_VARIABLE = "RTLAKE_BENCH_DIR"


@dataclass(frozen=True)
class Wish:
    """What the user asks for.

    :param events: how many.
    :param source: Parquet file or folder.
    :param synthetic: make trips up in any case.
    :param seed: of what is made up.
    :param mode: how to process; None for the pipeline's default.
    :param exclusive: stop services that are not needed.
    :param cold: stop services that are needed first.
    :param settle: seconds to wait at most for a quiet machine.
    """

    events: int = 10_000
    source: Path | None = None
    synthetic: bool = False
    seed: int = 1
    mode: str | None = None
    exclusive: bool = False
    cold: bool = False
    settle: float = 120.0


def results_folder(named: Path | None = None) -> Path:
    """Folder of all runs: the named one, ``RTLAKE_BENCH_DIR``, or ``var/bench`` of RTLAKE_HOME.

    :raises UserError: nobody may write there.
    """
    variable = os.environ.get(RESULTS_VARIABLE)
    folder = named or (Path(variable) if variable else default_home() / "var" / "bench")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{folder}: {error.strerror}; name another folder with --results or {RESULTS_VARIABLE}"
        ) from None
    return folder.resolve()


def chosen_mode(pipeline: Pipeline, mode: str | None) -> str:
    """How a pipeline processes.

    :raises UserError: it does not know that mode.
    """
    if mode and mode not in pipeline.modes:
        raise UserError(f"{pipeline.id} knows {' and '.join(pipeline.modes)}, not {mode!r}")
    return mode or pipeline.modes[0]


def begin(
    pipeline: Pipeline,
    wish: Wish,
    results: Path,
    told: Callable[[str], None],
    *,
    orchestrator: str = "command line",
    orchestrator_run: str | None = None,
) -> Run:
    """Lay the events down, make the services ready, and begin a run.

    :param results: folder of all runs.
    :param told: told what happens.
    """
    mode = chosen_mode(pipeline, wish.mode)
    events = sources.prepare(
        results / "events", events=wish.events, source=wish.source, synthetic=wish.synthetic, seed=wish.seed
    )
    if wish.cold:
        services.stop(pipeline.needs, told)
    elif pipeline.needs:  # what happens to be down is started before the run, unless a cold run is asked for
        services.make_ready(pipeline.needs, exclusive=wish.exclusive, told=told)
    run = Run.begin(
        results,
        pipeline,
        mode=mode,
        orchestrator=orchestrator,
        orchestrator_run=orchestrator_run,
        exclusive=wish.exclusive,
        cold=wish.cold,
        # A DAG's own start is at work meanwhile.
        cpu_before=None if orchestrator_run else machine.settled(told, wish.settle),
    )
    run.keep_events(events)
    return run


def drive(pipeline: Pipeline, wish: Wish, results: Path | None, told: Callable[[str], None]) -> Record:
    """One run from begin to record; a stage that fails is told in the record, not raised.

    :param results: folder of all runs; see :func:`results_folder`.
    :param told: told what happens.
    """
    folder = results_folder(results)
    if "airflow" in pipeline.needs:
        from airflow_provider_rtlake.bench import by_airflow

        return by_airflow.run(pipeline, wish, folder, told)
    run = begin(pipeline, wish, folder, told)
    try:
        if wish.cold and pipeline.needs:
            with run.stage("services") as account:
                _, seconds = services.make_ready(pipeline.needs, exclusive=wish.exclusive, told=told)
                account.measures["services_seconds"] = round(seconds, 2)
        for name in pipeline.stages:
            told(name)
            stages.execute(run, name)
    except Exception as error:
        told(f"{type(error).__name__}: {error}")
    return stages.finish(run)
