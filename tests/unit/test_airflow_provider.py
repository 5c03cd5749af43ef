"""The provider's description is true, and its classes obey the rules."""

from __future__ import annotations

import importlib
import json
from importlib.metadata import entry_points
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import airflow_provider_rtlake
from airflow_provider_rtlake.get_provider_info import get_provider_info
from tests.unit import airflow_rules as rules

PACKAGE = Path(airflow_provider_rtlake.__file__).parent
INFO = get_provider_info()
SHARED = ("__init__", "base", "trino_base")  # what classes for users are made from


def texts(*folders: str) -> list[str]:
    return [path.read_text() for folder in folders for path in sorted((PACKAGE / folder).glob("*.py"))]


def listed_modules() -> list[str]:
    return [
        module
        for kind in ("hooks", "operators", "sensors", "triggers")
        for entry in INFO[kind]
        for module in entry["python-modules"]
    ]


def load(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def test_it_fits_airflows_schema() -> None:
    schema = json.loads((files("airflow") / "provider_info.schema.json").read_text())
    jsonschema.validate(INFO, schema)


def test_the_distribution_announces_it() -> None:
    # Not installed in a plain checkout: then the project file itself is the witness.
    found = [point for point in entry_points(group="apache_airflow_provider") if "rtlake" in point.value]
    if found:
        assert found[0].load()() == INFO
    else:
        assert (
            'provider_info = "airflow_provider_rtlake.get_provider_info:get_provider_info"'
            in (PACKAGE.parent / "pyproject.toml").read_text()
        )


@pytest.mark.parametrize("module", listed_modules())
def test_every_listed_module_imports(module: str) -> None:
    assert importlib.import_module(module).__doc__


def test_every_module_of_ours_is_listed() -> None:
    there = {
        f"airflow_provider_rtlake.{kind}.{path.stem}"
        for kind in ("operators", "sensors", "triggers")
        for path in (PACKAGE / kind).glob("*.py")
        if path.stem not in SHARED and "class " in path.read_text()
    }
    assert there <= set(listed_modules())


@pytest.mark.parametrize("entry", INFO["connection-types"], ids=lambda entry: entry["connection-type"])
def test_a_connection_type_is_its_hooks(entry: dict[str, Any]) -> None:
    hook = load(entry["hook-class-name"])
    assert hook.conn_type == entry["connection-type"]
    assert hook.hook_name == entry["hook-name"]
    assert set(entry["ui-field-behaviour"]) == {"hidden-fields", "relabeling", "placeholders"}
    for field in entry["conn-fields"].values():
        assert set(field) == {"label", "description", "schema"}


@pytest.mark.parametrize("path", INFO["extra-links"])
def test_every_link_can_be_made(path: str) -> None:
    assert load(path)().name


def test_every_link_of_an_operator_is_listed() -> None:
    used = set()
    for module in (m for m in listed_modules() if ".operators." in m or ".sensors." in m):
        for value in vars(importlib.import_module(module)).values():
            for link in getattr(value, "operator_extra_links", ()) if isinstance(value, type) else ():
                if type(link).__module__.startswith("airflow_provider_rtlake"):
                    used.add(f"{type(link).__module__}.{type(link).__qualname__}")
    assert used <= set(INFO["extra-links"])


GOOD = """
class Base(BaseOperator):
    template_fields = ("x_conn_id",)
    def __init__(self, *, x_conn_id="x", poll=1.0, **kwargs):
        super().__init__(**kwargs)
        self.x_conn_id = x_conn_id
        self.poll = poll
class Child(Base):
    template_fields = (*Base.template_fields, "other")
    def execute(self, context):
        self.defer(trigger=XTrigger(x_conn_id=self.x_conn_id, poll=self.poll), method_name="f")
"""
TRIGGER = """
class XTrigger(BaseTrigger):
    def __init__(self, *, x_conn_id, poll):
        self.x_conn_id = x_conn_id
        self.poll = poll
    def serialize(self):
        return "p", {"x_conn_id": self.x_conn_id, "poll": self.poll}
"""


def test_rule_connections_are_templated() -> None:
    assert rules.untemplated_connections([GOOD]) == []
    bad = GOOD.replace('(*Base.template_fields, "other")', '("other",)')
    assert rules.untemplated_connections([bad]) == ["Child.x_conn_id is not templated"]


def test_rule_init_only_assigns() -> None:
    assert rules.working_inits([GOOD]) == []
    bad = GOOD.replace("self.poll = poll", "if poll < 0: raise ValueError(poll)")
    assert rules.working_inits([bad])


def test_rule_triggers_get_everything() -> None:
    assert rules.incomplete_triggers([GOOD], [TRIGGER]) == ([], 1)
    bad = GOOD.replace("x_conn_id=self.x_conn_id, poll=self.poll", "x_conn_id=self.x_conn_id")
    assert rules.incomplete_triggers([bad], [TRIGGER])[0] == ["Child does not pass poll to XTrigger"]
    lossy = TRIGGER.replace(', "poll": self.poll', "")
    assert rules.incomplete_triggers([GOOD], [lossy])[0] == ["XTrigger.serialize loses poll"]


def test_rule_no_airflow_exception() -> None:
    assert rules.raised_airflow_exceptions(["raise ValueError(1)"]) == []
    assert rules.raised_airflow_exceptions(["raise AirflowException('x')"])


def test_our_connections_are_templated() -> None:
    assert rules.untemplated_connections(texts("operators", "sensors")) == []


def test_our_inits_only_assign() -> None:
    assert rules.working_inits(texts("operators", "sensors", "triggers")) == []


def test_our_triggers_get_everything() -> None:
    problems, seen = rules.incomplete_triggers(texts("operators", "sensors"), texts("triggers"))
    assert problems == []
    assert seen, "no operator defers: the rule checks nothing any more"


def test_we_raise_no_airflow_exception() -> None:
    assert rules.raised_airflow_exceptions(path.read_text() for path in PACKAGE.rglob("*.py")) == []
