"""Memory and CPU of each service and of the run itself, sampled from /proc while a stage runs."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType

import psutil
from pydantic import BaseModel

INTERVAL = 0.25  # seconds between two samples
OWN = "pipeline"  # the run itself: generator, dbt, queries, spark-submit


class Usage(BaseModel):
    """One service during one stage, in a form that can be added to that of other stages."""

    peak_mb: float = 0.0
    sum_mb: float = 0.0
    samples: int = 0
    cpu_seconds: float = 0.0

    def plus(self, other: Usage) -> Usage:
        """Both stages together."""
        return Usage(
            peak_mb=max(self.peak_mb, other.peak_mb),
            sum_mb=self.sum_mb + other.sum_mb,
            samples=self.samples + other.samples,
            cpu_seconds=self.cpu_seconds + other.cpu_seconds,
        )


class Samples(BaseModel):
    """What a sampler saw.

    :param busy_seconds: CPU time of the whole machine that was not idle.
    :param capacity_seconds: CPU time that the machine had.
    :param died: services that ended or were restarted meanwhile.
    :param pids: process id of each service at the end.
    """

    usage: dict[str, Usage] = {}
    busy_seconds: float = 0.0
    capacity_seconds: float = 0.0
    died: list[str] = []
    pids: dict[str, int | None] = {}


@dataclass
class _Seen:
    """Processes of one service, by id and start time."""

    first: dict[tuple[int, float], float] = field(default_factory=dict)  # CPU seconds when first seen
    last: dict[tuple[int, float], float] = field(default_factory=dict)
    usage: Usage = field(default_factory=Usage)


class Sampler:
    """Samples in a thread of its own between ``with`` and its end.

    :param roots: service → process id of its parent process, or None where it does not run.
    """

    def __init__(self, roots: Callable[[], Mapping[str, int | None]]) -> None:
        self._find = roots
        self._roots: dict[str, int | None] = {}
        self._seen: dict[str, _Seen] = {}
        self._died: set[str] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)
        self._machine = psutil.cpu_times()
        self._begin = time.monotonic()
        self._new_processes_count_from_zero = False
        self.result = Samples()

    def __enter__(self) -> Sampler:
        self._roots = {**self._find(), OWN: os.getpid()}
        self._machine, self._begin = psutil.cpu_times(), time.monotonic()
        self._sample()
        self._new_processes_count_from_zero = True
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._sample()
        after = {**self._find(), OWN: os.getpid()}
        self._died.update(name for name, pid in self._roots.items() if pid and after.get(name) != pid)
        for seen in self._seen.values():
            seen.usage.cpu_seconds = round(sum(seen.last[key] - seen.first[key] for key in seen.last), 3)
        self.result = Samples(
            usage={name: seen.usage for name, seen in self._seen.items() if seen.usage.samples},
            busy_seconds=_busy(psutil.cpu_times()) - _busy(self._machine),
            capacity_seconds=(time.monotonic() - self._begin) * (os.cpu_count() or 1),
            died=sorted(self._died),
            pids={name: pid for name, pid in after.items() if name != OWN},
        )

    def _run(self) -> None:
        while not self._stop.wait(INTERVAL):
            self._sample()

    def _sample(self) -> None:
        for name, pid in self._roots.items():
            if pid:
                self._look(self._seen.setdefault(name, _Seen()), pid)

    def _look(self, seen: _Seen, root: int) -> None:
        memory = 0.0
        for process in _family(root):
            try:
                with process.oneshot():
                    memory += process.memory_info().rss / 2**20
                    times, key = process.cpu_times(), (process.pid, process.create_time())
            except psutil.Error:
                continue
            used = times.user + times.system
            # What was there before the stage counts from now; what the stage started counts whole.
            seen.first.setdefault(key, 0.0 if self._new_processes_count_from_zero else used)
            seen.last[key] = used
        if memory:
            seen.usage.peak_mb = round(max(seen.usage.peak_mb, memory), 1)
            seen.usage.sum_mb += memory
            seen.usage.samples += 1


def _family(root: int) -> list[psutil.Process]:
    try:
        parent = psutil.Process(root)
        return [parent, *parent.children(recursive=True)]
    except psutil.Error:
        return []


def _busy(times: object) -> float:
    values: dict[str, float] = times._asdict()  # type: ignore[attr-defined]
    return sum(seconds for name, seconds in values.items() if name not in ("idle", "iowait", "guest", "guest_nice"))
