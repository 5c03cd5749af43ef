"""Columns that a history has of its own, and what a source column of the same name is called there."""

from __future__ import annotations

from collections.abc import Collection, Mapping

_EVENT = (
    ("position", "string"),
    ("lsn", "bigint"),
    ("tx", "bigint"),
    ("topic", "string"),
    ("partition", "int"),
    ("offset", "bigint"),
)

# Columns of every history after those of the source: name, Spark type.
HISTORY_COLUMNS: tuple[tuple[str, str], ...] = (
    ("effective_start_ts", "timestamp"),
    ("effective_end_ts", "timestamp"),
    ("is_current", "boolean"),
    ("is_deleted", "boolean"),
    ("record_hash", "string"),
    ("scd2_last", "boolean"),
    ("scd2_bucket", "int"),
    ("scd2_key_hash", "bigint"),
    ("scd2_key", "string"),
    ("scd2_last_position", "string"),
    ("scd2_origin", "string"),
    ("scd2_moved", "boolean"),
    *((f"scd2_opened_{name}", kind) for name, kind in _EVENT),
    *((f"scd2_closed_{name}", kind) for name, kind in _EVENT),
    ("scd2_closed_by", "string"),
    ("scd2_previous_key", "string"),
    ("scd2_next_key", "string"),
    ("scd2_unknown", "string"),
)
RESERVED = frozenset(name for name, _ in HISTORY_COLUMNS)
SUFFIX = "_src"


def history_name(column: str, others: Collection[str] = ()) -> str:
    """A source column's name in the history: its own, with ``_src`` behind it where the history has one of that name.

    :param column: of the source.
    :param others: further columns of the source.
    """
    name = column
    while name.lower() in RESERVED or (name != column and name in others):
        name += SUFFIX
    return name


def first_name(column: str, renamed_from: Mapping[str, str]) -> str:
    """What a column was called at first: keys are spelled so, for a row stays the same row.

    :param column: of the source.
    :param renamed_from: new name → old one.
    """
    met = {column}
    while renamed_from.get(column, column) not in met:
        column = renamed_from[column]
        met.add(column)
    return column
