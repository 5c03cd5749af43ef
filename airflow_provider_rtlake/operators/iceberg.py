"""Upkeep of Iceberg tables on Nessie: small files become large ones, what nobody can see any more is deleted.

It works through Trino, so no JVM has to start. Nothing is deleted while another branch or tag can see the
table, nor a
snapshot that a stored position still reads from. A merge that runs at the same time is safe without a
lock: Nessie
refuses whichever of the two comes second, and it starts over.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from typing import Any

from airflow.providers.common.compat.sdk import AirflowSkipException, Context

from airflow_provider_rtlake.checks.names import TableName
from airflow_provider_rtlake.exceptions import NotFound, UserError
from airflow_provider_rtlake.hooks.nessie import NessieHook
from airflow_provider_rtlake.maintenance import plan
from airflow_provider_rtlake.operators.errors import no_retry_of_terminal_errors
from airflow_provider_rtlake.operators.trino_base import TrinoOperator
from airflow_provider_rtlake.operators.values import truth


class IcebergMaintainTableOperator(TrinoOperator):
    """Compact a table, and delete old snapshots and orphaned files where no other reference can see them.

    :param table: ``namespace.name`` on the branch that readers look at (templated).
    :param catalog: Trino's name of the lakehouse.
    :param actions: any of ``compact``, ``manifests``, ``expire``, ``orphans``, in this order.
    :param keep: snapshots and files younger than this stay. Files being written are younger: keep it above
        the longest write.
    :param small_file_mb: data files below this many MB are put together.
    :param min_small_files: from so many small or delete files on it is worth it.
    :param needed_by: table of positions (``namespace.name``) → its column that names a snapshot of this
        table: that
        snapshot and all later ones stay.
    :param merge_of: a history whose merges write this table: while one of its branches is open, nothing is
        done.
    :param trino_conn_id: connection id (templated).
    :param nessie_conn_id: connection id (templated).
    :param dry_run: only say what would be done (templated).
    :return: ``before`` and ``after`` (numbers of files and snapshots), ``done``, ``skipped`` with reasons,
        ``changed``.
    """

    template_fields = ("trino_conn_id", "nessie_conn_id", "table", "catalog", "dry_run_only")
    ui_color = "#e9e4d4"

    def __init__(
        self,
        *,
        table: str,
        catalog: str = "nessie",
        actions: Sequence[str] = plan.ACTIONS,
        keep: timedelta = timedelta(days=7),
        small_file_mb: int = 64,
        min_small_files: int = 16,
        needed_by: Mapping[str, str] | None = None,
        merge_of: str | None = None,
        nessie_conn_id: str = NessieHook.default_conn_name,
        dry_run: bool | str = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.table = table
        self.catalog = catalog
        self.actions = actions
        self.keep = keep
        self.small_file_mb = small_file_mb
        self.min_small_files = min_small_files
        self.needed_by = needed_by
        self.merge_of = merge_of
        self.nessie_conn_id = nessie_conn_id
        self.dry_run_only = dry_run

    def execute(self, context: Context) -> dict[str, Any]:
        """Do what may be done; the result goes to XCom.

        :param context: the task's context.
        """
        with no_retry_of_terminal_errors(), NessieHook(self.nessie_conn_id) as nessie:
            return self.maintain(nessie)

    def maintain(self, nessie: NessieHook) -> dict[str, Any]:
        """Do what may be done.

        :param nessie: hook of the catalog behind the tables.
        """
        unknown = [action for action in self.actions if action not in plan.ACTIONS]
        if unknown:
            raise UserError(f"no such action: {', '.join(unknown)}; there are {', '.join(plan.ACTIONS)}")
        table = self._trino_name(self.table)
        if nessie.client.content(tuple(self.table.split(".")), nessie.branch) is None:
            return {"done": [], "skipped": {"all": f"there is no table {self.table} yet"}, "changed": False}
        before = self._census(table)
        done: list[str] = []
        skipped: dict[str, str] = {}
        for action in (name for name in plan.ACTIONS if name in self.actions):
            reason = self._reason_against(action, nessie, before) or self._do(action, table)
            if reason:
                self.log.info("%s of %s: not done: %s", action, self.table, reason)
                skipped[action] = reason
            else:
                done.append(action)
        after = self._census(table) if done and not self._only_told else before
        return {
            "before": before,
            "after": after,
            "done": done,
            "skipped": skipped,
            "changed": after != before,
        }

    @property
    def _only_told(self) -> bool:
        return truth(self.dry_run_only, "dry_run")

    def _reason_against(self, action: str, nessie: NessieHook, census: Mapping[str, int]) -> str:
        """Why an action is not done; nothing where it is."""
        if not census["snapshots"]:
            return "nothing was ever written to it"  # Trino's optimize_manifests fails there
        branches = [reference.name for reference in nessie.client.references()]
        merging = plan.merges_in_flight(branches, self.merge_of)
        if merging:
            return f"a merge is not published yet: {', '.join(merging)}"
        if action not in plan.DELETING:
            work = census["small_files"] + census["delete_files"]
            if action == "compact" and work < self.min_small_files:
                return f"only {work} small or delete files"
            return ""
        key = tuple(self.table.split("."))
        others = plan.possible_witnesses(branches, nessie.branch, self.merge_of)
        seeing = [name for name in others if nessie.client.content(key, name) is not None]
        if seeing:
            return f"other references can see its files: {', '.join(seeing)}; delete those of no use"
        return ""

    def _do(self, action: str, table: TableName) -> str:
        """Do it; says why where there turns out to be nothing to do."""
        keep = self.keep
        if action == "expire":
            needed = {name: self._needed(name, column, table) for name, column in (self.needed_by or {}).items()}
            kept = plan.retention(self.keep, datetime.now(timezone.utc), needed)
            keep = kept.keep
            if kept.because:
                self.log.warning("keeping more of %s than %s: %s", self.table, self.keep, kept.because)
            if not self.query(plan.expirable_sql(table, keep))[0][0]:
                return "no snapshot is that old" + (f"; {kept.because}" if kept.because else "")
        sql = plan.action_sql(action, table, keep=keep, small_file_mb=self.small_file_mb)
        if self._only_told:
            self.log.info("would run: %s", sql)
        elif action in plan.DELETING:
            with self._deletion_allowed(table):
                # The catalog's minimum guards those who type the statement; here references and positions were checked.
                self.query(sql, session={f"{self.catalog}.expire_snapshots_min_retention": "0s"})
        else:
            self.query(sql)
        return ""

    @contextmanager
    def _deletion_allowed(self, table: TableName) -> Iterator[None]:
        """Iceberg refuses to delete files of a table on Nessie; it is allowed for this one statement."""
        self.query(plan.allow_deletion_sql(table, True))
        try:
            yield
        finally:
            self.query(plan.allow_deletion_sql(table, False))

    def _needed(self, checkpoint: str, column: str, table: TableName) -> datetime | None:
        try:
            rows = self.query(plan.needed_snapshot_sql(self._trino_name(checkpoint), column, table))
        except NotFound:
            return None  # nothing has been merged yet
        return rows[0][0] if rows else None

    def _census(self, table: TableName) -> dict[str, int]:
        row = self.query(plan.census_sql(table, self.small_file_mb))[0]
        names = ("data_files", "small_files", "delete_files", "snapshots")
        return dict(zip(names, (int(value) for value in row), strict=True))

    def _trino_name(self, table: str) -> TableName:
        namespace, _, name = table.rpartition(".")
        return TableName(self.catalog, namespace, name)


class IcebergScd2NewChangesOperator(TrinoOperator):
    """Skip what follows while bronze holds nothing that a history has not seen: no Spark driver starts in vain.

    :param bronze: the table of changes, ``namespace.name`` (templated).
    :param checkpoint: the history's table of positions, likewise (templated).
    :param catalog: Trino's name of the lakehouse (templated).
    :param trino_conn_id: connection id (templated).
    :param nessie_conn_id: connection id (templated).
    :return: ``snapshot`` of bronze, and ``seen``, the one that the history has read up to.
    """

    template_fields = ("trino_conn_id", "nessie_conn_id", "bronze", "checkpoint", "catalog")
    ui_color = "#e9e4d4"

    def __init__(
        self,
        *,
        bronze: str,
        checkpoint: str,
        catalog: str = "nessie",
        nessie_conn_id: str = NessieHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.bronze = bronze
        self.checkpoint = checkpoint
        self.catalog = catalog
        self.nessie_conn_id = nessie_conn_id

    def execute(self, context: Context) -> dict[str, Any]:
        """Look.

        :param context: the task's context.
        :raises AirflowSkipException: there is nothing new.
        """
        with no_retry_of_terminal_errors(), NessieHook(self.nessie_conn_id) as nessie:
            entry = nessie.client.content(tuple(self.bronze.split(".")), nessie.branch)
        if entry is None or entry.snapshot_id in (None, -1):
            raise AirflowSkipException(f"nothing is captured in {self.bronze} yet")
        seen, reread = self._position()
        if seen == reread == entry.snapshot_id:
            raise AirflowSkipException(f"{self.bronze} holds nothing new since snapshot {seen}")
        return {"snapshot": entry.snapshot_id, "seen": seen}

    def _position(self) -> tuple[int | None, int | None]:
        namespace, _, name = self.checkpoint.rpartition(".")
        table = TableName(self.catalog, namespace, name)
        try:
            rows = self.query(
                f"SELECT bronze_seen, bronze_snapshot FROM {table.sql} ORDER BY merged_at DESC LIMIT 1"  # noqa: S608
            )
        except NotFound:
            return None, None  # nothing has been merged yet
        return tuple(rows[0]) if rows else (None, None)
