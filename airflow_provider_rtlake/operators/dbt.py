"""dbt in one process, on Cosmos' operator: it builds and tests a whole project where the project lies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSkipException, BaseOperator
from airflow.triggers.base import StartTriggerArgs
from cosmos.config import ProfileConfig
from cosmos.constants import InvocationMode
from cosmos.operators.local import DbtBuildLocalOperator

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context


class DbtBuildOnceOperator(DbtBuildLocalOperator):  # type: ignore[misc]
    """``dbt build`` in the task's own process.

    Cosmos copies the project to a folder of its own for each task; with one task there is nobody to be kept apart
    from. What dbt writes (parsed project, results, logs) goes to ``target``, where the next run finds it: unchanged
    files are not parsed again.

    :param project_dir: of the dbt project; nothing is written there.
    :param profile: name in its ``profiles.yml``.
    :param target_name: target of the profile.
    :param target: folder that only Airflow's account writes to (templated).
    :param env: further environment of dbt (templated).
    """

    template_fields: Sequence[str] = (*DbtBuildLocalOperator.template_fields, "target")

    def __init__(self, *, project_dir: str, profile: str, target_name: str, target: str, **kwargs: Any) -> None:
        super().__init__(
            project_dir=project_dir,
            profile_config=ProfileConfig(
                profile_name=profile,
                target_name=target_name,
                profiles_yml_filepath=Path(project_dir) / "profiles.yml",
            ),
            invocation_mode=InvocationMode.DBT_RUNNER,
            install_deps=False,
            emit_datasets=False,
            append_env=True,
            should_store_compiled_sql=False,
            **kwargs,
        )
        self.target = target

    def run_command(self, cmd: list[str], env: dict[str, Any], context: Context, **_: Any) -> Any:
        """See base class; in the project's own folder.

        :raises CosmosDbtRunError: a model or a test failed, or dbt could not begin.
        """
        places = {"DBT_TARGET_PATH": self.target, "DBT_LOG_PATH": f"{self.target}/logs", "DO_NOT_TRACK": "1"}
        variables = {name: str(value) for name, value in {**env, **places}.items()}
        flags = [
            "--project-dir", self.project_dir, "--profiles-dir", self.project_dir,
            "--profile", self.profile_config.profile_name, "--target", self.profile_config.target_name,
        ]  # fmt: skip
        done = self.invoke_dbt(command=cmd + flags, env=variables, cwd=self.project_dir, context=context)
        self.handle_exception(done)
        return done


class DbtNodeOperator(BaseOperator):
    """Stands for one model, seed or snapshot of a build that another task ran, and ends as that has ended.

    It begins and ends in the triggerer, so it costs no process. ``airflow dags test`` has no triggerer: there it looks
    itself.

    :param node: the node's unique id.
    :param dag_run: ``dag id/run id`` of the build (templated).
    """

    template_fields: Sequence[str] = ("dag_run",)
    start_from_trigger = True

    def __init__(self, *, node: str, dag_run: str = "{{ ti.dag_id }}/{{ run_id }}", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.node = node
        self.dag_run = dag_run
        self.start_trigger_args = StartTriggerArgs(
            trigger_cls="airflow_provider_rtlake.triggers.dbt.DbtNodeTrigger",
            trigger_kwargs={"dag_run": dag_run, "node": node},
            next_method="execute_complete",
        )

    def execute(self, context: Context) -> None:
        """Where there is no triggerer."""
        from airflow_provider_rtlake.bench import dbt, drive

        found = dbt.node_outcome(drive.results_folder(), self.dag_run, self.node)
        if found.status == "skipped":
            raise AirflowSkipException(found.words)
        if found.status == "failed":
            raise AirflowFailException(found.words)
        self.log.info("%.2f s: %s", found.seconds, found.words)

    def execute_complete(self, context: Context, event: Any = None) -> None:
        """Not reached: the trigger ends the task."""
