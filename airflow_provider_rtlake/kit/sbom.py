"""The software bill of materials (CycloneDX 1.6): every locked artifact and Python package of an installation."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from airflow_provider_rtlake import __version__
from airflow_provider_rtlake.kit.artifacts import LOCK_NAME, Artifact, Component, load_lock

NAME = "sbom.cdx.json"
# Files below requirements/ whose packages are installed, and what for.
_REQUIREMENTS = {"lock.txt": "python", "superset.txt": "superset"}
_PACKAGE = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)(?:\[[^]]*])?==(?P<version>[^\s;\\]+)", re.MULTILINE)
_NAMESPACE = uuid.UUID("6f0d0e5c-5d8b-5f0e-9a52-3c1f5b9f7a11")


def purl(artifact: Artifact) -> str:
    """The package URL of an artifact's coordinates."""
    if artifact.source == "maven":
        group, name, version, *rest = artifact.name.split(":")
        extension, classifier = [*rest, "", ""][:2]
        named = {"classifier": classifier, "type": extension or "jar"}
        query = "&".join(f"{k}={quote(v)}" for k, v in sorted(named.items()) if v)
        return f"pkg:maven/{quote(group)}/{quote(name)}@{quote(version)}?{query}"
    if artifact.source == "pypi":
        name, version = artifact.name.split("==")
        return f"pkg:pypi/{quote(name.lower())}@{quote(version)}"
    name, version = artifact.name.split("=", 1)
    return f"pkg:deb/{artifact.source}/{quote(name)}@{quote(version)}?arch=amd64"


def components(lock: Mapping[str, Component]) -> Iterator[dict[str, Any]]:
    """An entry for every artifact; the same file in several components is listed once, with all their names."""
    users: dict[tuple[str, str], list[str]] = {}
    files: dict[tuple[str, str], Artifact] = {}
    for component in lock.values():
        for artifact in component.artifacts:
            key = (purl(artifact), artifact.sha256)
            users.setdefault(key, []).append(component.name)
            files[key] = artifact
    for (reference, digest), artifact in sorted(files.items()):
        yield {
            "type": "library",
            "bom-ref": f"{reference}#{digest[:12]}",
            "name": _name(artifact),
            "version": _version(artifact),
            "purl": reference,
            "hashes": [{"alg": "SHA-256", "content": digest}],
            "properties": [{"name": "rtlake:component", "value": u} for u in sorted(set(users[reference, digest]))],
        }


def _name(artifact: Artifact) -> str:
    if artifact.source == "maven":
        return artifact.name.split(":")[1]
    return re.split("==?", artifact.name)[0]


def _version(artifact: Artifact) -> str:
    if artifact.source == "maven":
        return artifact.name.split(":")[2]
    return re.split("==?", artifact.name)[1]


def packages(requirements: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """An entry for every Python package; one that several environments have is listed once, with all their names.

    :param requirements: what is installed → text of its requirements file. Its hashes are those of all files of a
        release, of which a machine takes one; they stay there.
    """
    users: dict[tuple[str, str], list[str]] = {}
    for user, text in requirements.items():
        for found in _PACKAGE.finditer(text):
            users.setdefault((found["name"].lower(), found["version"]), []).append(user)
    for (name, version), named in sorted(users.items()):
        reference = f"pkg:pypi/{name}@{quote(version)}"
        yield {
            "type": "library",
            "bom-ref": reference,
            "name": name,
            "version": version,
            "purl": reference,
            "properties": [{"name": "rtlake:component", "value": user} for user in named],
        }


def render(lock: Mapping[str, Component], requirements: Mapping[str, str]) -> str:
    """The whole document; the same contents give the same text, so there is no time of making in it."""
    listed: list[dict[str, Any]] = [*_unique([*components(lock), *packages(requirements)])]
    serial = uuid.uuid5(_NAMESPACE, json.dumps(listed, sort_keys=True))
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
        "metadata": {
            "component": {"type": "application", "bom-ref": "rtlake", "name": "rtlake", "version": __version__}
        },
        "components": listed,
        "dependencies": [{"ref": "rtlake", "dependsOn": [c["bom-ref"] for c in listed]}],
    }
    return json.dumps(document, indent=1) + "\n"


def _unique(entries: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    seen: set[str] = set()
    for entry in entries:
        if entry["bom-ref"] not in seen:
            seen.add(entry["bom-ref"])
            yield entry


def write(project: Path) -> Path:
    """Write the document of a checkout; returns its path.

    :param project: the checkout.
    """
    path = project / "ansible" / NAME
    path.write_text(current(project))
    return path


def current(project: Path) -> str:
    """What the document of a checkout must be."""
    lock = load_lock(project / "ansible" / LOCK_NAME)
    return render(lock, {u: (project / "requirements" / name).read_text() for name, u in _REQUIREMENTS.items()})
