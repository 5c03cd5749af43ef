"""Every trigger comes back from the database as it was, and ends in exactly one event."""

from __future__ import annotations

import importlib
import inspect
import json
from typing import Any

import pytest
from airflow.triggers.base import BaseTrigger

from airflow_provider_rtlake.get_provider_info import get_provider_info
from airflow_provider_rtlake.triggers.dbt import DbtNodeTrigger
from airflow_provider_rtlake.triggers.flink import FlinkCheckpointTrigger, FlinkJobTrigger
from airflow_provider_rtlake.triggers.kafka_connect import KafkaConnectRunningTrigger
from airflow_provider_rtlake.triggers.nessie import NessieTableChangedTrigger
from airflow_provider_rtlake.triggers.pinot import PinotFreshnessTrigger, PinotIngestionTrigger
from airflow_provider_rtlake.triggers.scd2 import IcebergNewSnapshotTrigger

_WAIT: dict[str, Any] = {"timeout": 7.0, "poll_interval": 3.0, "deadline": 1.5}
_FLINK: dict[str, Any] = {"job_id": "a" * 32, "flink_conn_id": "f", "cancel_on_kill": True, **_WAIT}
SAMPLES: list[BaseTrigger] = [
    DbtNodeTrigger(dag_run="p08/manual__1", node="model.taxi.fct_trips"),
    FlinkJobTrigger(states=["FINISHED"], **_FLINK),
    FlinkCheckpointTrigger(after_ms=5, number=2, **_FLINK),
    KafkaConnectRunningTrigger(connectors=["a", "b"], kafka_connect_conn_id="k", fail_on_failed=False, **_WAIT),
    PinotIngestionTrigger(tables={"t": None, "u": 3}, pinot_conn_id="p", **_WAIT),
    PinotFreshnessTrigger(table="t", time_column="ts", max_lag=2.0, where="a = 1", pinot_conn_id="p", **_WAIT),
    IcebergNewSnapshotTrigger(table="a.b", since=4, nessie_conn_id="n", poll_interval=1.0, deadline=9.0),
    NessieTableChangedTrigger(table="a.b", branch="dev", poll_seconds=2.0, min_seconds=5.0, nessie_conn_id="n"),
]


def ours() -> set[type]:
    modules = [module for entry in get_provider_info()["triggers"] for module in entry["python-modules"]]
    return {
        value
        for module in modules
        for name, value in vars(importlib.import_module(module)).items()
        if inspect.isclass(value)
        and issubclass(value, BaseTrigger)
        and value.__module__ == module
        and not name.startswith("_")
    }


def test_none_is_missing_here() -> None:
    assert {type(sample) for sample in SAMPLES} == ours()


@pytest.mark.parametrize("trigger", SAMPLES, ids=lambda trigger: type(trigger).__name__)
def test_it_comes_back_as_it_was(trigger: BaseTrigger) -> None:
    path, arguments = trigger.serialize()
    module, _, name = path.rpartition(".")
    again = getattr(importlib.import_module(module), name)(**json.loads(json.dumps(arguments)))
    assert type(again) is type(trigger)
    assert again.serialize() == (path, arguments)
    taken = set(inspect.signature(type(trigger).__init__).parameters) - {"self", "kwargs"}
    assert taken <= set(arguments), "an argument is lost on the way to the triggerer"
