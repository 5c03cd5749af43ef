"""Values that operators share: of an argument that a template may have made, and the name of a run."""

from __future__ import annotations

from airflow.providers.common.compat.sdk import Context

from airflow_provider_rtlake.exceptions import UserError

_WORDS = {"true": True, "false": False}


def truth(value: bool | str, name: str) -> bool:
    """A yes or no, also where a template rendered it to text: the text ``False`` must not count as yes.

    :param value: a boolean, or ``true`` or ``false`` in any case.
    :param name: of the argument, for the error.
    :raises UserError: it is anything else.
    """
    if isinstance(value, bool):
        return value
    word = _WORDS.get(str(value).strip().lower())
    if word is None:
        raise UserError(f"{name} must be true or false, not {value!r}")
    return word


def run_name(context: Context) -> str:
    """A name of the task's run that is the same for each of its tries.

    :param context: the task's context.
    """
    instance = context["ti"]
    return f"{instance.dag_id}/{instance.run_id}/{instance.task_id}/{instance.map_index}"
