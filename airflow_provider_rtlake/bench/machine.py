"""The machine that a run takes place on."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from airflow_provider_rtlake.bench.record import Machine

QUIET_LOAD = 0.5  # load average for each core, before a run
QUIET_BEFORE = 0.25  # of the machine's CPU time, before a run: servers that idle take some
QUIET_OTHERS = 0.10  # of the machine's CPU time, during a run
_WINDOW = 3.0  # seconds


def settled(told: Callable[[str], None], limit: float) -> float:
    """Wait until the machine has little to do: what the run before left behind is no cost of the next one.

    The load average cannot tell: it remembers that run for minutes.

    :param told: told that it waits.
    :param limit: seconds to wait at most.
    :return: share of CPU time that was in use in the last seconds, 0 to 1.
    """
    end, waits = time.monotonic() + limit, False
    while True:
        share = float(psutil.cpu_percent(interval=_WINDOW)) / 100
        if share <= QUIET_BEFORE or time.monotonic() >= end:
            return share
        if not waits:
            told(f"waits for a quiet machine (CPU {share:.0%} in use)")
            waits = True


def describe(cpu_before: float | None = None) -> Machine:
    """What the machine is and how busy it is now.

    :param cpu_before: as of :func:`settled`.
    """
    cores = os.cpu_count() or 1
    load = os.getloadavg()[0]
    machine = Machine(
        cpu=_cpu(),
        cores=cores,
        memory_mb=psutil.virtual_memory().total // 2**20,
        system=f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        load_before=round(load, 2),
    )
    return judged(machine, cpu_before=cpu_before)


def judged(machine: Machine, *, cpu_before: float | None = None, cpu_of_others: float | None = None) -> Machine:
    """The same, with what was found out later.

    :param cpu_before: as of :func:`settled`.
    :param cpu_of_others: share of CPU time that went to processes outside the stack.
    """
    before = machine.cpu_before if cpu_before is None else round(cpu_before, 3)
    others = machine.cpu_of_others if cpu_of_others is None else round(cpu_of_others, 3)
    idle = machine.load_before <= QUIET_LOAD * machine.cores if before is None else before <= QUIET_BEFORE
    return machine.model_copy(
        update={"cpu_before": before, "cpu_of_others": others, "quiet": idle and (others or 0.0) <= QUIET_OTHERS}
    )


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
