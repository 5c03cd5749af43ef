"""Run in the node: histories are merged by Airflow's DAGs, then every hop is compared by content; one JSON line."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from airflow_provider_rtlake.demo.access import Access
from airflow_provider_rtlake.demo.airflow import Airflow
from airflow_provider_rtlake.demo.hops import LANES, TableCheck, captured, settle
from airflow_provider_rtlake.demo.run import ADMIN
from airflow_provider_rtlake.kit.stack import Stack
from airflow_provider_rtlake.streams.load import load_connectors

_MERGE_SECONDS = 600.0


def main() -> None:
    """Compare."""
    stack = Stack.load()
    with contextlib.closing(Access(stack)) as access:
        found = captured(access, load_connectors(Path("connectors")))
        checks = [TableCheck(access, stream, schema) for stream, schema in found]
        settle(checks, lanes=("bronze", "realtime"))
        airflow = Airflow(stack.service("airflow-api-server").url, "admin", stack.secret(ADMIN))
        with contextlib.closing(airflow):
            airflow.run(airflow.dags("scd2_"), limit=_MERGE_SECONDS)
        hops = settle(checks, lanes=LANES)
    print(json.dumps({one.table: {"rows": one.rows, "problems": one.problems} for one in hops}))
