"""Sensors end alike in the worker and in the triggerer."""

from __future__ import annotations

import time
from typing import Any, cast

import pytest
from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    Context,
    PokeReturnValue,
    TaskDeferred,
)
from airflow.triggers.base import BaseTrigger

from airflow_provider_rtlake.exceptions import NotFound
from airflow_provider_rtlake.operators.errors import no_retry_of_terminal_errors
from airflow_provider_rtlake.sensors.base import WaitingSensor
from airflow_provider_rtlake.triggers.scd2 import IcebergNewSnapshotTrigger

NOTHING = cast(Context, {})


class Sensor(WaitingSensor):
    """A sensor whose looks are given."""

    def __init__(self, *, looks: list[Any], **kwargs: Any) -> None:
        super().__init__(task_id="t", **kwargs)
        self.looks = looks

    def poke(self, context: Context) -> PokeReturnValue:
        found = self.looks.pop(0)
        with no_retry_of_terminal_errors():
            if isinstance(found, Exception):
                raise found
        return PokeReturnValue(is_done=found is not None, xcom_value=found)

    def waiting(self, deadline: float) -> BaseTrigger:
        return IcebergNewSnapshotTrigger(table="a.b", since=None, deadline=deadline)


def test_what_holds_already_is_not_deferred() -> None:
    assert Sensor(looks=[7], deferrable=True).execute(NOTHING) == 7
    assert Sensor(looks=[None, 7], deferrable=False, poke_interval=0.01).execute(NOTHING) == 7


def test_what_does_not_hold_waits_until_the_deadline() -> None:
    begin = time.time()
    with pytest.raises(TaskDeferred) as deferred:
        Sensor(looks=[None], deferrable=True, timeout=100).execute(NOTHING)
    trigger = deferred.value.trigger
    assert isinstance(trigger, IcebergNewSnapshotTrigger)
    assert trigger.deadline is not None
    assert begin + 99 < trigger.deadline < time.time() + 101
    assert deferred.value.method_name == "execute_complete"


def event(status: str) -> dict[str, Any]:
    return {"status": status, "message": "why", "result": 7}


def test_events_end_the_wait() -> None:
    sensor = Sensor(looks=[], deferrable=True, timeout=5)
    assert sensor.execute_complete(NOTHING, event("ok")) == 7
    with pytest.raises(AirflowSensorTimeout, match="waited 5 s: why"):
        sensor.execute_complete(NOTHING, event("timeout"))
    with pytest.raises(AirflowFailException, match="why"):
        sensor.execute_complete(NOTHING, event("failed"))


@pytest.mark.parametrize("status", ["timeout", "failed"])
@pytest.mark.parametrize("option", ["soft_fail", "never_fail"])
def test_soft_fail_skips_after_the_wait(option: str, status: str) -> None:
    sensor = Sensor(looks=[], deferrable=True, **{option: True})
    with pytest.raises(AirflowSkipException):
        sensor.resume_execution("execute_complete", {"event": event(status)}, NOTHING)


@pytest.mark.parametrize("deferrable", [True, False])
def test_what_cannot_come_to_pass_fails_at_the_first_look(deferrable: bool) -> None:
    missing = NotFound("Pinot", "no such table", status=404)
    with pytest.raises(AirflowFailException, match="no such table"):
        Sensor(looks=[missing], deferrable=deferrable).execute(NOTHING)
    with pytest.raises(AirflowSkipException):
        Sensor(looks=[missing], deferrable=deferrable, soft_fail=True).execute(NOTHING)
