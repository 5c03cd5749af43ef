"""dbt projects in DAGs: built by one process, rendered by Cosmos node by node from a manifest made beforehand."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator, TaskGroup

MANIFEST = "manifest.json"  # of a project, beside its dbt_project.yml; see bench/manifest.py


def target_folder(project: Path) -> str:
    """Where dbt keeps the parsed project between runs: a folder that only Airflow's own account writes to.

    :param project: the dbt project.
    """
    home = os.environ.get("AIRFLOW_HOME")
    return str(Path(home) / "dbt" / project.name) if home else str(project / "target")


def nodes(group_id: str, project: Path, *, profile: str, target_name: str, build: BaseOperator) -> TaskGroup:
    """The project's models, seeds and snapshots, as Cosmos renders them; each shows how the build went for it.

    :param group_id: of the task group.
    :param project: the dbt project, with its manifest.
    :param profile: name in its ``profiles.yml``.
    :param target_name: target of the profile.
    :param build: the task that builds all of them.
    """
    from cosmos.airflow.task_group import DbtTaskGroup
    from cosmos.config import ExecutionConfig, ProfileConfig, ProjectConfig, RenderConfig
    from cosmos.constants import DbtResourceType, InvocationMode, LoadMode, TestBehavior

    kinds = (DbtResourceType.MODEL, DbtResourceType.SEED, DbtResourceType.SNAPSHOT)
    group: TaskGroup = DbtTaskGroup(
        group_id=group_id,
        project_config=ProjectConfig(project, manifest_path=project / MANIFEST, install_dbt_deps=False),
        profile_config=ProfileConfig(
            profile_name=profile, target_name=target_name, profiles_yml_filepath=project / "profiles.yml"
        ),
        execution_config=ExecutionConfig(invocation_mode=InvocationMode.DBT_RUNNER),
        render_config=RenderConfig(
            load_method=LoadMode.DBT_MANIFEST,
            test_behavior=TestBehavior.NONE,
            emit_datasets=False,
            node_converters=dict.fromkeys(kinds, _shown),
            normalize_task_id=lambda node: node.name,
        ),
    )
    build >> group
    return group


def _shown(*, dag: Any, task_group: Any, node: Any, task_id: str, **_: Any) -> BaseOperator:
    from airflow_provider_rtlake.operators.dbt import DbtNodeOperator

    return DbtNodeOperator(
        task_id=task_id,
        dag=dag,
        task_group=task_group,
        node=node.unique_id,
        trigger_rule="all_done",  # each shows its own outcome, whatever became of those before it
        doc_md=f"`{node.unique_id}`: built and tested by the task before this group; this one shows how it went.",
    )
