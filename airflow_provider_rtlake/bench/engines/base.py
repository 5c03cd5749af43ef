"""What the stages ask of a pipeline's stack."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from airflow_provider_rtlake.bench import queries
from airflow_provider_rtlake.bench.run import Account, Run


@dataclass(frozen=True)
class Asker:
    """An engine that answers the four questions.

    :param engine: its name in the record.
    :param ask: question → rows.
    :param note: what the engine could not do itself.
    """

    engine: str
    ask: Callable[[str], Sequence[Sequence[Any]]]
    note: str | None = None


class Engine(ABC):
    """One run's stack. Each stage may be called in a process of its own.

    :param run: the run.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.events = run.events

    @property
    def database(self) -> Path:
        """The DuckDB file that dbt builds in; one for each pipeline, made anew by each run."""
        return self.run.folder.parent.parent / "dbt" / f"{self.run.pipeline.id}.duckdb"

    def prepare(self, account: Account) -> None:
        """Topics, tables, databases; again without harm."""
        self.database.parent.mkdir(parents=True, exist_ok=True)
        for path in (self.database, self.database.with_suffix(".duckdb.wal")):
            path.unlink(missing_ok=True)

    @abstractmethod
    def generate(self, account: Account) -> None:
        """Bring the events to where the pipeline begins."""

    @abstractmethod
    def process(self, account: Account) -> None:
        """Bronze and silver."""

    @abstractmethod
    def bring_silver(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Make ``silver.trips`` in the DuckDB file from what the stack wrote, for dbt and for the checksum."""

    def windows(self, account: Account) -> None:
        """The windowed job, where the pipeline has one.

        :raises NotImplementedError: it has none.
        """
        raise NotImplementedError

    def count_hops(self, account: Account) -> None:
        """Rows at every hop that no earlier stage has counted."""
        return  # most count while they go

    def askers(self) -> list[Asker]:
        """Who answers the questions."""
        return [Asker("DuckDB", self.ask_duckdb)]

    def ask_duckdb(self, name: str) -> Sequence[Sequence[Any]]:
        """A question to silver in the DuckDB file."""
        from airflow_provider_rtlake.bench.source import zones_relation

        with duckdb.connect(str(self.database), read_only=True) as connection:
            asked = queries.text(name, dialect="duckdb", trips="silver.trips", zones=zones_relation())
            return connection.execute(asked).fetchall()

    def compact(self, account: Account) -> None:
        """Few large files instead of many small ones, where the pipeline does that.

        :raises NotImplementedError: it does not.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Let go of what this process holds open: sessions, connections. Called after every stage."""
        return  # not every pipeline has any

    def clean(self) -> None:
        """Take away what the run made in shared services."""
        return  # not every pipeline has any

    def versions(self) -> dict[str, str]:
        """Versions of the stack's parts."""
        from airflow_provider_rtlake.bench.versions import installed

        return installed(self.run.pipeline.needs)
