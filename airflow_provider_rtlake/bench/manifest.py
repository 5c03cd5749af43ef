"""dbt's manifest: what Cosmos needs of it, and dbt-project-evaluator's rules on it (its package comes from a hub)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

_PREFIXES = {"staging": ("stg_",), "intermediate": ("int_",), "marts": ("fct_", "dim_", "rpt_")}
_MOST_CHILDREN = 3
_HARD_CODED = re.compile(r"\b(?:from|join)\s+[a-z_]\w*\.[a-z_]\w*", re.IGNORECASE)
_KEY_TESTS = ("unique", "unique_together")


_RENDERED = ("resource_type", "package_name", "original_file_path", "fqn", "tags")


def rendered(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What Cosmos renders a project from: small enough to be kept beside it, the same on every machine.

    :param manifest: dbt's ``manifest.json``.
    """

    def kept(node: Mapping[str, Any]) -> dict[str, Any]:
        found = {name: node[name] for name in _RENDERED if name in node}
        found["depends_on"] = {"nodes": sorted(set(node.get("depends_on", {}).get("nodes", ())))}
        found["config"] = {"materialized": node.get("config", {}).get("materialized")}
        return found

    return {
        "metadata": {"project_name": manifest["metadata"]["project_name"]},
        **{kind: {key: kept(node) for key, node in sorted(manifest[kind].items())} for kind in ("nodes", "sources")},
    }


def text(manifest: Mapping[str, Any]) -> str:
    """:func:`rendered` as it is kept: one line for each node."""
    found = rendered(manifest)
    parts = [f'"metadata": {json.dumps(found["metadata"])}']
    for kind in ("nodes", "sources"):
        lines = ",\n".join(f"  {json.dumps(key)}: {json.dumps(node)}" for key, node in found[kind].items())
        parts.append(f'"{kind}": {{\n{lines}\n}}')
    return "{" + ",\n".join(parts) + "}\n"


def problems(manifest: Mapping[str, Any]) -> list[str]:
    """Everything in a project that breaks a rule, one line each.

    :param manifest: dbt's ``manifest.json``.
    """
    models = {key: node for key, node in manifest["nodes"].items() if node["resource_type"] == "model"}
    found: list[str] = []
    for key, model in sorted(models.items()):
        rules = (_names(model), _graph(key, model, manifest, models), _documented(model), _tested(key, manifest))
        found += [f"{model['name']}: {what}" for rule in (*rules, _governed(model)) for what in rule]
    for key, source in sorted(manifest["sources"].items()):
        found += [f"source {source['name']}: {what}" for what in _source(key, source, manifest)]
    for exposure in manifest["exposures"].values():
        found += [f"exposure {exposure['name']}: {what}" for what in _exposure(exposure, models)]
    return found


def _layer(model: Mapping[str, Any]) -> str:
    return str(model["fqn"][1])


def _names(model: Mapping[str, Any]) -> Iterator[str]:
    layer = _layer(model)
    if layer not in _PREFIXES:
        yield f"lies in {layer}; models lie in {', '.join(_PREFIXES)}"
    elif not model["name"].startswith(_PREFIXES[layer]):
        yield f"in {layer} a name begins with {' or '.join(_PREFIXES[layer])}"


def _graph(key: str, model: Mapping[str, Any], manifest: Mapping[str, Any], models: Mapping[str, Any]) -> Iterator[str]:
    layer, parents = _layer(model), model["depends_on"]["nodes"]
    sources = [one for one in parents if one.startswith(("source.", "seed."))]
    upstream = [models[one] for one in parents if one in models]
    if not parents:
        yield "depends on nothing"
    if layer != "staging" and sources:
        yield f"reads {', '.join(sources)} without a staging model"
    if len(sources) > 1:
        yield f"joins sources: {', '.join(sources)}"
    if layer == "staging" and upstream:
        yield f"is staging on top of {', '.join(one['name'] for one in upstream)}"
    if layer == "intermediate" and any(_layer(one) == "marts" for one in upstream):
        yield "is intermediate and reads a mart"
    leaves = [child for child in manifest["child_map"][key] if child in models and not _children(child, manifest)]
    if len(leaves) > _MOST_CHILDREN:
        yield f"fans out to {len(leaves)} models that nobody reads"
    if model["language"] == "sql" and _HARD_CODED.search(_without_jinja(model["raw_code"])):
        yield "names a table itself; use ref or source"


def _children(key: str, manifest: Mapping[str, Any]) -> list[str]:
    return [child for child in manifest["child_map"][key] if child.startswith(("model.", "exposure.", "snapshot."))]


def _without_jinja(code: str) -> str:
    code = re.sub(r"--[^\n]*", " ", code)
    # extract(hour from trips.pickup_at) reads no table
    code = re.sub(r"extract\s*\([^()]*\)", " ", code, flags=re.IGNORECASE)
    return re.sub(r"\{[{%#].*?[}%#]\}", " ", code, flags=re.DOTALL)


def _documented(model: Mapping[str, Any]) -> Iterator[str]:
    if not model["description"]:
        yield "has no description"
    bare = [name for name, column in model["columns"].items() if not column["description"]]
    if bare:
        yield f"columns without a description: {', '.join(bare)}"


def _tests(key: str, manifest: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for child in manifest["child_map"][key]:
        node = manifest["nodes"].get(child, {})
        if node.get("resource_type") == "test" and node.get("attached_node") == key:
            yield node


def _tested(key: str, manifest: Mapping[str, Any]) -> Iterator[str]:
    tests = [node.get("test_metadata") or {} for node in _tests(key, manifest)]
    keys = [(one.get("kwargs") or {}).get("column_name") for one in tests if one.get("name") == "unique"]
    filled = {(one.get("kwargs") or {}).get("column_name") for one in tests if one.get("name") == "not_null"}
    together = any(one.get("name") == "unique_together" for one in tests)
    if not together and not any(name in filled for name in keys):
        yield f"no test of its key: a column that is unique and not_null, or {_KEY_TESTS[1]}"


def _governed(model: Mapping[str, Any]) -> Iterator[str]:
    if model["access"] == "public" and not model["contract"]["enforced"]:
        yield "is public and has no contract"
    if model["access"] == "public" and any(not column["data_type"] for column in model["columns"].values()):
        yield "is public and a column has no data type"


def _source(key: str, source: Mapping[str, Any], manifest: Mapping[str, Any]) -> Iterator[str]:
    freshness = source.get("freshness") or {}
    if not (freshness.get("warn_after") or {}).get("count") or not (freshness.get("error_after") or {}).get("count"):
        yield "has no freshness"
    if not source["description"] or not source["source_description"]:
        yield "has no description"
    readers = [child for child in manifest["child_map"][key] if child.startswith("model.")]
    if len(readers) != 1:
        yield f"is read by {len(readers)} models; one staging model each"


def _exposure(exposure: Mapping[str, Any], models: Mapping[str, Any]) -> Iterator[str]:
    for parent in exposure["depends_on"]["nodes"]:
        if parent in models and _layer(models[parent]) != "marts":
            yield f"reads {models[parent]['name']}, which is no mart"
        if parent in models and models[parent]["access"] == "private":
            yield f"reads {models[parent]['name']}, which is private"
