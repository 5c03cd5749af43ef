"""Waits for new changes in bronze."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from airflow.providers.common.compat.sdk import Context, PokeReturnValue

from airflow_provider_rtlake.hooks.nessie import NessieHook
from airflow_provider_rtlake.operators.errors import no_retry_of_terminal_errors
from airflow_provider_rtlake.sensors.base import WaitingSensor
from airflow_provider_rtlake.triggers.scd2 import IcebergNewSnapshotTrigger, new_snapshot


class IcebergNewSnapshotSensor(WaitingSensor):
    """Waits until an Iceberg table on Nessie has a snapshot other than the one known.

    :param table: ``namespace.name`` (templated).
    :param since: snapshot known already, such as the last run's result; empty takes any (templated).
    :param nessie_conn_id: connection id (templated).
    :param deferrable: wait in the triggerer instead of in a worker.
    :return: the new snapshot's id.
    """

    template_fields: Sequence[str] = ("table", "since", "nessie_conn_id")

    def __init__(
        self,
        *,
        table: str,
        since: int | str | None = None,
        nessie_conn_id: str = NessieHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.table = table
        self.since = since
        self.nessie_conn_id = nessie_conn_id

    @cached_property
    def hook(self) -> NessieHook:
        """The hook, made when first needed."""
        return NessieHook(self.nessie_conn_id)

    @property
    def known(self) -> int | None:
        """The snapshot known already."""
        return None if self.since is None or self.since in ("", "None") else int(self.since)

    def poke(self, context: Context) -> PokeReturnValue:
        """Look once.

        :param context: the task's context.
        """
        with no_retry_of_terminal_errors():
            found = new_snapshot(self.hook, self.table, self.known)
        return PokeReturnValue(is_done=found is not None, xcom_value=found)

    def waiting(self, deadline: float) -> IcebergNewSnapshotTrigger:
        """See the base class.

        :param deadline: seconds since 1970.
        """
        return IcebergNewSnapshotTrigger(
            table=self.table,
            since=self.known,
            nessie_conn_id=self.nessie_conn_id,
            poll_interval=float(self.poke_interval),
            deadline=deadline,
        )
