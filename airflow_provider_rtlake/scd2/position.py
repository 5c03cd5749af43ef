"""Where a change stands in the order of commits."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

SNAPSHOT, STREAM = 0, 1
OPS = ("r", "t", "d", "u", "c")  # of changes, in the order in which they sort within one log position


class Position(NamedTuple):
    """The order of a change: compares like the commits of the source.

    :param epoch: life of the replication slot, counted from 1; 0 where none was told.
    :param phase: 0 for a snapshot row, 1 for a streamed change.
    :param commit: log position of the commit *before* this change's transaction: equal for all its changes, and
        growing in commit order, which the change's own ``lsn`` does not.
    :param lsn: log position of the change itself: the order inside the transaction.
    """

    epoch: int
    phase: int
    commit: int
    lsn: int

    @property
    def text(self) -> str:
        """Fixed width, so that texts compare like positions."""
        return f"{self.epoch:06d}-{self.phase}-{self.commit:020d}-{self.lsn:020d}"

    def shares_transaction(self, other: Position) -> bool:
        """Whether both may stand in one transaction of the stream."""
        return self.phase == STREAM and self[:3] == other[:3]

    @classmethod
    def parse(cls, text: str) -> Position:
        """Read :attr:`text` back.

        :raises ValueError: the text is no position.
        """
        epoch, phase, commit, lsn = text.split("-")
        return cls(int(epoch), int(phase), int(commit), int(lsn))


def epoch_number(header: str | None) -> int:
    """The number in the header ``<n>:<system id>:<timeline>``; 0 where there is none.

    :param header: value of the record's header ``rtlake.epoch``.
    """
    if not header:
        return 0
    head = header.strip('"').split(":", 1)[0]
    return int(head) if head.isdigit() else 0


def of_source(source: dict[str, Any], epoch: int) -> Position:
    """The position that Debezium's ``source`` block tells.

    :param source: the block: ``lsn``, ``sequence``, ``snapshot``.
    :param epoch: from the record's header.
    """
    lsn = int(source.get("lsn") or 0)
    sequence = source.get("sequence")
    first = json.loads(sequence)[0] if sequence else None
    if str(source.get("snapshot") or "false").lower() in ("false", "incremental"):
        return Position(epoch, STREAM, int(first) if first is not None else 0, lsn)
    if first is None:
        return Position(epoch, SNAPSHOT, 0, lsn)
    # A snapshot taken while the slot lives: it saw everything up to this commit, and precedes what follows.
    return Position(epoch, STREAM, int(first), 0)
