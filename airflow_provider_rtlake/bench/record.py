"""A run's record: everything measured, nothing typed in by hand. The schema has a version and is validated."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from airflow_provider_rtlake.exceptions import UserError

SCHEMA_VERSION = 1
TO_SILVER = "bronze → silver"  # the hop whose rejected rows are compared with the reference's
STAGES = ("services", "prepare", "generate", "process", "dbt", "query", "windows", "compact", "check")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Machine(_Part):
    """The machine, and how busy it was with other work.

    :param load_before: load average of the last minute, before the run.
    :param cpu_before: share of the machine's CPU time that was in use for some seconds before the run, 0 to 1; None
        where it was not waited for.
    :param cpu_of_others: share of the machine's CPU time that went to processes outside the stack, 0 to 1.
    :param quiet: whether they were low enough for a figure to be quoted.
    """

    cpu: str
    cores: int
    memory_mb: int
    system: str
    load_before: float
    cpu_before: float | None = None
    cpu_of_others: float | None = None
    quiet: bool = True


class Stage(_Part):
    """One stage of the run. Times are seconds since the epoch."""

    name: str
    start: float
    end: float
    status: Literal["success", "failed"]
    error: str | None = None
    log: str | None = None

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.end - self.start


class Hop(_Part):
    """Rows through one hop: in = out + rejected, or the run has failed.

    :param rejected: rows by reason.
    """

    name: str
    rows_in: int
    rows_out: int
    rejected: dict[str, int] = Field(default_factory=dict)

    @property
    def adds_up(self) -> bool:
        """Whether no row is unaccounted for."""
        return self.rows_in == self.rows_out + sum(self.rejected.values())


class ProcessUse(_Part):
    """What one service (all of its processes) used while the stages ran.

    :param cpu_seconds: CPU time of all its processes.
    :param needed: whether the pipeline needs it; the others only stood by.
    """

    peak_mb: float
    mean_mb: float
    cpu_seconds: float
    needed: bool = True


class DbtResult(_Part):
    """dbt's own account of a build; ``nodes`` are seconds by node."""

    models: int = 0
    tests: int = 0
    unit_tests: int = 0
    seeds: int = 0
    snapshots: int = 0
    passed: int = 0
    failed: int = 0
    warned: int = 0
    seconds: float = 0.0
    nodes: dict[str, float] = Field(default_factory=dict)


class QueryTimes(_Part):
    """One query on one engine.

    :param cold: seconds of the first execution.
    :param warm: median seconds of the following ones.
    :param note: what the engine could not do itself.
    """

    engine: str
    cold: float
    warm: float
    rows: int
    note: str | None = None


class Source(_Part):
    """What went in.

    :param repeated: of the events, how many repeat an earlier trip with a higher row number.
    """

    kind: Literal["real", "synthetic"]
    files: list[str]
    events: int
    repeated: int
    months: list[str]
    seed: int


class Record(_Part):
    """One run of one pipeline."""

    schema_version: int = SCHEMA_VERSION
    run_id: str
    pipeline: str
    title: str
    mode: str
    started: datetime
    status: Literal["success", "failed"]
    reason: str | None = None
    orchestrator: str
    orchestrator_run: str | None = None
    start: Literal["warm", "cold", "no services"]
    exclusive: bool
    versions: dict[str, str]
    machine: Machine
    source: Source
    stages: list[Stage]
    hops: list[Hop]
    processes: dict[str, ProcessUse]
    dbt: DbtResult | None
    queries: dict[str, list[QueryTimes]]
    silver_checksum: str | None
    reference_checksum: str
    measures: dict[str, float | int | str]
    notes: list[str] = Field(default_factory=list)

    @property
    def file_name(self) -> str:
        """Name of its file."""
        return f"record-{self.run_id}.json"

    @property
    def end_to_end(self) -> float:
        """Seconds from the first stage's start to the last one's end."""
        return max(stage.end for stage in self.stages) - min(stage.start for stage in self.stages)

    @property
    def to_green(self) -> float | None:
        """Seconds from the first stage's start until dbt has built and tested everything."""
        green = next((stage.end for stage in self.stages if stage.name == "dbt" and stage.status == "success"), None)
        return None if green is None else green - min(stage.start for stage in self.stages)

    def seconds(self, *names: str) -> float | None:
        """Seconds of the named stages together; None where one of them did not run."""
        found = {stage.name: stage.seconds for stage in self.stages if stage.status == "success"}
        if any(name not in found for name in names):
            return None
        return sum(found[name] for name in names)

    @property
    def peak_mb(self) -> float:
        """Peak memory of what the pipeline needs, each process at its own peak."""
        return sum(use.peak_mb for use in self.processes.values() if use.needed)

    @property
    def rows_per_second(self) -> float | None:
        """Events by the time of the process stage."""
        seconds = self.seconds("process")
        return self.source.events / seconds if seconds else None

    def figures(self) -> dict[str, object]:
        """What a run is looked up for, in few words; seconds unless the name says otherwise."""
        stages = {f"{stage.name}_seconds": round(stage.seconds, 3) for stage in self.stages}
        return {
            "pipeline": self.pipeline,
            "run_id": self.run_id,
            "status": self.status,
            "reason": self.reason,
            "start": self.start,
            "quiet": self.machine.quiet,
            "events": self.source.events,
            "end_to_end_seconds": round(self.end_to_end, 3),
            "to_green_seconds": None if self.to_green is None else round(self.to_green, 3),
            **stages,
            "rows_per_second": round(self.rows_per_second, 1) if self.rows_per_second else None,
            "peak_mb": round(self.peak_mb, 1),
            "dbt_tests": self.dbt.tests + self.dbt.unit_tests if self.dbt else None,
            "dbt_failed": self.dbt.failed if self.dbt else None,
            "silver_equal": self.silver_checksum == self.reference_checksum,
            **self.measures,
        }


def load(path: Path) -> Record:
    """One record.

    :raises UserError: the file is no record of this version.
    """
    try:
        return Record.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "content"
        raise UserError(
            f"{path}: {where}: {first['msg']}; it is not a record of schema version {SCHEMA_VERSION}"
        ) from None


def load_all(folders: list[Path]) -> Iterator[tuple[Path, Record]]:
    """Every record below some folders, oldest first.

    :param folders: searched for ``*.json`` at any depth.
    """
    paths = {path for folder in folders for path in folder.rglob("record-*.json")}
    found = [(path, load(path)) for path in paths]
    yield from sorted(found, key=lambda one: one[1].started)
