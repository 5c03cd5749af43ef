"""What is stopped when monitoring is switched off."""

from __future__ import annotations

from pathlib import Path

from airflow_provider_rtlake.kit import settings, verbs
from airflow_provider_rtlake.kit.stack import Service, Stack


def stack_of(**components: str) -> Stack:
    services = {name: Service(name, component, 1, "", Path("log")) for name, component in components.items()}
    return Stack(Path("home"), Path("project"), "supervisord", 0, ("kafka",), services, {})


def test_what_the_playbook_left_out_is_stopped() -> None:
    on = stack_of(kafka="kafka", prometheus="prometheus", alertmanager="alertmanager", exporter="exporters")
    off = stack_of(kafka="kafka")
    assert verbs.unwatched(on, off) == ["prometheus", "alertmanager", "exporter"]
    assert verbs.unwatched(on, on) == []
    assert verbs.unwatched(off, on) == []


def test_other_components_are_not_its_business() -> None:
    assert verbs.unwatched(stack_of(kafka="kafka", trino="trino"), stack_of(kafka="kafka")) == []


def test_its_roles_are_those_of_the_playbook() -> None:
    project = Path(__file__).parents[2]
    assert all((project / "ansible" / "roles" / name).is_dir() for name in settings.MONITORING)
    assert not set(settings.MONITORING) & set(settings.all_components(project))
