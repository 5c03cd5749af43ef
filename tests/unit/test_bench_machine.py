"""Whether a machine was quiet enough for a figure to be quoted."""

from __future__ import annotations

import psutil
import pytest

from airflow_provider_rtlake.bench import machine
from airflow_provider_rtlake.bench.record import Machine

MACHINE = Machine(cpu="c", cores=2, memory_mb=1, system="s", load_before=5.0)


@pytest.mark.parametrize(
    ("before", "others", "quiet"),
    [(None, None, False), (0.2, None, True), (0.2, 0.05, True), (0.2, 0.5, False), (0.6, 0.0, False)],
)
def test_a_machine_is_judged_by_its_cpu_time_where_that_is_known(
    before: float | None, others: float | None, quiet: bool
) -> None:
    assert machine.judged(MACHINE, cpu_before=before, cpu_of_others=others).quiet is quiet


def test_a_load_average_decides_where_nothing_else_is_known() -> None:
    assert machine.judged(MACHINE.model_copy(update={"load_before": 0.9})).quiet


def test_what_is_judged_later_keeps_what_was_found_before() -> None:
    begun = machine.judged(MACHINE, cpu_before=0.1)
    ended = machine.judged(begun, cpu_of_others=0.02)
    assert (ended.cpu_before, ended.cpu_of_others, ended.quiet) == (0.1, 0.02, True)


def test_the_next_run_waits_for_what_the_last_one_left(monkeypatch: pytest.MonkeyPatch) -> None:
    shares, told = [90.0, 80.0, 12.0], []
    monkeypatch.setattr(psutil, "cpu_percent", lambda interval: shares.pop(0))
    assert machine.settled(told.append, limit=60.0) == pytest.approx(0.12)
    assert told == ["waits for a quiet machine (CPU 90% in use)"]


def test_a_machine_that_stays_busy_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "cpu_percent", lambda interval: 90.0)
    assert machine.settled(lambda text: None, limit=0.0) == pytest.approx(0.9)
