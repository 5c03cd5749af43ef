"""What a merge is asked to do: rendered from a declaration, handed to the Spark job as a file. Holds no secret."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from airflow_provider_rtlake.scd2.change import DEFAULT_PLACEHOLDER
from airflow_provider_rtlake.scd2.names import history_name
from airflow_provider_rtlake.streams.model import Stream


class MergeRequest(BaseModel):
    """One table's merge.

    :param history: history table, ``namespace.name``.
    :param base: what its companion tables are named after.
    :param bronze: table of every change.
    :param transactions: table of the connector's transaction markers; None publishes without waiting for whole ones.
    :param notifications: table of the connector's notifications; None judges the end of a snapshot by its signs.
    :param collection: ``schema.table`` at the source.
    :param untracked: Type 1 columns, as the history names them.
    :param renamed_from: new column → old one.
    :param text_columns: columns kept as text, in which NaN and infinities may stand.
    :param excluded: columns that are left out.
    :param placeholder: the connector's ``unavailable.value.placeholder``.
    :param catalog: name of the catalog in Spark's settings; the object store's keys come from Spark's environment.
    :param nessie_uri: Nessie's API v2; by default the catalog's ``uri``.
    :param main: the branch to publish on.
    :param patience_seconds: how long an incomplete transaction holds back what follows it.
    :param snapshot_patience_seconds: how long a snapshot whose end nothing tells waits for more rows.
    :param max_rows: rows of bronze taken in one merge; more are taken in several.
    :param buckets: partitions of the last versions; by default chosen when the history is made.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    history: str
    base: str
    bronze: str
    transactions: str | None = None
    notifications: str | None = None
    collection: str
    untracked: tuple[str, ...] = ()
    renamed_from: dict[str, str] = Field(default_factory=dict)
    text_columns: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    placeholder: str = DEFAULT_PLACEHOLDER
    catalog: str = "nessie"
    nessie_uri: str | None = None
    main: str = "main"
    patience_seconds: float = Field(default=300.0, ge=0)
    snapshot_patience_seconds: float = Field(default=20.0, ge=0)
    max_rows: int = Field(default=1_000_000, ge=1)
    buckets: int | None = Field(default=None, ge=1, le=4096)

    @property
    def checkpoint(self) -> str:
        """Table of the positions reached."""
        return f"{self.base}_checkpoint"

    @property
    def changes(self) -> str:
        """Table of the changes applied."""
        return f"{self.base}_changes"

    @property
    def unread(self) -> str:
        """Table of the rows of bronze that are no changes."""
        return f"{self.base}_unread"


def read_requests(path: Path) -> list[MergeRequest]:
    """Read a file of requests: a JSON list."""
    return TypeAdapter(list[MergeRequest]).validate_json(path.read_text(encoding="utf-8"))


def request_for(stream: Stream, **settings: Any) -> MergeRequest:
    """Render the request of a declared table.

    :param stream: the table; it keeps a history.
    :param settings: further fields of :class:`MergeRequest`.
    :raises ValueError: the table keeps no history.
    """
    history, base = stream.history_table, stream.history_base
    if history is None or base is None or stream.table.history is False:
        raise ValueError(f"{stream.source} keeps no history")
    declared = stream.table.history
    fields: dict[str, Any] = {
        "transactions": stream.bronze_transactions,
        "notifications": stream.bronze_notifications,
        "untracked": tuple(map(history_name, declared.untracked)),
        "renamed_from": declared.renamed_from,
        "text_columns": declared.accept_loss,
        "excluded": stream.table.exclude,
        **settings,
    }
    return MergeRequest(
        history=history,
        base=base,
        bronze=stream.bronze_table,
        collection=f"{stream.schema_name}.{stream.table_name}",
        **fields,
    )
