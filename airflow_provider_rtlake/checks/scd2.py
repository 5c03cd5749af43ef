"""The rules that every history obeys (SCD Type 2), as one query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from airflow_provider_rtlake.checks.names import TableName, quoted
from airflow_provider_rtlake.checks.reconcile import key_text
from airflow_provider_rtlake.exceptions import UserError

START, END, CURRENT, DELETED = "effective_start_ts", "effective_end_ts", "is_current", "is_deleted"
COLUMNS = (START, END, CURRENT, DELETED, "record_hash")  # what a history has and its source has not
PROVENANCE = "scd2_"  # prefix of further columns that only a history has

# Rule → condition on a version and its successor (nxt, NULL for the last one of its key) that breaks it.
RULES: dict[str, str] = {
    "null_start": "s IS NULL",
    "empty_or_inverted": "e <= s",
    "overlap": "nxt IS NOT NULL AND (e IS NULL OR e > nxt)",
    "several_current": "c AND currents > 1",
    "open_but_not_current": "e IS NULL AND NOT coalesce(c, false)",
    "current_but_closed": "coalesce(c, false) AND e IS NOT NULL",
    "current_but_deleted": "coalesce(c, false) AND coalesce(d, true)",
    # Between two versions there is time only where the key was deleted, and the earlier version says so.
    "gap_without_delete": "nxt IS NOT NULL AND e < nxt AND NOT coalesce(d, false)",
    "ended_without_delete": "nxt IS NULL AND e IS NOT NULL AND NOT coalesce(d, false)",
    "null_flag": "c IS NULL OR d IS NULL",
}
MEANING: dict[str, str] = {
    "null_start": "has no start",
    "empty_or_inverted": "ends at or before its start",
    "overlap": "overlaps its successor",
    "several_current": "is one of several current versions of its key",
    "open_but_not_current": "has no end and is not current",
    "current_but_closed": "is current and has an end",
    "current_but_deleted": "is current and deleted",
    "gap_without_delete": "is followed by a gap, and was not deleted",
    "ended_without_delete": "is its key's last version and closed, and was not deleted",
    "null_flag": "does not say whether it is current or deleted",
}


def invariants_sql(
    table: TableName,
    keys: Sequence[str],
    types: Mapping[str, str],
    *,
    where: str | None = None,
    samples: int = 10,
) -> str:
    """A query for the versions that break a rule: rows of ``rule``, ``versions`` and ``samples``.

    A last row, rule ``versions``, counts all versions, and one, ``keys``, the keys.

    :param table: the history.
    :param keys: columns that identify a source row.
    :param types: column → Trino type of the history.
    :param where: an SQL condition on keys; a key's versions must pass or fail it together.
    :param samples: at most so many versions of each rule are shown.
    :raises UserError: a column that a history has is missing.
    """
    missing = [name for name in (*keys, START, END, CURRENT, DELETED) if name not in types]
    if missing or not keys:
        raise UserError(f"{table} is no history by {list(keys)}: it has no column {', '.join(missing) or 'named'}")
    key = ", ".join(quoted(name) for name in keys)
    shown = f"{key_text(keys, types)} || ' from ' || coalesce(CAST({quoted(START)} AS varchar), 'NULL')"
    broken = ",\n    ".join(f"IF({condition}, '{rule}')" for rule, condition in RULES.items())
    condition = f"\n  WHERE {where}" if where else ""
    return f"""
WITH v AS (
  SELECT {quoted(START)} AS s, {quoted(END)} AS e, {quoted(CURRENT)} AS c, {quoted(DELETED)} AS d,
    {shown} AS shown,
    row_number() OVER (PARTITION BY {key} ORDER BY {quoted(START)}) AS n,
    lead({quoted(START)}) OVER (PARTITION BY {key} ORDER BY {quoted(START)}) AS nxt,
    count_if({quoted(CURRENT)}) OVER (PARTITION BY {key}) AS currents
  FROM {table.sql}{condition}
), judged AS (
  SELECT shown, filter(ARRAY[
    'versions', IF(n = 1, 'keys'),
    {broken}
  ], r -> r IS NOT NULL) AS rules
  FROM v
)
SELECT rule, count(*) AS versions, min(IF(rule NOT IN ('versions', 'keys'), shown), {int(samples)}) AS samples
FROM judged CROSS JOIN UNNEST(rules) AS t(rule)
GROUP BY rule
""".strip()  # noqa: S608


@dataclass(frozen=True)
class Verdict:
    """The answer of :func:`invariants_sql`'s query.

    :param versions: how many the history has.
    :param keys: how many keys.
    :param broken: rule → number of versions.
    :param samples: rule → some versions.
    """

    versions: int
    keys: int
    broken: dict[str, int]
    samples: dict[str, list[str]]

    @classmethod
    def of(cls, answer: Sequence[Sequence[Any]]) -> Verdict:
        """Read the query's rows.

        :param answer: rows of ``rule``, ``versions``, ``samples``.
        """
        counts = {rule: int(count) for rule, count, _ in answer}
        return cls(
            versions=counts.pop("versions", 0),
            keys=counts.pop("keys", 0),
            broken=counts,
            samples={rule: list(shown or ()) for rule, _, shown in answer if rule in RULES},
        )

    def describe(self) -> list[str]:
        """One line for each broken rule, with versions."""
        return [
            f"{count} versions: each {MEANING[rule]}: {'; '.join(self.samples[rule])}"
            + (f" and {count - len(self.samples[rule])} more" if count > len(self.samples[rule]) else "")
            for rule, count in sorted(self.broken.items())
        ]
