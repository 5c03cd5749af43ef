"""What is taken away, what stays, and what is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from airflow_provider_rtlake.exceptions import UserError
from airflow_provider_rtlake.kit import gobuild, preflight, remove, settings, supervise
from airflow_provider_rtlake.kit.stack import Service, Stack


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine's folders of units, and of what PostgreSQL's packages read, in place of the real ones."""
    units = tmp_path / "units"
    units.mkdir()
    (tmp_path / "rtlake.conf").touch()
    monkeypatch.setattr(supervise, "UNITS", units)
    monkeypatch.setattr(remove, "_NO_CLUSTER", tmp_path / "rtlake.conf")
    monkeypatch.setattr(remove.os, "geteuid", lambda: 0)
    return units


@pytest.fixture
def stack(tmp_path: Path) -> Stack:
    home = tmp_path / "home"
    components = ("zookeeper", "kafka", "connect", "pinot")
    for name in components:
        for part in ("etc", "var"):
            (home / part / name).mkdir(parents=True)
    for folder in ("pinot-1", "kafka-1", "debezium-1"):
        (home / "opt" / folder).mkdir(parents=True)
    (home / "log").mkdir()
    (home / "log" / "connect.log").touch()
    (home / "log" / "kafka.log").touch()
    (home / "secrets").mkdir()
    lock = {"components": {n: {"version": "1", "files": []} for n in ("pinot", "kafka", "debezium")}}
    (tmp_path / "lock.json").write_text(json.dumps(lock))
    services = {n: Service(n, n, 1, "", home / "log" / f"{n}.log") for n in components}
    return Stack(home, Path("/p"), "supervisord", 0, components, services, {})


def test_a_component_goes_and_its_data_stays(stack: Stack, tmp_path: Path) -> None:
    kept = remove.remove_components(stack, ["connect"], tmp_path / "lock.json")
    assert kept == [str(stack.home / "var" / "connect")]
    assert not (stack.home / "etc" / "connect").exists()
    assert sorted(p.name for p in (stack.home / "opt").iterdir()) == ["kafka-1", "pinot-1"], "kafka's is still used"
    assert [p.name for p in (stack.home / "log").iterdir()] == ["kafka.log"]


def test_shared_software_goes_with_the_last_user(stack: Stack, tmp_path: Path) -> None:
    remove.remove_components(stack, ["pinot", "zookeeper"], tmp_path / "lock.json")
    assert sorted(p.name for p in (stack.home / "opt").iterdir()) == ["debezium-1", "kafka-1"]


def test_what_others_need_is_refused(stack: Stack) -> None:
    with pytest.raises(UserError, match="connect needs kafka"):
        remove.check_removable(stack, ["kafka"])
    assert remove.check_removable(stack, ["kafka", "connect"]) == ["zookeeper", "pinot"]
    with pytest.raises(UserError, match=r"not installed: trino; there are: zookeeper"):
        remove.check_removable(stack, ["trino"])


