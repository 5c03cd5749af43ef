"""What the history of a table must be, told from the source's point of view.

Independent of the merge on purpose: it knows nothing of messages, positions, batches or lateness. It is
given the states of a table, one after each committed transaction, and cuts each key's time line from them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Row = dict[str, Any]


@dataclass
class Life:
    """One version of one key."""

    values: Row
    start: int
    end: int | None = None
    deleted: bool = False


@dataclass
class Oracle:
    """Watches the source commit.

    :param untracked: columns whose change alone opens no version.
    """

    untracked: frozenset[str] = frozenset()
    lives: dict[str, list[Life]] = field(default_factory=dict)

    def committed(self, before: dict[str, Row], after: dict[str, Row], at: int) -> None:
        """A transaction took the table from one state to another.

        :param at: the source's clock at the commit, microseconds.
        """
        for key in before.keys() - after.keys():
            life = self.lives[key][-1]
            life.end = at if at > life.start else life.start + 1
            life.deleted = True
        for key in after.keys() - before.keys():
            self._begin(key, after[key], at)
        for key in before.keys() & after.keys():
            tracked = [name for name in after[key] if name not in self.untracked]
            if any(before[key].get(name) != after[key][name] for name in tracked):
                closed = self.lives[key][-1]
                begun = self._begin(key, after[key], at)
                closed.end = begun.start
            else:
                self.lives[key][-1].values = dict(after[key])

    def _begin(self, key: str, row: Row, at: int) -> Life:
        lives = self.lives.setdefault(key, [])
        earliest = at
        if lives:
            earliest = lives[-1].end if lives[-1].end is not None else lives[-1].start + 1
        life = Life(dict(row), max(at, earliest))
        lives.append(life)
        return life

    def facts(self) -> dict[str, list[tuple[Any, ...]]]:
        """Comparable form."""
        return {
            key: [(sorted(life.values.items()), life.start, life.end, life.deleted) for life in lives]
            for key, lives in self.lives.items()
            if lives
        }
