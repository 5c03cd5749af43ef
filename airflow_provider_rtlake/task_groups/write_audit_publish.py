"""Write, audit, publish: tables change on a branch, are checked there, appear all at once or not at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from airflow.providers.common.compat.sdk import BaseOperator, TaskGroup

from airflow_provider_rtlake.hooks.nessie import NessieHook
from airflow_provider_rtlake.operators.nessie import NessieCreateBranchOperator, NessieMergeBranchOperator

Tasks = BaseOperator | TaskGroup
# A branch for each run: a retry of the run works on with it, another run gets its own.
DEFAULT_BRANCH = "wap_{{ dag.dag_id }}_{{ run_id | replace(':', '') | replace('+', '_') | replace('.', '_') }}"


def write_audit_publish(
    group_id: str,
    *,
    write: Callable[[str], Tasks | list[Tasks]],
    audit: Callable[[str], Tasks | list[Tasks]],
    branch: str = DEFAULT_BRANCH,
    into: str | None = None,
    message: str | None = None,
    nessie_conn_id: str = NessieHook.default_conn_name,
    **kwargs: Any,
) -> TaskGroup:
    """Make the tasks: branch → write → audit → publish.

    Where a write or an audit fails, nothing is published and the branch stays for inspection; clearing the
    failed task works on with it. After publishing the branch is deleted.

    :param group_id: the group's id.
    :param write: gets the branch's name (a template), returns the task, or tasks, that write to it.
    :param audit: likewise, the tasks that check what was written.
    :param branch: the branch's name, a template that is the same for every try of one run.
    :param into: what to publish to; by default the connection's branch.
    :param message: commit message of the publishing merge (templated).
    :param nessie_conn_id: connection id (templated).
    :param kwargs: further arguments of the task group.
    :return: the group. Its last task, ``publish``, pushes the merge's result.
    """
    with TaskGroup(group_id, **kwargs) as group:
        make = NessieCreateBranchOperator(task_id="branch", branch=branch, from_ref=into, nessie_conn_id=nessie_conn_id)
        publish = NessieMergeBranchOperator(
            task_id="publish",
            branch=branch,
            into=into,
            message=message,
            delete_branch=True,
            nessie_conn_id=nessie_conn_id,
        )
        with TaskGroup("write") as written:
            write(branch)
        with TaskGroup("audit") as audited:
            audit(branch)
        make >> written >> audited >> publish
    return group
