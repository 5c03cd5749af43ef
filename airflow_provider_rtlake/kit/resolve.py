"""Makes the artifact lock: asks Maven and pip once which files the components need, and hashes them."""

from __future__ import annotations

import fnmatch
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import yaml

from airflow_provider_rtlake.exceptions import UserError
from airflow_provider_rtlake.kit.artifacts import Artifact, Component
from airflow_provider_rtlake.kit.fetch import DEPENDENCY_PLUGIN, Say, apt_download, maven_item, pip_download, run_maven
from airflow_provider_rtlake.kit.inventory import sha256_of

_PLACING = ("into", "unpack", "member", "strip", "only", "rename")


def load_wanted(path: Path, variables: dict[str, Any]) -> dict[str, Any]:
    """Read one ``ansible/artifacts/*.yml``, its ``{{ versions }}`` filled in.

    :param variables: the versions of ``group_vars/all/versions.yml``.
    :raises UserError: a version is not defined or the file is no YAML mapping.
    """
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False)  # noqa: S701  # YAML, not HTML
    try:
        wanted = yaml.safe_load(environment.from_string(path.read_text()).render(variables))
    except (jinja2.TemplateError, yaml.YAMLError) as error:
        raise UserError(f"{path}: {error}") from error
    if not isinstance(wanted, dict) or not {"component", "version"} <= wanted.keys():
        raise UserError(f"{path}: needs the keys component and version")
    return wanted


def resolve(wanted: dict[str, Any], cache: Path, say: Say) -> Component:
    """Resolve one component and put its files into the cache.

    :param wanted: as :func:`load_wanted` returns it.
    :param cache: the download cache's root.
    :param say: told of progress.
    """
    say(f"resolving {wanted['component']} {wanted['version']}")
    drop = wanted.get("drop", [])
    found: list[Artifact] = []
    for group in wanted.get("trees", []):
        found += [a for a in _tree(group, cache) if not any(fnmatch.fnmatch(a.file, d) for d in drop)]
    for entry in wanted.get("files", []):
        placing = {k: entry[k] for k in _PLACING if k in entry}
        if "only" in placing:
            placing["only"] = tuple(placing["only"])
        found.append(_file(entry, placing, cache))
    return Component(name=wanted["component"], version=str(wanted["version"]), artifacts=tuple(found))


def _file(entry: dict[str, Any], placing: dict[str, Any], cache: Path) -> Artifact:
    if "maven" in entry:
        return _maven_file(entry["maven"], placing, cache)
    return _debian_file(entry, placing, cache) if "debian" in entry else _pypi_file(entry, placing, cache)


def tree_pom(roots: Sequence[str], exclude: Sequence[str], managed: Sequence[str]) -> str:
    """A pom whose runtime dependencies are the wanted tree.

    :param roots: ``group:artifact:version[:extension[:classifier]]``.
    :param exclude: ``group:artifact``, ``*`` allowed.
    :param managed: ``group:artifact:version`` forced through the whole tree.
    """
    exclusions = "".join(
        f"<exclusion><groupId>{g}</groupId><artifactId>{a}</artifactId></exclusion>"
        for g, a in (e.split(":") for e in exclude)
    )
    dependencies = "".join(_dependency(root, f"<exclusions>{exclusions}</exclusions>") for root in roots)
    management = "".join(_dependency(m, "") for m in managed)
    return (
        '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>'
        "<groupId>rtlake</groupId><artifactId>tree</artifactId><version>1</version><packaging>pom</packaging>"
        f"<dependencyManagement><dependencies>{management}</dependencies></dependencyManagement>"
        f"<dependencies>{dependencies}</dependencies></project>"
    )


def _dependency(coordinates: str, extra: str) -> str:
    group, artifact, version, *rest = coordinates.split(":")
    extension, classifier = [*rest, "", ""][:2]
    return (
        f"<dependency><groupId>{group}</groupId><artifactId>{artifact}</artifactId><version>{version}</version>"
        + (f"<type>{extension}</type>" if extension else "")
        + (f"<classifier>{classifier}</classifier>" if classifier else "")
        + f"{extra}</dependency>"
    )


