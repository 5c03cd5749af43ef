"""One run of a pipeline: a folder in which each stage leaves its account, and the record that they make together.

The stages may run in one process (``rtlake bench run``) or each in a process of its own (a DAG's tasks): what they
have to say to each other is in the folder.
"""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from airflow_provider_rtlake.bench import machine as machines
from airflow_provider_rtlake.bench import services
from airflow_provider_rtlake.bench.catalog import Pipeline
from airflow_provider_rtlake.bench.record import (
    STAGES,
    DbtResult,
    Hop,
    Machine,
    ProcessUse,
    QueryTimes,
    Record,
    Stage,
)
from airflow_provider_rtlake.bench.sample import OWN, Sampler, Samples, Usage
from airflow_provider_rtlake.bench.source import Events, Reference
from airflow_provider_rtlake.exceptions import CheckFailed, RtlakeError, UserError

_START, _EVENTS = "run.json", "events.json"


class Start(BaseModel):
    """What a run begins with."""

    run_id: str
    pipeline: str
    mode: str
    started: datetime
    orchestrator: str
    orchestrator_run: str | None
    start: Literal["warm", "cold", "no services"]
    exclusive: bool
    machine: Machine


class Outcome(BaseModel):
    """What a stage leaves: its times, what it used, and whatever of the record it knows."""

    stage: Stage
    samples: Samples
    hops: list[Hop] = []
    dbt: DbtResult | None = None
    queries: dict[str, list[QueryTimes]] = {}
    measures: dict[str, float | int | str] = {}
    checksum: str | None = None
    notes: list[str] = []


@dataclass
class Account:
    """What a stage fills in while it works; see :class:`Outcome`."""

    hops: list[Hop]
    measures: dict[str, float | int | str]
    notes: list[str]
    queries: dict[str, list[QueryTimes]]
    dbt: DbtResult | None = None
    checksum: str | None = None


