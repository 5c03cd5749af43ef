"""A merge is one step as seen from main: written on a branch of its own, published by one Nessie merge."""

from __future__ import annotations

from dataclasses import dataclass

from airflow_provider_rtlake.clients.nessie import NessieClient, Reference
from airflow_provider_rtlake.exceptions import NotFound, ReferenceConflict, ServiceUnavailable, TransientError

PREFIX = "scd2"
REFUSED = "scd2-refused"


class Overtaken(TransientError):
    """Another merge of the table was published meanwhile; this one changed nothing."""


@dataclass(frozen=True)
class Workplace:
    """The branch that a merge writes on.

    :param branch: its name.
    :param base: main's commit that it starts from.
    """

    branch: str
    base: str


class Publisher:
    """Makes, publishes and removes the branches of one table's merges.

    :param nessie: the catalog.
    :param table: history table.
    :param main: branch to publish on.
    """

    def __init__(self, nessie: NessieClient, table: str, main: str = "main") -> None:
        self._nessie = nessie
        self._table = table
        self._main = main

    def main(self) -> Reference:
        """Main as it is now."""
        return self._nessie.get_reference(self._main)

    def snapshot(self, table: str, ref: str | None = None) -> int | None:
        """Current snapshot of a table on a reference, by default main; None where there is no table."""
        entry = self._nessie.content(tuple(table.split(".")), ref or self._main)
        return None if entry is None else entry.snapshot_id

    def begin(self, base: Reference, position: str, merge_id: str) -> Workplace:
        """Make the branch. What crashed merges of this table left behind goes first.

        :param position: that the merge will reach.
        :param merge_id: makes the name unique, so that two merges never write on one branch.
        """
        prefix = f"{PREFIX}/{self._table}/"
        for reference in self._nessie.references(f"ref.name.startsWith('{prefix}')"):
            self._nessie.delete_reference(reference.name)
        name = f"{prefix}{position}/{merge_id}"
        self._nessie.create_branch(name, base)
        return Workplace(name, base.hash)

    def publish(self, place: Workplace, checkpoint: str, message: str) -> None:
        """Merge the branch into main and remove it.

        :param checkpoint: its table decides where the answer was lost.
        :param message: of the commit on main.
        :raises Overtaken: main's history moved on; nothing was applied.
        """
        written = None
        try:
            written = self.snapshot(checkpoint, place.branch)
            self._nessie.merge(place.branch, into=self._main, expected_hash=place.base, message=message)
        except ReferenceConflict as error:
            self.drop(place)
            raise Overtaken(
                f"{self._table}: another merge or a maintenance job changed it meanwhile; nothing was applied: {error}"
            ) from error
        except NotFound as error:
            raise Overtaken(f"{self._table}: the merge's branch is gone, another merge took over: {error}") from error
        except ServiceUnavailable:
            # The answer was lost: the checkpoint on main tells whether the merge was applied.
            if written is None or self.snapshot(checkpoint) != written:
                raise
        self.drop(place)

    def keep(self, place: Workplace) -> str:
        """Keep a refused branch for inspection, where the next merge does not remove it; returns its new name."""
        name = place.branch.replace(f"{PREFIX}/", f"{REFUSED}/", 1)
        self._nessie.create_branch(name, self._nessie.get_reference(place.branch))
        self.drop(place)
        return name

    def drop(self, place: Workplace) -> None:
        """Remove the branch."""
        self._nessie.delete_reference(place.branch)
