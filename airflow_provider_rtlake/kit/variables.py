"""The roles' variables as a table: ``python -m airflow_provider_rtlake.kit.variables >docs/variables.md``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

_HEAD = """# Variables of the roles

Made from `ansible/roles/*/meta/argument_specs.yml` by
`python -m airflow_provider_rtlake.kit.variables >docs/variables.md`; a test compares. Set them in an inventory,
in its `group_vars`, or with `-e`. What concerns all roles (folders, ports, components) is explained in
`ansible/group_vars/all/main.yml`.
"""


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


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return f"`{text}`" if text else "(empty)"


def table(project: Path) -> Iterator[str]:
    """The document, line by line.

    :param project: the checkout.
    """
    yield from _HEAD.splitlines()
    for name, role in roles(project).items():
        known = defaults(role)
        rows = [(n, o) for n, o in options(role).items() if n in known and not isinstance(known[n], (dict, list))]
        rows += [(n, o) for n, o in options(role).items() if n in known and known[n] in ({}, [])]
        if not rows:
            continue
        yield from ("", f"## {name}", "", "| variable | type | default | meaning |", "| --- | --- | --- | --- |")
        for variable, option in rows:
            meaning = str(option["description"]).replace("|", "\\|")
            yield f"| `{variable}` | {option['type']} | {_shown(known[variable])} | {meaning} |"


if __name__ == "__main__":
    sys.stdout.write("\n".join(table(Path(__file__).parents[2])) + "\n")
