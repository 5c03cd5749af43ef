"""The roles' argument_specs, defaults, tags and documentation agree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from airflow_provider_rtlake.exceptions import UserError
from airflow_provider_rtlake.kit import preflight, variables

PROJECT = Path(__file__).parents[2]
ANSIBLE = PROJECT / "ansible"
ROLES = variables.roles(PROJECT)
STAGES = {"install", "configure", "run"}


def loaded(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def is_template(value: Any) -> bool:
    return "{{" in str(value) or "{%" in str(value)


def mistakes(role: Path, shared: set[str]) -> list[str]:
    """Where a role's argument_specs and defaults disagree."""
    specs, defaults = variables.options(role), variables.defaults(role)
    found = [f"{n}: has a default, but no argument_spec" for n in defaults.keys() - specs.keys()]
    for name, option in specs.items():
        if option.get("required"):
            if name not in shared:
                found.append(f"{name}: required, but no group_vars file sets it")
        elif name not in defaults:
            found.append(f"{name}: neither required nor in defaults/main.yml")
        elif not is_template(defaults[name]) and "default" in option and option["default"] != defaults[name]:
            found.append(f"{name}: default {defaults[name]!r}, argument_spec says {option['default']!r}")
        elif (
            not is_template(defaults[name]) and "default" not in option and not isinstance(defaults[name], (dict, list))
        ):
            found.append(f"{name}: argument_spec does not give the default {defaults[name]!r}")
        if not option.get("description") or not option.get("type"):
            found.append(f"{name}: needs type and description")
    return found


def shared_variables() -> set[str]:
    return {name for path in (ANSIBLE / "group_vars" / "all").glob("*.yml") for name in loaded(path)}


@pytest.mark.parametrize("role", ROLES)
def test_argument_specs_agree_with_defaults(role: str) -> None:
    assert mistakes(ROLES[role], shared_variables()) == []


def test_a_disagreement_is_seen(tmp_path: Path) -> None:
    (tmp_path / "meta").mkdir()
    (tmp_path / "defaults").mkdir()
    (tmp_path / "defaults" / "main.yml").write_text("a: 1\nb: 2\nc: 3\n")
    spec = "{argument_specs: {main: {options: {a: {type: int, default: 2, description: x}, b: {type: int}, d: {}}}}}"
    (tmp_path / "meta" / "argument_specs.yml").write_text(spec)
    found = " ".join(mistakes(tmp_path, set()))
    for name in ("a: default 1", "b: argument_spec", "c: has a default", "d: neither"):
        assert name in found


@pytest.mark.parametrize("role", ROLES)
def test_variables_carry_their_roles_name(role: str) -> None:
    assert [n for n in variables.defaults(ROLES[role]) if not n.startswith(f"{role}_")] == []


@pytest.mark.parametrize("role", [r for r in ROLES if r != "common"])
def test_every_task_belongs_to_a_stage(role: str) -> None:
    files = sorted((ROLES[role] / "tasks").glob("*.yml"))
    assert files
    for path in files:
        for task in loaded(path):
            assert set(task.get("tags", [])) & STAGES, f"{path.name}: {task['name']} has no tag of {sorted(STAGES)}"


def test_lines_that_users_add_to_supersets_settings_may_hold_keys() -> None:
    (task,) = [t for t in loaded(ROLES["superset"] / "tasks" / "main.yml") if t["name"] == "Settings and service"]
    assert "'template': 'superset_config.py.j2', 'mode': '0600'" in task["vars"]["common_files"]


def test_every_distribution_that_is_supported_has_its_file() -> None:
    there = {p.stem for p in (ROLES["common"] / "vars").glob("*-*.yml")}
    assert there == set(preflight.SUPPORTED)
    keys = [set(loaded(ROLES["common"] / "vars" / f"{name}.yml")) for name in sorted(there)]
    assert all(k == keys[0] for k in keys)


def test_the_table_of_variables_is_current() -> None:
    current = "\n".join(variables.table(PROJECT)) + "\n"
    assert (PROJECT / "docs" / "variables.md").read_text() == current, (
        "python -m airflow_provider_rtlake.kit.variables >docs/variables.md"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('ID=debian\nVERSION_ID="12"\n', "debian-12"),
        ('NAME="Ubuntu"\nID=ubuntu\nVERSION_ID="22.04"\n', "ubuntu-22.04"),
        ("", "unknown-"),
    ],
)
def test_the_distribution_is_read(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "os-release").write_text(text)
    assert preflight.distribution(tmp_path / "os-release") == expected


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("127.0.0.1", None),
        ("0.0.0.0", "without TLS and login"),  # noqa: S104
        ("192.168.1.5", "without TLS and login"),
        ("::", "without TLS and login"),
        ("127.1.2.3", "must be 127.0.0.1"),
        ("::1", "must be 127.0.0.1"),
        ("localhost", "must be 127.0.0.1"),
        ("", "must be 127.0.0.1"),
    ],
)
def test_the_address_on_which_services_listen(address: str, told: str | None) -> None:
    problems = preflight._listen(address)
    assert [told in problem for problem in problems] == ([True] if told else [])


def test_an_unsupported_release_is_named(tmp_path: Path) -> None:
    def wanted(**changes: Any) -> preflight.Wanted:
        given: dict[str, Any] = {"supervisor": "systemd", "ports": {}, "memory_mb": 1, "disk_mb": 1, **changes}
        return preflight.Wanted(home=tmp_path, **given)

    problems = preflight._platform("debian-11", wanted())
    assert any("debian-11" in p and "rtlake_any_system" in p for p in problems)
    assert preflight._platform("debian-11", wanted(any_system=True)) == []
    assert preflight._platform("debian-11", wanted(supervisor="supervisord")) == []


@pytest.mark.parametrize(("version", "problems"), [((3, 9), 1), ((3, 10), 0), ((3, 12), 0), ((3, 13), 1)])
def test_the_versions_of_python(version: tuple[int, int], problems: int) -> None:
    assert len(preflight._python(version)) == problems


def test_variables_of_the_command_line() -> None:
    given = [
        "flink_taskmanager_heap_mb=2048",
        "flink_config={a.b: 1}",
        "trino_postgresql_case_insensitive=false",
        "flink_bucket=",
        "rtlake_backup_folder=/srv/backups",
    ]
    assert variables.assigned(PROJECT, given) == {
        "flink_taskmanager_heap_mb": 2048,
        "flink_config": {"a.b": 1},
        "trino_postgresql_case_insensitive": False,
        "flink_bucket": None,
        "rtlake_backup_folder": "/srv/backups",
    }


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("flink_taskmanager_heap_mb", "must be NAME=VALUE"),
        ("flink_taskmanager_heap=1", "did you mean flink_taskmanager_heap_mb"),
        ("flink_taskmanager_heap_mb=much", "must be of type int"),
        ("flink_taskmanager_heap_mb=true", "must be of type int"),
        ("flink_config={a: ", "is no YAML"),
    ],
)
def test_a_wrong_variable_of_the_command_line_is_refused(given: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        variables.assigned(PROJECT, [given])
