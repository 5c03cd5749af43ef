"""Benchmark pipelines as tasks: each stage is one, and what they say to each other is in the run's folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseOperator, Context

from airflow_provider_rtlake.exceptions import CheckFailed
from airflow_provider_rtlake.operators.errors import no_retry_of_terminal_errors
from airflow_provider_rtlake.operators.values import truth

if TYPE_CHECKING:
    from airflow_provider_rtlake.bench.run import Run


def run_of(folder: str) -> Run:
    """The run that a folder belongs to.

    :param folder: as :class:`BenchmarkBeginOperator` returned it.
    """
    from airflow_provider_rtlake.bench.catalog import find
    from airflow_provider_rtlake.bench.run import Run

    path = Path(folder)
    return Run(path, find(path.name.split("-", 1)[0]))


class BenchmarkBeginOperator(BaseOperator):
    """Lays the events down, makes the services ready and begins a run.

    :param pipeline: id of the pipeline, such as ``p01`` (templated).
    :param events: how many (templated).
    :param source: taxi Parquet file or folder; empty for the environment's, or made-up trips (templated).
    :param synthetic: ``true`` to make trips up in any case (templated).
    :param mode: ``batch`` or ``streaming``; empty for the pipeline's own (templated).
    :param exclusive: ``true`` to stop services that are not needed, but Airflow and its database (templated).
    """

    template_fields: Sequence[str] = ("pipeline", "events", "source", "synthetic", "mode", "exclusive")

    def __init__(
        self,
        *,
        pipeline: str,
        events: str = "10000",
        source: str = "",
        synthetic: str = "false",
        mode: str = "",
        exclusive: str = "false",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.pipeline = pipeline
        self.events = events
        self.source = source
        self.synthetic = synthetic
        self.mode = mode
        self.exclusive = exclusive

    @no_retry_of_terminal_errors()
    def execute(self, context: Context) -> str:
        """The run's folder."""
        from airflow_provider_rtlake.bench import drive
        from airflow_provider_rtlake.bench.catalog import find

        wish = drive.Wish(
            events=int(self.events),
            source=Path(self.source) if self.source else None,
            synthetic=truth(self.synthetic, "synthetic"),
            mode=self.mode or None,
            exclusive=truth(self.exclusive, "exclusive"),
        )
        run = drive.begin(
            find(self.pipeline),
            wish,
            drive.results_folder(),
            self.log.info,
            orchestrator="Airflow",
            orchestrator_run=f"{context['ti'].dag_id}/{context['ti'].run_id}",
        )
        return str(run.folder)


class BenchmarkStageOperator(BaseOperator):
    """One stage of a run.

    :param stage: its name.
    :param folder: the run's folder (templated).
    """

    template_fields: Sequence[str] = ("folder",)

    def __init__(self, *, stage: str, folder: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.stage = stage
        self.folder = folder

    @no_retry_of_terminal_errors()
    def execute(self, context: Context) -> None:
        """Run it; its account is in the run's folder."""
        from airflow_provider_rtlake.bench import stages

        stages.execute(run_of(self.folder), self.stage)


class BenchmarkRecordOperator(BaseOperator):
    """Puts the stages' accounts together; fails where a stage failed.

    :param folder: the run's folder (templated).
    """

    template_fields: Sequence[str] = ("folder",)

    def __init__(self, *, folder: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.folder = folder

    @no_retry_of_terminal_errors()
    def execute(self, context: Context) -> dict[str, Any]:
        """The record's figures."""
        from airflow_provider_rtlake.bench import stages

        record = stages.finish(run_of(self.folder))
        if record.status != "success":
            raise CheckFailed(f"{record.pipeline}: {record.reason}")
        return record.figures()
