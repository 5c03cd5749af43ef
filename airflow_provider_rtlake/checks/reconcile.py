"""Do two tables, perhaps in two catalogs, hold the same rows?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from airflow_provider_rtlake.checks.names import TableName, literal, quoted
from airflow_provider_rtlake.checks.types import as_text, comparable
from airflow_provider_rtlake.exceptions import UserError


@dataclass(frozen=True)
class Side:
    """One of the two tables.

    :param table: which.
    :param types: column → Trino type.
    :param where: an SQL condition on its rows, or None for all.
    """

    table: TableName
    types: Mapping[str, str]
    where: str | None = None

    @property
    def condition(self) -> str:
        """``WHERE …``, or nothing."""
        return f" WHERE {self.where}" if self.where else ""


@dataclass(frozen=True)
class Plan:
    """What is compared, and what is not.

    :param sql: gives ``kind`` (equal, different, missing_left, missing_right), ``rows`` and ``samples``.
    :param compared: columns compared.
    :param not_compared: column → why not.
    """

    sql: str
    compared: tuple[str, ...]
    not_compared: dict[str, str] = field(default_factory=dict)


def count_sql(side: Side) -> str:
    """A query for the number of rows.

    :param side: the table.
    """
    return f"SELECT count(*) FROM {side.table.sql}{side.condition}"  # noqa: S608


def key_text(columns: Sequence[str], types: Mapping[str, str], alias: str = "") -> str:
    """An expression that shows a row's key to a reader: ``id=7, region=north``.

    :param columns: key columns.
    :param types: column → Trino type.
    :param alias: the table's alias with a dot.
    """
    parts = []
    for number, column in enumerate(columns):
        name = literal(f"{', ' if number else ''}{column}=")
        parts.append(f"{name} || coalesce({as_text(alias + quoted(column), types[column])}, 'NULL')")
    return " || ".join(parts)


def comparable_columns(
    left: Side, right: Side, columns: Sequence[str] | None, ignored: Sequence[str]
) -> tuple[dict[str, tuple[str, str]], dict[str, str]]:
    """The columns that both tables have in a form that can be compared, and why the others are left out.

    :param left: one table.
    :param right: the other.
    :param columns: the columns to compare; None takes all that both have.
    :param ignored: columns that only one of them is meant to have.
    :raises UserError: a named column is missing or cannot be compared.
    """
    wanted = columns if columns is not None else [*left.types, *(c for c in right.types if c not in left.types)]
    pairs: dict[str, tuple[str, str]] = {}
    left_out: dict[str, str] = {}
    for column in wanted:
        if columns is None and column in ignored:
            continue
        lacking = [str(side.table) for side in (left, right) if column not in side.types]
        if lacking:
            left_out[column] = f"not in {' and '.join(lacking)}"
            continue
        pair = comparable(f"l.{quoted(column)}", left.types[column], f"r.{quoted(column)}", right.types[column])
        if pair is None:
            left_out[column] = f"{left.types[column]} and {right.types[column]} cannot be compared"
        else:
            pairs[column] = pair
    if columns is not None and left_out:
        raise UserError("; ".join(f"column {name}: {why}" for name, why in left_out.items()))
    return pairs, left_out


def reconcile(
    left: Side,
    right: Side,
    keys: Sequence[str],
    *,
    columns: Sequence[str] | None = None,
    ignored: Sequence[str] = (),
    samples: int = 10,
) -> Plan:
    """Compare two tables row by row in one query.

    A row that stands twice under one key on one side only counts as missing on the other.

    :param left: one table.
    :param right: the other.
    :param keys: columns that name a row.
    :param columns: the columns to compare; None takes all that both have.
    :param ignored: columns that only one of them is meant to have.
    :param samples: at most so many keys of each kind are shown.
    :raises UserError: a key or named column is missing or cannot be compared.
    """
    if not keys:
        raise UserError("rows can only be compared by key: name the key columns")
    on, _ = comparable_columns(left, right, keys, ())
    pairs, left_out = comparable_columns(left, right, columns, [*ignored, *keys])
    pairs = {name: pair for name, pair in pairs.items() if name not in keys}
    differing = ", ".join(
        f"IF({one} IS DISTINCT FROM {other}, {literal(name)})" for name, (one, other) in pairs.items()
    )
    differs = f"filter(ARRAY[{differing}], c -> c IS NOT NULL)" if pairs else "CAST(ARRAY[] AS array(varchar))"
    mine, theirs = key_text(keys, left.types, "l."), key_text(keys, right.types, "r.")
    key = f"IF(l.rtlake_n IS NULL, {theirs}, {mine})"
    sql = f"""
