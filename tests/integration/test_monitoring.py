"""Monitoring on the real stack: what is promised is measured, and every panel's and rule's figures exist."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from airflow_provider_rtlake.kit.stack import Stack
from airflow_provider_rtlake.monitoring.__main__ import make_probes
from airflow_provider_rtlake.monitoring.board import Board

pytestmark = pytest.mark.integration

PROJECT = Path(__file__).parents[2]
ROLES = PROJECT / "ansible" / "roles"
# They appear with the first event of their kind.
_AFTER_EVENTS = {
    "pinot_server_rowswitherrors_total",
    "pinot_server_invalidrealtimerowsdropped_total",
    "airflow_ti_failures_total",
    "airflow_ti_finish_total",
    "airflow_dagrun_duration_success_seconds_sum",
    "airflow_dagrun_duration_success_seconds_count",
    "rtlake_dead_letters_open",
    "debezium_millisecondsbehindsource",
    "debezium_totalnumberofeventsseen_total",
    "kafka_connect_task_source_record_write_total",
    "ALERTS",
}
_FUNCTIONS = r"(?:sum|count|max|min|avg|rate|increase|topk|time|vector|by|on|and|or|unless|offset|lane|label_replace)"
_NAME = re.compile(r"\b[a-zA-Z_][a-zA-Z0-9_]+\b(?=\s*(?:\{|\[|$|[-+*/<>=)]|\s(?:==|<|>|unless|or|and|offset|[-+*/])))")


@pytest.fixture(scope="module")
def prometheus(stack: Stack) -> Iterator[httpx.Client]:
    """Prometheus of the stack."""
    if "prometheus" not in stack.services:
        pytest.skip("the stack runs without monitoring (rtlake up --monitoring)")
    with httpx.Client(base_url=stack.service("prometheus").url, timeout=20) as client:
        yield client


def ask(prometheus: httpx.Client, query: str) -> list[dict[str, Any]]:
    """The result of a query; it must be one that Prometheus understands."""
    answer = prometheus.get("/api/v1/query", params={"query": query})
    assert answer.status_code == 200, f"{query}: {answer.text}"
    found: list[dict[str, Any]] = answer.json()["data"]["result"]
    return found


def names_in(query: str) -> set[str]:
    """Names of the metrics in a query."""
    bare = re.sub(r"\{[^}]*\}", "", re.sub(r"\b(?:by|on)\s*\([^)]*\)", "", query))
    return {name for name in _NAME.findall(bare) if not re.fullmatch(_FUNCTIONS, name) and "_" in name}


def test_names_are_found_in_queries() -> None:
    assert names_in('sum by (a_b) (rate(x_total{c_d="e_f"}[5m])) / y_z > 3 unless on (k_l) w_v offset 15m') == {
        "x_total",
        "y_z",
        "w_v",
    }


def test_probes_get_answers_from_the_running_stack(stack: Stack) -> None:
    board = Board(make_probes(stack, PROJECT / "connectors"))
    assert {p.name for p in board.probes} >= {
        "services",
        "connect",
        "flink",
        "lanes",
        "pinot",
        "history",
        "dead_letters",
    }
    try:
        for probe in board.probes:
            assert board.ask(probe), f"{probe.name}: {board._heard[probe.name].complaint}"
    finally:
        board.close()
    names = {sample.name for sample in board.samples()}
    assert names >= {"rtlake_service_up", "rtlake_flink_taskmanagers", "rtlake_declarations_valid"}


def test_a_stack_that_is_gone_is_told_and_ends_nothing(stack: Stack) -> None:
    nowhere = {n: dataclasses.replace(s, port=1, url="http://127.0.0.1:1") for n, s in stack.services.items()}
    closed = {n: dataclasses.replace(c, port=1, extra=_closed(c.extra)) for n, c in stack.connections.items()}
    board = Board(make_probes(dataclasses.replace(stack, services=nowhere, connections=closed), PROJECT / "connectors"))
    try:
        with concurrent.futures.ThreadPoolExecutor(len(board.probes)) as pool:
            answered = dict(zip([p.name for p in board.probes], pool.map(board.ask, board.probes), strict=True))
    finally:
        board.close()
    assert {name for name, up in answered.items() if up} == {"services", "declarations"}
    shown = list(board.samples())
    assert {s.value for s in shown if s.name == "rtlake_service_up"} == {0}
    assert {s.name for s in shown} == {
        "rtlake_service_up",
        "rtlake_declarations_valid",
        "rtlake_probe_up",
        "rtlake_probe_duration_seconds",
        "rtlake_probe_timestamp_seconds",
    }


def _closed(extra: Mapping[str, Any]) -> dict[str, Any]:
    return {key: re.sub(r":\d+", ":1", value) if isinstance(value, str) else value for key, value in extra.items()}


def test_every_target_is_up(prometheus: httpx.Client) -> None:
    down = [(one["metric"]["job"], one["value"][1]) for one in ask(prometheus, "up") if one["value"][1] != "1"]
    assert down == []


def test_no_label_collides_with_those_of_prometheus(prometheus: httpx.Client) -> None:
    assert ask(prometheus, '{exported_job!="", __name__!~"ALERTS.*"}') == []
    assert ask(prometheus, '{exported_instance!=""}') == []


@pytest.mark.usefixtures("prometheus")
def test_everything_listens_on_loopback(stack: Stack) -> None:
    import psutil

    pids = {
        child.pid
        for name in ("prometheus", "alertmanager", "node-exporter", "postgres-exporter", "rtlake-exporter")
        for child in [psutil.Process(_pid(stack, name))]
    }
    listening = {c.laddr.ip for c in psutil.net_connections("inet") if c.pid in pids and c.status in ("LISTEN", "NONE")}
    assert listening and listening <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


def _pid(stack: Stack, name: str) -> int:
    from airflow_provider_rtlake.kit.supervise import supervisor_of

    pid = supervisor_of(stack.home, stack.supervisor).pid(name)
    assert pid, f"{name} does not run"
    return pid


def test_rules_are_loaded_and_the_watchdog_reaches_alertmanager(stack: Stack, prometheus: httpx.Client) -> None:
    wanted = {
        r["alert"]
        for g in yaml.safe_load((ROLES / "prometheus/files/rules.yml").read_text())["groups"]
        for r in g["rules"]
    }
    groups = prometheus.get("/api/v1/rules").json()["data"]["groups"]
    rules = {rule["name"]: rule for group in groups for rule in group["rules"]}
    assert rules.keys() >= wanted
    assert {name: rules[name]["health"] for name in wanted} == dict.fromkeys(wanted, "ok")
    alerts = httpx.get(f"{stack.service('alertmanager').url}/api/v2/alerts", timeout=20).json()
    assert "RtlakeWatchdog" in {alert["labels"]["alertname"] for alert in alerts}


def queries() -> list[tuple[str, str]]:
    """Every query of every panel and rule, with its title."""
    found = []
    for path in sorted((ROLES / "grafana/files/dashboards").glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            found += [(f"{path.stem}: {panel['title']}", t["expr"]) for t in panel.get("targets", [])]
    for group in yaml.safe_load((ROLES / "prometheus/files/rules.yml").read_text())["groups"]:
        found += [(rule["alert"], rule["expr"]) for rule in group["rules"]]
    return found


def test_every_panel_and_rule_asks_for_figures_that_exist(stack: Stack, prometheus: httpx.Client) -> None:
    there = set(prometheus.get("/api/v1/label/__name__/values").json()["data"])
    missing = {}
    for title, query in queries():
        ask(prometheus, query)
        lacking = names_in(query) - there - _AFTER_EVENTS
        if lacking:
            missing[title] = sorted(lacking)
    assert missing == {}


def test_no_secret_is_shown(stack: Stack, prometheus: httpx.Client) -> None:
    shown = prometheus.get("/api/v1/status/config").text + prometheus.get("/api/v1/targets").text
    for name in ("rtlake-exporter", "postgres-exporter", "node-exporter"):
        shown += httpx.get(f"{stack.service(name).url}/metrics", timeout=20).text
    shown += httpx.get(f"{stack.service('alertmanager').url}/api/v2/status", timeout=20).text
    for path in (stack.home / "secrets").iterdir():
        assert path.read_text().strip() not in shown, path.name
