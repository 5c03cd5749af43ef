"""The machine that a run takes place on."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import psutil

from airflow_provider_rtlake.bench.record import Machine

QUIET_LOAD = 0.5  # load average for each core, before a run
QUIET_OTHERS = 0.10  # of the machine's CPU time, during a run


def describe() -> Machine:
    """What the machine is and how busy it is now."""
    cores = os.cpu_count() or 1
    load = os.getloadavg()[0]
    return Machine(
        cpu=_cpu(),
        cores=cores,
        memory_mb=psutil.virtual_memory().total // 2**20,
        system=f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        load_before=round(load, 2),
        quiet=load <= QUIET_LOAD * cores,
    )


def judged(machine: Machine, cpu_of_others: float | None) -> Machine:
    """The same, after the run.

    :param cpu_of_others: share of CPU time that went to processes outside the stack.
    """
    quiet = machine.load_before <= QUIET_LOAD * machine.cores and (cpu_of_others or 0.0) <= QUIET_OTHERS
    share = None if cpu_of_others is None else round(cpu_of_others, 3)
    return machine.model_copy(update={"cpu_of_others": share, "quiet": quiet})


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
