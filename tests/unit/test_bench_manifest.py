"""The evaluator's rules: each finds its mistake in a project that is right otherwise."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from airflow_provider_rtlake.bench.manifest import problems


def test_metadata(name: str, column: str) -> dict[str, Any]:
    return {"name": name, "kwargs": {"column_name": column}}


test_metadata.__test__ = False  # type: ignore[attr-defined]


def model(name: str, layer: str, parents: list[str], code: str, **more: Any) -> dict[str, Any]:
    return {
        "resource_type": "model",
        "name": name,
        "fqn": ["p", layer, name],
        "depends_on": {"nodes": parents},
        "language": "sql",
        "raw_code": code,
        "description": "Rows.",
        "columns": {"id": {"description": "Key.", "data_type": "int"}},
        "access": "protected",
        "contract": {"enforced": False},
        **more,
    }


def good() -> dict[str, Any]:
    models = {
        "model.p.stg_a": model("stg_a", "staging", ["source.p.s.a"], "select id from {{ source('s', 'a') }}"),
        "model.p.fct_a": model(
            "fct_a", "marts", ["model.p.stg_a"], "select id from {{ ref('stg_a') }}",
            access="public", contract={"enforced": True},
        ),
    }  # fmt: skip
    tests, children = {}, {"source.p.s.a": ["model.p.stg_a"], "model.p.stg_a": ["model.p.fct_a"], "model.p.fct_a": []}
    for key in models:
        for kind in ("unique", "not_null"):
            name = f"test.{key}.{kind}"
            tests[name] = {"resource_type": "test", "attached_node": key, "test_metadata": test_metadata(kind, "id")}
            children[key].append(name)
    age = {"count": 1, "period": "day"}
    source = {
        "name": "a", "description": "Rows.", "source_description": "S.",
        "freshness": {"warn_after": age, "error_after": age},
    }  # fmt: skip
    exposure = {"name": "e", "depends_on": {"nodes": ["model.p.fct_a"]}}
    return {
        "nodes": {**models, **tests},
        "sources": {"source.p.s.a": source},
        "exposures": {"exposure.p.e": exposure},
        "child_map": children,
    }


def fct(manifest: dict[str, Any]) -> dict[str, Any]:
    return manifest["nodes"]["model.p.fct_a"]


MISTAKES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a name begins with fct_ or dim_ or rpt_": lambda m: fct(m).update(name="trips"),
    "models lie in": lambda m: fct(m).update(fqn=["p", "other", "fct_a"]),
    "without a staging model": lambda m: fct(m)["depends_on"]["nodes"].append("source.p.s.a"),
    "joins sources": lambda m: m["nodes"]["model.p.stg_a"]["depends_on"]["nodes"].append("seed.p.b"),
    "is staging on top of": lambda m: m["nodes"]["model.p.stg_a"]["depends_on"]["nodes"].append("model.p.fct_a"),
    "depends on nothing": lambda m: fct(m)["depends_on"]["nodes"].clear(),
    "names a table itself": lambda m: fct(m).update(raw_code="select id from main.stg_a"),
    "has no description": lambda m: fct(m).update(description=""),
    "columns without a description: id": lambda m: fct(m)["columns"]["id"].update(description=""),
    "no test of its key": lambda m: m["child_map"]["model.p.fct_a"].pop(),
    "is public and has no contract": lambda m: fct(m).update(contract={"enforced": False}),
    "a column has no data type": lambda m: fct(m)["columns"]["id"].update(data_type=None),
    "has no freshness": lambda m: m["sources"]["source.p.s.a"].update(freshness=None),
    "is read by 0 models": lambda m: m["child_map"]["source.p.s.a"].clear(),
    "which is no mart": lambda m: m["exposures"]["exposure.p.e"]["depends_on"]["nodes"].append("model.p.stg_a"),
}


def test_a_good_project_has_no_problem() -> None:
    assert problems(good()) == []


@pytest.mark.parametrize("wanted", MISTAKES)
def test_each_mistake_is_found(wanted: str) -> None:
    manifest = copy.deepcopy(good())
    MISTAKES[wanted](manifest)
    found = problems(manifest)
    assert any(wanted in one for one in found), found