def test_monitoring_goes_by_one_name(stack: Stack, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not installed: monitoring"):
        remove.check_removable(stack, ["monitoring"])
    (stack.home / "etc" / "prometheus").mkdir()
    (stack.home / "var" / "prometheus").mkdir()
    (stack.home / "opt" / "prometheus-1").mkdir()
    log = stack.home / "log" / "prometheus.log"
    watched = {**stack.services, "prometheus": Service("prometheus", "prometheus", 1, "", log)}
    stack = dataclasses.replace(stack, services=watched)
    lock = json.loads((tmp_path / "lock.json").read_text())
    lock["components"]["prometheus"] = {"version": "1", "files": []}
    (tmp_path / "lock.json").write_text(json.dumps(lock))
    assert remove.remove_components(stack, ["monitoring"], tmp_path / "lock.json") == [
        str(stack.home / "var" / "prometheus")
    ]
    assert not (stack.home / "etc" / "prometheus").exists() and not (stack.home / "opt" / "prometheus-1").exists()
    assert (stack.home / "etc" / "kafka").exists()


def added(stack: Stack, **services: str) -> Stack:
    more = {name: Service(name, component, 1, "", Path("log")) for name, component in services.items()}
    return dataclasses.replace(stack, services={**stack.services, **more})


def test_what_a_variable_switched_on_goes_by_its_name(stack: Stack, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not installed: superset"):
        remove.check_removable(stack, ["superset"])
    for folder in ("etc/superset", "var/superset", "opt/superset-6"):
        (stack.home / folder).mkdir()
    stack = added(stack, superset="superset", grafana="grafana", **{"kafka-ui": "kafka_ui"})
    kept = remove.remove_components(stack, ["superset", "grafana"], tmp_path / "lock.json")
    assert kept == [str(stack.home / "var" / "superset")]
    assert not (stack.home / "etc" / "superset").exists() and not (stack.home / "opt" / "superset-6").exists()
    with pytest.raises(UserError, match="kafka_ui needs kafka"):
        remove.check_removable(stack, ["kafka", "connect"])


def test_monitoring_does_not_go_in_parts(stack: Stack) -> None:
    with pytest.raises(UserError, match="prometheus: goes with the rest of monitoring"):
        remove.check_removable(added(stack, prometheus="prometheus"), ["prometheus"])


def test_minio_goes_by_its_name_where_it_is_the_store(stack: Stack, tmp_path: Path) -> None:
    assert remove.as_components(stack, ["minio"]) == ["minio"], "not installed"
    (stack.home / "opt" / "minio-v1").mkdir()
    stack = dataclasses.replace(added(stack, s3="minio"), components=(*stack.components, "s3proxy"))
    assert remove.as_components(stack, ["minio", "kafka"]) == ["s3proxy", "kafka"]
    remove.remove_components(stack, ["s3proxy"], tmp_path / "lock.json")
    assert not (stack.home / "opt" / "minio-v1").exists()


def test_everything_goes_but_data_unless_told(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remove, "_accounts", list)  # of the machine that the tests run on
    kept = remove.remove_everything(stack, stack.home, data=False, environment=True)
    assert kept == [str(stack.home / "var"), str(stack.home / "secrets")]
    assert sorted(p.name for p in stack.home.iterdir()) == ["secrets", "var"]
    assert remove.remove_everything(None, stack.home, data=True, environment=True) == []
    assert not stack.home.exists()


def test_accounts_stay_where_another_stack_may_have_them(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remove, "_accounts", lambda: ["rtlake-postgresql"])
    monkeypatch.setattr(remove.subprocess, "run", lambda *_, **__: pytest.fail("an account was removed"))
    stack = dataclasses.replace(stack, supervisor="supervisord")
    assert remove.remove_everything(stack, stack.home, data=True, environment=True) == ["account rtlake-postgresql"]


def unit(machine: Path, home: Path | str, component: str, name: str) -> None:
    (machine / f"rtlake-{name}.service").write_text(f"[Service]\nUser=x\nExecStart={home}/etc/{component}/{name}.sh\n")


@pytest.mark.parametrize("another", [True, False])
def test_only_units_of_this_home_go_and_accounts_with_the_last(
    stack: Stack, machine: Path, monkeypatch: pytest.MonkeyPatch, another: bool
) -> None:
    commands: list[list[str]] = []
    monkeypatch.setattr(remove, "_accounts", lambda: ["rtlake-kafka"])
    monkeypatch.setattr(remove.subprocess, "run", lambda command, **_: commands.append(command))
    unit(machine, stack.home, "kafka", "kafka")
    unit(machine, stack.home, "upkeep", "tidy")
    (machine / "rtlake-tidy.timer").touch()
    (machine / "rtlake-of-the-user.service").write_text("[Service]\nExecStart=/usr/bin/true\n")
    if another:
        unit(machine, "/opt/another", "trino", "trino")
    stack = dataclasses.replace(stack, supervisor="systemd")
    remove.remove_everything(stack, stack.home, data=True, environment=True)
    left = {"rtlake-of-the-user.service", *(["rtlake-trino.service"] if another else [])}
    assert {path.name for path in machine.iterdir()} == left
    assert (["userdel", "rtlake-kafka"] in commands) is not another
    assert (machine.parent / "rtlake.conf").exists() is another


def test_a_second_home_under_systemd_is_refused(machine: Path) -> None:
    def problems(home: str, supervisor: str) -> list[str]:
        return preflight._units(preflight.Wanted(Path(home), supervisor, {}, 1, 1))

    unit(machine, "/opt/first", "kafka", "kafka")
    unit(machine, "/opt/first", "trino", "trino")
    assert problems("/opt/first", "systemd") == problems("/opt/second", "supervisord") == []
    (problem,) = problems("/opt/second", "systemd")
    assert "run /opt/first" in problem and "--supervisor supervisord" in problem


def test_minio_fills_the_object_stores_place() -> None:
    assert settings.folders(["kafka"]) == ["kafka"]
    assert settings.folders(["s3proxy"]) == ["s3proxy", "minio"]
    assert settings.folders(["kafka", "monitoring"]) == ["kafka", *settings.MONITORING]


LISTING = """/somewhere/minio: go1.26.8
\tpath\tgithub.com/minio/minio
\tmod\tgithub.com/minio/minio\tv1\th1:aaa=
\tdep\tx.org/y\tv2\th1:bbb=
\tbuild\t-trimpath=true
"""


def test_a_built_programs_digest_is_of_what_went_into_it() -> None:
    digest = gobuild.digest_of_listing(LISTING)
    assert gobuild.digest_of_listing(LISTING.replace("/somewhere/", "/else/").replace("=true", "=false")) == digest
    for old, new in (("go1.26.8", "go1.26.9"), ("bbb", "bbc"), ("v2", "v3")):
        assert gobuild.digest_of_listing(LISTING.replace(old, new)) != digest
