"""The rules of alerts: promtool's own tests, and that code, rules, tests and runbooks name the same things."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from airflow_provider_rtlake.kit import artifacts
from airflow_provider_rtlake.kit.stack import default_home
from airflow_provider_rtlake.monitoring.catalogue import METRICS

PROJECT = Path(__file__).parents[2]
RULES = PROJECT / "ansible" / "roles" / "prometheus" / "files" / "rules.yml"
TESTS = Path(__file__).with_name("monitoring_rules.test.yml")
ALERTS: list[dict[str, Any]] = [
    rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]
]


def promtool(folder: Path) -> str | None:
    """From the path, an installed stack, or the download cache."""
    found = shutil.which("promtool")
    if found:
        return found
    for home in {default_home(), Path(os.environ.get("RTLAKE_TEST_STACK", "/nowhere"))}:
        for tool in home.glob("opt/prometheus-*/bin/promtool"):
            return str(tool)
    cache = Path(os.environ.get("RTLAKE_CACHE") or Path.home() / ".cache" / "rtlake")
    component = artifacts.load_lock(PROJECT / "ansible" / artifacts.LOCK_NAME)["prometheus"]
    if all(artifacts.matches(a, cache / a.cache_path) for a in component.artifacts):
        return str(artifacts.install(component, cache, folder) / "bin" / "promtool")
    return None


@pytest.fixture(scope="module")
def tool(tmp_path_factory: pytest.TempPathFactory) -> str:
    found = promtool(tmp_path_factory.mktemp("opt"))
    if found is None:
        pytest.skip("no promtool: neither installed nor in the download cache (rtlake fetch prometheus)")
    return found


def run(tool: str, folder: Path, rules: str) -> subprocess.CompletedProcess[str]:
    (folder / "rules.yml").write_text(rules)
    shutil.copy(TESTS, folder / TESTS.name)
    return subprocess.run(
        [tool, "test", "rules", str(folder / TESTS.name)], capture_output=True, text=True, check=False
    )


def test_alerts_fire_when_they_should(tool: str, tmp_path: Path) -> None:
    done = run(tool, tmp_path, RULES.read_text())
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_wrong_rule_is_seen(tool: str, tmp_path: Path) -> None:
    wrong = RULES.read_text().replace("rtlake_service_up == 0", "rtlake_service_up == 1")
    assert run(tool, tmp_path, wrong).returncode != 0


def test_every_alert_is_tested_firing() -> None:
    fired = {
        one["alertname"]
        for test in yaml.safe_load(TESTS.read_text())["tests"]
        for one in test["alert_rule_test"]
        if one["exp_alerts"]
    }
    assert fired == {rule["alert"] for rule in ALERTS}


def test_every_alert_has_its_runbook_and_every_runbook_its_alert() -> None:
    headings = re.findall(r"^### (\S+)$", (PROJECT / "docs" / "runbooks.md").read_text(), re.MULTILINE)
    assert sorted(headings) == sorted(rule["alert"] for rule in ALERTS)
    for rule in ALERTS:
        assert rule["annotations"]["runbook_url"] == f"RUNBOOKS#{rule['alert'].lower()}"


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: str(rule["alert"]))
def test_our_own_metrics_in_a_rule_exist(rule: dict[str, Any]) -> None:
    named = set(re.findall(r"\brtlake_\w+", rule["expr"]))
    known = {f"{name}_total" if metric.kind == "counter" else name for name, metric in METRICS.items()}
    assert named <= known
