"""The benchmark's dbt stage as a task: Cosmos' operator builds, the stage accounts for it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_provider_rtlake.operators.benchmark import run_of
from airflow_provider_rtlake.operators.dbt import DbtBuildOnceOperator
from airflow_provider_rtlake.operators.errors import no_retry_of_terminal_errors

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context


class BenchmarkDbtOperator(DbtBuildOnceOperator):
    """``dbt build`` of the taxi project in the DuckDB file of a run.

    :param folder: the run's folder (templated).
    """

    template_fields: Sequence[str] = (*DbtBuildOnceOperator.template_fields, "folder")

    def __init__(self, *, folder: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.folder = folder

    @no_retry_of_terminal_errors()
    def execute(self, context: Context, **kwargs: Any) -> None:
        """See base class; the account is in the run's folder, and the outcomes for the tasks that show the nodes."""
        from airflow_provider_rtlake.bench import dbt, drive, stages

        run = run_of(self.folder)
        with run.stage("dbt") as account, closing(stages.engine(run)) as stack:
            self.env = dbt.environment(stack.database)
            self.target = str(dbt.target(stack.database))
            self.dbt_cmd_flags = dbt.event_time(stack.events.source.months)
            build = super().execute
            try:
                stages.build_by(stack, account, lambda: build(context, **kwargs))
            finally:
                if (Path(self.target) / "run_results.json").exists():
                    instance = context["ti"]
                    dbt.keep_outcomes(drive.results_folder(), f"{instance.dag_id}/{instance.run_id}", stack.database)

    def handle_exception_dbt_runner(self, result: Any) -> None:
        """A node that failed is told by the results; only a build that could not begin is raised here."""
        if result.exception is not None:
            super().handle_exception_dbt_runner(result)
