"""Dashboards: well-formed, and of our own metrics only those that exist."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_rtlake.monitoring.catalogue import METRICS

FOLDER = Path(__file__).parents[2] / "ansible" / "roles" / "grafana" / "files" / "dashboards"
BOARDS: dict[str, dict[str, Any]] = {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}
KNOWN = {f"{name}_total" if metric.kind == "counter" else name for name, metric in METRICS.items()}


def test_there_are_two() -> None:
    assert sorted(BOARDS) == ["lakehouse", "services"]
    assert len({board["uid"] for board in BOARDS.values()}) == 2


@pytest.mark.parametrize("name", BOARDS)
def test_panels_have_ids_places_and_the_provisioned_source(name: str) -> None:
    panels = BOARDS[name]["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24, panel["title"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & places, f"{panel['title']} covers another panel"
        places |= cells
        for target in panel.get("targets", []):
            assert target["expr"]
            assert target["datasource"]["uid"] == "rtlake"


@pytest.mark.parametrize("name", BOARDS)
def test_our_own_metrics_exist(name: str) -> None:
    named = set(re.findall(r"\brtlake_\w+", json.dumps([p.get("targets") for p in BOARDS[name]["panels"]])))
    assert named <= KNOWN
