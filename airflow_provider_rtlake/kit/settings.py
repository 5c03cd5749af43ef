"""What was chosen for this RTLAKE_HOME, given to the playbook as variables.

``rtlake up`` keeps it in ``etc/settings.json``. Where ``ansible-playbook`` installed, what counts is what the playbook
was last given, which it writes to ``etc/given.json``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from airflow_provider_rtlake.exceptions import UserError

# What a component cannot do without.
NEEDS: dict[str, tuple[str, ...]] = {
    "connect": ("kafka",),
    "nessie": ("postgresql", "s3proxy"),
    "pinot": ("zookeeper",),
    "flink": ("zookeeper", "s3proxy"),
    "trino": ("postgresql", "s3proxy", "nessie"),
    "airflow": ("postgresql",),
    "kafka_ui": ("kafka",),
    "superset": ("pinot", "trino"),
}

# Roles that come and go together, with the variable rtlake_monitoring and not with the list of components.
MONITORING = ("prometheus", "alertmanager", "exporters")
WATCH = "monitoring"  # what they are called together, on the command line and as a tag
# What a variable of its own switches on, not the list of components.
SWITCHES = {
    WATCH: "rtlake_monitoring",
    "kafka_ui": "kafka_ui_enabled",
    "grafana": "grafana_enabled",
    "superset": "superset_enabled",
}
SWITCHED = (*MONITORING, *(name for name in SWITCHES if name != WATCH))  # the roles


def settings_path(home: Path) -> Path:
    """Where they are kept."""
    return home / "etc" / "settings.json"


def load(home: Path) -> dict[str, Any]:
    """The variables that ``rtlake up`` remembers, else those that the playbook was last given; none at first.

    :raises UserError: the file is damaged.
    """
    for path in (settings_path(home), home / "etc" / "given.json"):
        try:
            data = json.loads(path.read_text())
        except FileNotFoundError:
            continue
        except ValueError as error:
            raise UserError(f"{path} is no valid JSON ({error}); mend or remove it") from error
        if not isinstance(data, dict):
            raise UserError(f"{path} must hold one JSON object; mend or remove it")
        return data
    return _of_stack(home)


def _of_stack(home: Path) -> dict[str, Any]:
    """What was chosen as far as the stack shows it: older versions of the playbook wrote down no more."""
    try:
        data = json.loads((home / "etc" / "stack.json").read_text())
        return {
            "rtlake_components": data["components"],
            "rtlake_port_offset": data["port_offset"],
            "rtlake_monitoring": any(s["component"] in MONITORING for s in data["services"].values()),
            "supervisor": data["supervisor"],
        }
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def remembered(home: Path) -> bool:
    """Whether ``rtlake up`` remembers variables here."""
    return settings_path(home).exists()


def save(home: Path, variables: dict[str, Any]) -> None:
    """Remember variables."""
    path = settings_path(home)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_private(path, json.dumps(variables, indent=1, sort_keys=True) + "\n")


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner ever reads; the old one stays until the new one is whole."""
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as stream:
        stream.write(text)
    temporary.replace(path)


def all_components(project: Path) -> list[str]:
    """Every component, in the order of installation.

    :param project: the checkout.
    """
    variables = yaml.safe_load((project / "ansible" / "group_vars" / "all" / "main.yml").read_text())
    return [str(c) for c in variables["rtlake_components"]]


def choose(known: Sequence[str], only: Iterable[str], without: Iterable[str]) -> list[str]:
    """The components to run, with what they need, in the order of installation.

    :param known: all there are.
    :param only: these and what they need; all if empty.
    :param without: not these, unless a chosen one needs them.
    :raises UserError: a name is not known, or something excluded is needed.
    """
    wanted, unwanted = set(only) or set(known), set(without)
    unknown = sorted((wanted | unwanted) - set(known))
    if unknown:
        raise UserError(f"no component {', '.join(unknown)}; there are: {', '.join(known)}")
    wanted -= unwanted
    todo = list(wanted)
    while todo:
        for need in NEEDS.get(todo.pop(), ()):
            if need in unwanted:
                raise UserError(f"{need} is left out, but another component needs it; leave that out too")
            if need not in wanted:
                wanted.add(need)
                todo.append(need)
    return [c for c in known if c in wanted]


def folders(components: Sequence[str]) -> list[str]:
    """Names that components have below etc/ and var/: the object store's place may be filled by MinIO.

    :param components: may hold ``monitoring``, too.
    """
    minio = ["minio"] if "s3proxy" in components else []
    return [*(c for c in components if c != WATCH), *minio, *(MONITORING if WATCH in components else ())]