def parse_listing(text: str) -> list[str]:
    """What a ``dependency:list`` file names, as ``group:artifact:version[:extension[:classifier]]``."""
    found = []
    for line in text.splitlines():
        parts = line.strip().split(" ")[0].split(":")
        if len(parts) == 5:
            group, artifact, extension, version, _scope = parts
            found.append(":".join([group, artifact, version] + ([extension] if extension != "jar" else [])))
        elif len(parts) == 6:
            group, artifact, extension, classifier, version, _scope = parts
            found.append(f"{group}:{artifact}:{version}:{extension}:{classifier}")
    return sorted(set(found))


def _tree(group: dict[str, Any], cache: Path) -> list[Artifact]:
    with tempfile.TemporaryDirectory(prefix="rtlake-lock-") as temporary:
        root = Path(temporary)
        (root / "pom.xml").write_text(tree_pom(group["maven"], group.get("exclude", []), group.get("managed", [])))
        listing = root / "list.txt"
        run_maven(
            [
                "-f",
                str(root / "pom.xml"),
                f"{DEPENDENCY_PLUGIN}:list",
                "-DincludeScope=runtime",
                f"-DoutputFile={listing}",
            ]
        )
        coordinates = parse_listing(listing.read_text())
    placing = {k: group[k] for k in _PLACING if k in group}
    return _maven_files(coordinates, placing, cache)


def _maven_file(coordinates: str, placing: dict[str, Any], cache: Path) -> Artifact:
    return _maven_files([coordinates], placing, cache)[0]


def _file_name(coordinates: str) -> str:
    _group, artifact, version, *rest = coordinates.split(":")
    extension, classifier = [*rest, "", ""][:2]
    suffix = f"-{classifier}" if classifier else ""
    return f"{artifact}-{version}{suffix}.{extension or 'jar'}"


def _maven_files(coordinates: Sequence[str], placing: dict[str, Any], cache: Path) -> list[Artifact]:
    drafts = [Artifact("maven", c, _file_name(c), "", 0, **placing) for c in coordinates]
    missing = [a for a in drafts if not (cache / a.cache_path).exists()]
    if missing:
        items = "".join(maven_item(a, cache) for a in missing)
        group, artifact, version = DEPENDENCY_PLUGIN.split(":")
        with tempfile.TemporaryDirectory(prefix="rtlake-lock-") as temporary:
            pom = Path(temporary, "pom.xml")
            pom.write_text(
                tree_pom([], [], []).replace(
                    "</project>",
                    f"<build><plugins><plugin><groupId>{group}</groupId><artifactId>{artifact}</artifactId><version>{version}</version>"
                    f"<configuration><artifactItems>{items}</artifactItems></configuration></plugin></plugins></build></project>",
                )
            )
            run_maven(["-f", str(pom), f"{DEPENDENCY_PLUGIN}:copy"])
    return [_hashed(a, cache) for a in drafts]


def _hashed(draft: Artifact, cache: Path) -> Artifact:
    path = cache / draft.cache_path
    return Artifact(**{**draft.__dict__, "sha256": sha256_of(path), "size": path.stat().st_size})


def _pypi_file(entry: dict[str, Any], placing: dict[str, Any], cache: Path) -> Artifact:
    folder = cache / "artifacts" / "pypi" / "-"
    folder.mkdir(parents=True, exist_ok=True)
    name, version = entry["pypi"].split("==")
    have = [p for p in folder.iterdir() if fnmatch.fnmatch(p.name, entry.get("match", f"{name}-{version}*"))]
    if not have:
        with tempfile.TemporaryDirectory(prefix="rtlake-lock-", dir=folder) as temporary:
            file = pip_download([*entry.get("options", []), entry["pypi"]], Path(temporary))
            have = [Path(shutil.move(str(file), str(folder / file.name)))]
    return _hashed(Artifact("pypi", entry["pypi"], have[0].name, "", 0, **placing), cache)


def _debian_file(entry: dict[str, Any], placing: dict[str, Any], cache: Path) -> Artifact:
    folder = cache / "artifacts" / "debian" / "-"
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="rtlake-lock-", dir=folder) as temporary:
        file = apt_download(entry["debian"], Path(temporary))
        file.replace(folder / file.name)
    return _hashed(Artifact("debian", entry["debian"], file.name, "", 0, **placing), cache)
