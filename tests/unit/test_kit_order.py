"""Services are stopped side by side, each after those that need it."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import yaml

from airflow_provider_rtlake.kit import order


def stopped(names: list[str], failing: str = "") -> list[str]:
    ended: list[str] = []
    lock = threading.Lock()

    def stop_one(name: str) -> None:
        if name == failing:
            raise OSError(name)
        with lock:
            ended.append(name)

    order.stop(names, stop_one, lambda _: None)
    return ended


def test_what_others_need_ends_after_them() -> None:
    names = list(order.STOPS_AFTER) + sorted({n for needs in order.STOPS_AFTER.values() for n in needs})
    ended = stopped(sorted(set(names)))
    assert sorted(ended) == sorted(set(names))
    for name, others in order.STOPS_AFTER.items():
        assert all(ended.index(o) < ended.index(name) for o in others), name


def test_absent_services_are_not_waited_for() -> None:
    assert stopped(["zookeeper"]) == ["zookeeper"]
    assert stopped([]) == []


def test_one_that_fails_holds_nobody_back_and_is_told() -> None:
    with pytest.raises(OSError, match="pinot"):
        stopped(["zookeeper", "pinot"], failing="pinot")


def test_there_is_no_circle() -> None:
    def below(name: str, seen: tuple[str, ...]) -> None:
        assert name not in seen, seen
        for other in order.STOPS_AFTER.get(name, ()):
            below(other, (*seen, name))

    for name in order.STOPS_AFTER:
        below(name, ())


def test_every_name_is_a_service_of_some_role() -> None:
    roles = Path(__file__).parents[2] / "ansible" / "roles"
    text = "".join(p.read_text() for p in roles.glob("*/tasks/main.yml"))
    known = {n for needs in order.STOPS_AFTER.values() for n in needs} | set(order.STOPS_AFTER)
    assert [n for n in known - {"minio"} if f"- name: {n}\n" not in text] == []
    assert yaml.safe_load((roles / "pinot" / "tasks" / "main.yml").read_text())