class Run:
    """A run's folder.

    :param folder: the folder.
    :param pipeline: what runs.
    """

    def __init__(self, folder: Path, pipeline: Pipeline) -> None:
        self.folder = folder
        self.pipeline = pipeline

    @classmethod
    def begin(
        cls,
        results: Path,
        pipeline: Pipeline,
        *,
        mode: str,
        orchestrator: str = "command line",
        orchestrator_run: str | None = None,
        exclusive: bool = False,
        cold: bool = False,
        cpu_before: float | None = None,
    ) -> Run:
        """Make the folder of a new run.

        :param results: folder of all runs.
        :param mode: ``batch`` or ``streaming``, where the pipeline knows both.
        :param orchestrator: what drives the stages.
        :param orchestrator_run: its own id of the run.
        :param exclusive: services that are not needed were stopped.
        :param cold: services that are needed were started for this run.
        :param cpu_before: as of :func:`.machine.settled`, where it was waited for.
        """
        now = datetime.now(timezone.utc)
        run_id = f"{pipeline.id}-{now:%Y%m%dT%H%M%S.%f}"[:-3]
        folder = results / "runs" / run_id
        folder.mkdir(parents=True)
        start = Start(
            run_id=run_id,
            pipeline=pipeline.id,
            mode=mode,
            started=now,
            orchestrator=orchestrator,
            orchestrator_run=orchestrator_run,
            start="no services" if not pipeline.needs else "cold" if cold else "warm",
            exclusive=exclusive,
            machine=machines.describe(cpu_before),
        )
        (folder / _START).write_text(start.model_dump_json(indent=1))
        return cls(folder, pipeline)

    @property
    def start(self) -> Start:
        """What the run began with."""
        return Start.model_validate_json((self.folder / _START).read_bytes())

    @property
    def run_id(self) -> str:
        """Its id, which is the folder's name."""
        return self.folder.name

    @property
    def slug(self) -> str:
        """Its id as a part of the names of tables and topics."""
        return self.run_id.replace("-", "_").replace(".", "_").lower()

    def keep_events(self, events: Events) -> None:
        """Tell later stages what goes in."""
        kept = {
            "path": str(events.path),
            "source": events.source.model_dump(),
            "reference": events.reference.model_dump(),
        }
        (self.folder / _EVENTS).write_text(json.dumps(kept))

    @property
    def events(self) -> Events:
        """What goes in."""
        kept = json.loads((self.folder / _EVENTS).read_text())
        from airflow_provider_rtlake.bench.record import Source

        return Events(
            Path(kept["path"]), Source.model_validate(kept["source"]), Reference.model_validate(kept["reference"])
        )

    def remember(self, name: str, value: Any) -> None:
        """Leave something for later stages of this run."""
        (self.folder / f"note-{name}.json").write_text(json.dumps(value))

    def knows(self, name: str) -> bool:
        """Whether an earlier stage left something under that name."""
        return (self.folder / f"note-{name}.json").exists()

    def recall(self, name: str) -> Any:
        """What an earlier stage left."""
        return json.loads((self.folder / f"note-{name}.json").read_text())

    @contextmanager
    def stage(self, name: str) -> Iterator[Account]:
        """Time and sample a stage; what happens is laid down also where it fails.

        :param name: one of :data:`.record.STAGES`.
        """
        account = Account([], {}, [], {})
        sampler = Sampler(services.roots)
        begin, error = time.time(), None
        (self.folder / f"begun-{name}").touch()
        try:
            with sampler:
                yield account
            died = [one for one in sampler.result.died if one in services.names(self.pipeline.needs)]
            if died:
                raise CheckFailed(f"{', '.join(died)} ended or was restarted while the stage ran: its figures are void")
        except BaseException as caught:
            error = _words(caught)
            (self.folder / f"{name}.trace").write_text(traceback.format_exc())
            raise
        finally:
            outcome = Outcome(
                stage=Stage(
                    name=name,
                    start=begin,
                    end=time.time(),
                    status="failed" if error else "success",
                    error=error,
                    log=f"runs/{self.run_id}/{name}.trace" if error else None,  # below the folder of the records
                ),
                samples=sampler.result,
                hops=account.hops,
                dbt=account.dbt,
                queries=account.queries,
                measures=account.measures,
                checksum=account.checksum,
                notes=account.notes,
            )
            (self.folder / f"stage-{name}.json").write_text(outcome.model_dump_json(indent=1))

    def outcomes(self) -> list[Outcome]:
        """What the stages that ran have left, in their order."""
        paths = [self.folder / f"stage-{name}.json" for name in STAGES]
        return [Outcome.model_validate_json(path.read_bytes()) for path in paths if path.exists()]

    def record(self, versions: Callable[[], dict[str, str]]) -> Record:
        """Put the stages' accounts together and lay the record down.

        :param versions: of what took part.
        """
        outcomes, start, events = self.outcomes(), self.start, self.events
        checksum = next((one.checksum for one in outcomes if one.checksum), None)
        record = Record(
            run_id=start.run_id,
            pipeline=start.pipeline,
            title=self.pipeline.title,
            mode=start.mode,
            started=start.started,
            status="success",
            orchestrator=start.orchestrator,
            orchestrator_run=start.orchestrator_run,
            start=start.start,
            exclusive=start.exclusive,
            versions=versions(),
            machine=machines.judged(start.machine, cpu_of_others=_others(outcomes)),
            source=events.source,
            stages=[one.stage for one in outcomes],
            hops=[hop for one in outcomes for hop in one.hops],
            processes=self._processes(outcomes),
            dbt=next((one.dbt for one in outcomes if one.dbt), None),
            queries={name: times for one in outcomes for name, times in one.queries.items()},
            silver_checksum=checksum,
            reference_checksum=events.reference.checksum,
            measures={name: value for one in outcomes for name, value in one.measures.items()},
            notes=[note for one in outcomes for note in one.notes],
        )
        reason = self._why_failed(record) or self._restarted(outcomes)
        if reason:
            record = record.model_copy(update={"status": "failed", "reason": reason})
        path = self.folder.parent.parent / record.file_name
        path.write_text(record.model_dump_json(indent=1) + "\n")
        return record

    def _why_failed(self, record: Record) -> str | None:
        failed = next((stage for stage in record.stages if stage.status == "failed"), None)
        if failed:
            return f"stage {failed.name}: {failed.error}"
        begun = {path.name.removeprefix("begun-") for path in self.folder.glob("begun-*")}
        missing = [name for name in STAGES if name in {*begun, *self.pipeline.stages} - {s.name for s in record.stages}]
        if missing:
            return f"stage {missing[0]} left no account: its process ended before it could"
        odd = next((hop for hop in record.hops if not hop.adds_up), None)
        if odd:
            return f"hop {odd.name}: {odd.rows_in} in, {odd.rows_out} out, {sum(odd.rejected.values())} rejected"
        return None

    def _restarted(self, outcomes: list[Outcome]) -> str | None:
        """A service that was restarted between two stages; within one, the stage itself has failed."""
        needed = services.names(self.pipeline.needs)
        stages = [one for one in outcomes if one.stage.name != "services"]
        for before, after in pairwise(stages):
            gone = [name for name in needed if before.samples.pids.get(name) != after.samples.pids.get(name)]
            if gone:
                return f"{', '.join(gone)} ended or was restarted before stage {after.stage.name}: the figures are void"
        return None

    def _processes(self, outcomes: list[Outcome]) -> dict[str, ProcessUse]:
        total: dict[str, Usage] = {}
        for outcome in outcomes:
            for name, usage in outcome.samples.usage.items():
                total[name] = total.get(name, Usage()).plus(usage)
        needed = {*services.names(self.pipeline.needs), OWN}
        return {
            name: ProcessUse(
                peak_mb=usage.peak_mb,
                mean_mb=round(usage.sum_mb / usage.samples, 1),
                cpu_seconds=round(usage.cpu_seconds, 2),
                needed=name in needed,
            )
            for name, usage in sorted(total.items(), key=lambda one: -one[1].peak_mb)
        }


def _others(outcomes: list[Outcome]) -> float | None:
    capacity = sum(one.samples.capacity_seconds for one in outcomes)
    if not capacity:
        return None
    busy = sum(one.samples.busy_seconds for one in outcomes)
    ours = sum(usage.cpu_seconds for one in outcomes for usage in one.samples.usage.values())
    return max(0.0, min(1.0, (busy - ours) / capacity))


def _words(error: BaseException) -> str:
    if isinstance(error, (RtlakeError, UserError)):
        return str(error)
    return f"{type(error).__name__}: {error}"
