"""The roles' variables: as ``rtlake up --set`` gives them, and as the table docs/variables.md."""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from airflow_provider_rtlake.exceptions import UserError

_HEAD = """# Variables of the roles

Made from `ansible/roles/*/meta/argument_specs.yml` by
`python -m airflow_provider_rtlake.kit.variables >docs/variables.md`; a test compares. Set them with
`rtlake up --set NAME=VALUE`, which remembers them, or in an inventory, its `group_vars`, or with `-e`. Folders, ports
and components concern all roles: `ansible/group_vars/all/main.yml` explains them.
"""
_SHOWN = 60  # characters of a default


def roles(project: Path) -> dict[str, Path]:
    """Folder of each role.

    :param project: the checkout.
    """
    return {p.name: p for p in sorted((project / "ansible" / "roles").iterdir()) if p.is_dir()}


def options(role: Path) -> dict[str, dict[str, Any]]:
    """What a role's argument_specs say of each variable."""
    specs = yaml.safe_load((role / "meta" / "argument_specs.yml").read_text())
    found: dict[str, dict[str, Any]] = specs["argument_specs"]["main"].get("options", {})
    return found


def defaults(role: Path) -> dict[str, Any]:
    """A role's defaults, as written: templates are not filled in."""
    path = role / "defaults" / "main.yml"
    return (yaml.safe_load(path.read_text()) or {}) if path.exists() else {}


def shared(project: Path) -> dict[str, Any]:
    """What all roles have in common, as written in ``group_vars``, where a role's argument_specs describe it.

    :param project: the checkout.
    """
    variables = yaml.safe_load((project / "ansible" / "group_vars" / "all" / "main.yml").read_text())
    described = options(roles(project)["common"])
    return {name: value for name, value in variables.items() if name in described}


_TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "list": (list,),
    "dict": (dict,),
}


def assigned(project: Path, assignments: Sequence[str]) -> dict[str, Any]:
    """Read ``NAME=VALUE`` of the command line; None stands for a variable's default again.

    :param project: the checkout.
    :param assignments: the value as in YAML; nothing after ``=`` is the default.
    :raises UserError: no such variable, or its type is another.
    """
    everywhere = shared(project)
    known = {
        name: option
        for role in roles(project).values()
        for name, option in options(role).items()
        if name in everywhere or name in defaults(role)
    }
    found: dict[str, Any] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise UserError(f"--set {assignment}: must be NAME=VALUE")
        if name not in known:
            near = difflib.get_close_matches(name, known, 3)
            hint = f"did you mean {' or '.join(near)}?" if near else "docs/variables.md has all"
            raise UserError(f"--set {name}: no role has such a variable; {hint}")
        found[name] = _typed(name, text, str(known[name]["type"])) if text else None
    return found


def _typed(name: str, text: str, kind: str) -> Any:
    if kind not in _TYPES:
        return text
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"--set {name}: {text} is no YAML ({error})") from error
    if not isinstance(value, _TYPES[kind]) or (isinstance(value, bool) and kind != "bool"):
        raise UserError(f"--set {name}={text}: must be of type {kind}")
    return value


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    if len(text) > _SHOWN:
        return "see defaults/main.yml"
    return f"`{text}`" if text else "(empty)"


def table(project: Path) -> Iterator[str]:
    """The document, line by line.

    :param project: the checkout.
    """
    yield from _HEAD.splitlines()
    for name, role in roles(project).items():
        known = {**(shared(project) if name == "common" else {}), **defaults(role)}
        rows = [(n, o) for n, o in options(role).items() if n in known]
        if not rows:
            continue
        yield from ("", f"## {name}", "", "| variable | type | default | meaning |", "| --- | --- | --- | --- |")
        for variable, option in rows:
            meaning = str(option["description"]).replace("|", "\\|")
            yield f"| `{variable}` | {option['type']} | {_shown(known[variable])} | {meaning} |"


if __name__ == "__main__":
    sys.stdout.write("\n".join(table(Path(__file__).parents[2])) + "\n")