WITH l AS ({_numbered(left, keys)}), r AS ({_numbered(right, keys)}),
joined AS (
  SELECT l.rtlake_n AS in_left, r.rtlake_n AS in_right, {key} AS row_key, {differs} AS differs
  FROM l FULL OUTER JOIN r ON {" AND ".join(f"{one} = {other}" for one, other in on.values())}
    AND l.rtlake_n = r.rtlake_n
), judged AS (
  SELECT CASE WHEN in_left IS NULL THEN 'missing_left' WHEN in_right IS NULL THEN 'missing_right'
    WHEN cardinality(differs) > 0 THEN 'different' ELSE 'equal' END AS kind,
    row_key || IF(in_left IS NOT NULL AND in_right IS NOT NULL AND cardinality(differs) > 0,
      ' (' || array_join(differs, ', ') || ')', '') AS shown
  FROM joined
)
SELECT kind, count(*) AS rows, min(IF(kind <> 'equal', shown), {int(samples)}) AS samples
FROM judged GROUP BY kind
""".strip()  # noqa: S608
    return Plan(sql=sql, compared=tuple(pairs), not_compared=left_out)


def _numbered(side: Side, keys: Sequence[str]) -> str:
    """The side's rows with a number inside their key, so that a repeated row is found."""
    partition = ", ".join(quoted(key) for key in keys)
    return (
        f"SELECT *, row_number() OVER (PARTITION BY {partition}) AS rtlake_n "  # noqa: S608
        f"FROM {side.table.sql}{side.condition}"
    )


@dataclass(frozen=True)
class Comparison:
    """The answer of :func:`reconcile`'s query.

    :param rows: kind → number of rows.
    :param samples: kind → some keys.
    """

    rows: dict[str, int]
    samples: dict[str, list[str]]

    @classmethod
    def of(cls, answer: Sequence[Sequence[Any]]) -> Comparison:
        """Read the query's rows.

        :param answer: rows of ``kind``, ``rows``, ``samples``.
        """
        return cls(
            rows={kind: int(count) for kind, count, _ in answer},
            samples={kind: list(keys or ()) for kind, _, keys in answer if kind != "equal"},
        )

    @property
    def left(self) -> int:
        """Rows of the left side."""
        return sum(count for kind, count in self.rows.items() if kind != "missing_left")

    @property
    def right(self) -> int:
        """Rows of the right side."""
        return sum(count for kind, count in self.rows.items() if kind != "missing_right")

    @property
    def wrong(self) -> dict[str, int]:
        """Kind → number of rows, of what is not equal."""
        return {kind: count for kind, count in self.rows.items() if kind != "equal" and count}

    def describe(self, left: TableName, right: TableName) -> list[str]:
        """One line for each kind of difference, with keys.

        :param left: one table.
        :param right: the other.
        """
        heads = {
            "different": "differ",
            "missing_left": f"are not in {left}",
            "missing_right": f"are not in {right}",
        }
        lines = []
        for kind, count in sorted(self.wrong.items()):
            shown = self.samples.get(kind, [])
            more = f" and {count - len(shown)} more" if count > len(shown) else ""
            lines.append(f"{count} rows {heads[kind]}: {'; '.join(shown)}{more}")
        return lines
