"""Tables of one test: made in the source, declared by YAML, deployed, compared at every hop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from airflow_provider_rtlake.demo.access import Access
from airflow_provider_rtlake.demo.hops import LANES, TableCheck, TableHops, captured, settle
from airflow_provider_rtlake.streams.load import load_connectors
from airflow_provider_rtlake.streams.model import Stream
from airflow_provider_rtlake.streams.naming import quote_identifier


def quoted(stream: Stream) -> str:
    """A stream's source table as SQL."""
    return f"{quote_identifier(stream.schema_name)}.{quote_identifier(stream.table_name)}"


@dataclass
class Declared:
    """Tables of one test: made in the source, declared by YAML, deployed.

    :param streams: by ``schema.table``.
    :param folder: of the declaration.
    """

    access: Access
    run: Callable[..., str]
    folder: Path
    streams: dict[str, Stream] = field(default_factory=dict)

    @property
    def where(self) -> list[str]:
        """Options that name the declaration."""
        return ["--connectors", str(self.folder)]

    def reload(self) -> None:
        """Read the declaration again."""
        loaded = load_connectors(self.folder)
        self.streams = {stream.source: stream for connector in loaded for stream in connector.streams}

    def deploy(self) -> None:
        """Bring everything that is declared into being."""
        self.run("connectors", "apply", *self.where)
        tables = ["--tables", str(self.folder / "pinot")]
        self.run("stream", "apply", "--lane", "bronze", "--lane", "transactions", *self.where, *tables)
        self.run("pinot", "apply", *self.where, *tables)
        self.run("stream", "apply", "--lane", "realtime", *self.where, *tables)

    def merge(self) -> None:
        """Merge what is in bronze into the histories."""
        self.run("scd2", "merge", *self.where)

    def checks(self) -> list[TableCheck]:
        """What compares each table at every hop."""
        return [TableCheck(self.access, *one) for one in captured(self.access, load_connectors(self.folder))]

    def agree(self, *, lanes: Sequence[str] = LANES, limit: float = 120) -> list[TableHops]:
        """Assert that every hop of every table holds the same, within a time."""
        checks = self.checks()
        moving = [lane for lane in lanes if lane != "history"]
        arrived = settle(checks, lanes=moving, limit=limit) if moving else []
        _assert_equal(arrived)
        if "history" not in lanes:
            return arrived
        self.merge()
        found = settle(checks, lanes=lanes, limit=limit)
        _assert_equal(found)
        return found


def _assert_equal(found: Sequence[TableHops]) -> None:
    wrong = [f"{one.table}: {problem}" for one in found for problem in one.problems]
    if wrong:
        raise AssertionError("\n".join([*wrong, *(f"{one.table}: {one.rows}" for one in found)]))
