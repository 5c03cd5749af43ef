"""A history kept in memory: the merge's planning runs against it exactly as against Iceberg."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Sequence
from itertools import pairwise
from typing import Any

from airflow_provider_rtlake.scd2.change import Change, ChangeReader, RawChange
from airflow_provider_rtlake.scd2.cut import Cut, Patience, Situation, TransactionEnd, cut
from airflow_provider_rtlake.scd2.fold import Mark, Version
from airflow_provider_rtlake.scd2.plan import Plan, Stored, plan_merge
from airflow_provider_rtlake.scd2.position import Position

FOREVER = Patience(0, 10**18, 10**18)


class Memory:
    """A table with history.

    :param untracked: Type 1 columns.
    """

    def __init__(self, untracked: Iterable[str] = (), **reader: Any) -> None:
        self.untracked = frozenset(untracked)
        self.reader = ChangeReader(**reader)
        self.versions: dict[int, Stored] = {}
        self.changes: list[Change] = []
        self.marks: list[Mark] = []
        self.reached: Position | None = None
        self.pending: list[RawChange] = []
        self.reads: list[tuple[str, int]] = []
        self._next = 0

    # --- the store ---
    def _copies(self, keys: Collection[str] | None) -> list[Stored]:
        return [
            dataclasses.replace(found, version=dataclasses.replace(found.version))
            for found in self.versions.values()
            if keys is None or found.version.key in keys
        ]

    def last_versions(self, keys: Collection[str]) -> dict[str, Stored]:
        self.reads.append(("last", len(keys)))
        return {found.version.key: found for found in self._copies(keys) if found.last}

    def open_versions(self) -> dict[str, Stored]:
        self.reads.append(("open", 0))
        return {found.version.key: found for found in self._copies(None) if found.version.is_current}

    def all_versions(self, keys: Collection[str]) -> dict[str, list[Stored]]:
        self.reads.append(("all", len(keys)))
        return self._by_key(keys)

    def _by_key(self, keys: Collection[str] | None = None) -> dict[str, list[Stored]]:
        result: dict[str, list[Stored]] = {}
        for found in sorted(self._copies(keys), key=lambda found: found.version.start):
            result.setdefault(found.version.key, []).append(found)
        return result

    def applied_changes(self, keys: Collection[str]) -> dict[str, list[Change]]:
        self.reads.append(("changes", len(keys)))
        result: dict[str, list[Change]] = {}
        for change in self.changes:
            if change.key in keys:
                result.setdefault(str(change.key), []).append(change)
        return result

    def all_keys(self) -> set[str]:
        return {str(change.key) for change in self.changes}

    # --- merges ---
    def merge(self, raws: Sequence[RawChange], ends: Sequence[TransactionEnd] | None = None, **options: Any) -> Plan:
        """One merge of what arrived (and of what waited)."""
        arrived = [*self.pending, *raws]
        changes = [self.reader.read(raw) for raw in arrived]
        made: Cut = cut(changes, Situation(options.get("patience", FOREVER), ends, self.reached))
        plan = plan_merge(
            self,
            made.ready,
            marks=made.marks,
            known_marks=self.marks,
            reached=self.reached,
            untracked=self.untracked,
        )
        self.pending = [change.raw for change in made.pending]
        for stored in plan.removed:
            del self.versions[stored.ref]
        for version, last in plan.added:
            self.versions[self._next] = Stored(version, last, self._next)
            self._next += 1
        self.changes += plan.applied
        self.marks, self.reached = plan.marks, made.reached
        self.check()
        return plan

    def check(self) -> None:
        """Invariants that hold after every merge."""
        for key, found in self._by_key().items():
            versions = [stored.version for stored in found]
            assert [stored.last for stored in found] == [False] * (len(found) - 1) + [True], key
            for version in versions:
                assert version.end is None or version.start < version.end, (key, version)
            for earlier, later in pairwise(versions):
                assert earlier.end is not None and earlier.end <= later.start, (key, earlier, later)
                assert earlier.deleted or earlier.end == later.start, (key, earlier, later)

    def facts(self) -> dict[str, list[tuple[Any, ...]]]:
        """What the oracle tells as well."""
        return {
            key: [
                (
                    sorted(found.version.values.items()),
                    found.version.start,
                    found.version.end,
                    found.version.deleted,
                )
                for found in group
            ]
            for key, group in self._by_key().items()
        }

    def everything(self) -> dict[str, list[Version]]:
        """Whole versions, with their origin."""
        return {key: [found.version for found in group] for key, group in self._by_key().items()}
