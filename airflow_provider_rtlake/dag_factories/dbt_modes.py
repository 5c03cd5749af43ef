"""Three ways to run one dbt project under Airflow, for ``rtlake bench airflow``: they build what p00 left.

The pipelines take the first; the other two are Cosmos' own and are here so that the choice can be measured again.
"""

from __future__ import annotations

from pathlib import Path

from airflow.sdk import DAG, Param

from airflow_provider_rtlake.bench import dbt
from airflow_provider_rtlake.dag_factories.common import OWNER, TAG, log_link, wanted
from airflow_provider_rtlake.dag_factories.dbt import MANIFEST

MODES = {
    "dbt_once": "one task: one dbt process builds and tests all nodes",
    "dbt_watcher": "Cosmos' watcher mode: one dbt process, and a sensor for each node",
    "dbt_node_by_node": "Cosmos' local mode: a dbt process for each node",
}
_FLAGS = [
    "--event-time-start", "{{ params.event_time_start }}", "--event-time-end", "{{ params.event_time_end }}",
]  # fmt: skip


def dbt_mode_dags() -> list[DAG]:
    """One DAG for each mode."""
    return [_dag(name) for name in MODES if wanted(name)]


def _dag(name: str) -> DAG:
    with DAG(
        name,
        description=MODES[name],
        doc_md=f"{MODES[name][0].upper()}{MODES[name][1:]}. Started by `rtlake bench airflow {name}`.",
        schedule=None,
        catchup=False,
        max_active_runs=1,
        max_active_tasks=1 if name == "dbt_node_by_node" else 16,  # DuckDB has one writer
        is_paused_upon_creation=False,
        tags={TAG, "benchmark", "dbt"},
        default_args={"owner": OWNER, "retries": 0, "on_failure_callback": log_link},
        params={
            "database": Param("", type="string", description="DuckDB file that holds silver"),
            "event_time_start": Param("2024-01-01", type="string", description="First day of the events"),
            "event_time_end": Param("2024-02-01", type="string", description="Day after their last"),
        },
    ) as dag:
        _once(dbt.project()) if name == "dbt_once" else _by_cosmos(dbt.project(), watched=name == "dbt_watcher")
    return dag


def _environment() -> dict[str, str]:
    return {
        dbt.DATABASE_VARIABLE: "{{ params.database }}",
        dbt.EXPORTS_VARIABLE: "{{ params.database.rpartition('/')[0] }}",
        "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
        "DO_NOT_TRACK": "1",
    }


def _once(project: Path) -> None:
    from airflow_provider_rtlake.operators.dbt import DbtBuildOnceOperator

    DbtBuildOnceOperator(
        task_id="dbt_build",
        project_dir=str(project),
        profile=dbt.PROFILE,
        target_name="duckdb",
        target="{{ params.database }}-once",
        env=_environment(),
        dbt_cmd_flags=_FLAGS,
    )


def _by_cosmos(project: Path, *, watched: bool) -> None:
    from cosmos.airflow.task_group import DbtTaskGroup
    from cosmos.config import ExecutionConfig, ProfileConfig, ProjectConfig, RenderConfig
    from cosmos.constants import ExecutionMode, InvocationMode, LoadMode, TestBehavior

    DbtTaskGroup(
        group_id="dbt",
        project_config=ProjectConfig(
            project, manifest_path=project / MANIFEST, install_dbt_deps=False, env_vars=_environment()
        ),
        profile_config=ProfileConfig(
            profile_name=dbt.PROFILE, target_name="duckdb", profiles_yml_filepath=project / "profiles.yml"
        ),
        execution_config=ExecutionConfig(
            execution_mode=ExecutionMode.WATCHER if watched else ExecutionMode.LOCAL,
            invocation_mode=InvocationMode.DBT_RUNNER,
        ),
        render_config=RenderConfig(
            load_method=LoadMode.DBT_MANIFEST,
            # The watcher's sensors and a build of each node run the tests with their model.
            test_behavior=TestBehavior.AFTER_EACH if watched else TestBehavior.BUILD,
            emit_datasets=False,
        ),
        operator_args={
            "append_env": True,
            "dbt_cmd_flags": _FLAGS,
            "should_store_compiled_sql": False,
        },
    )
