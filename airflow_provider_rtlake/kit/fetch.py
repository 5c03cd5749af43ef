"""Fills the download cache: one Maven run, and pip, apt or uv for the rest of what is missing, by exact coordinates."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

from airflow_provider_rtlake.exceptions import TransientError
from airflow_provider_rtlake.kit.artifacts import Artifact, ArtifactRefused, matches

DEPENDENCY_PLUGIN = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1"
_LANES = 4  # Maven modules built side by side, so that downloads overlap
Say = Callable[[str], None]
_DEBIAN, _DEBIAN_SUITE = "http://deb.debian.org/debian", "bookworm"
_DEBIAN_HINT = "RTLAKE_DEBIAN_MIRROR names another archive; or bring the file in a cache filled by 'rtlake fetch'"


class FetchFailed(TransientError):
    """Maven, pip or apt could not fetch a file."""


def ensure(artifacts: Iterable[Artifact], cache: Path, say: Say = lambda _: None) -> list[Artifact]:
    """Make the cache hold every artifact, verified.

    :param artifacts: what is wanted; the same file may be named by several components.
    :param cache: the cache's root.
    :param say: told of progress, one line each.
    :returns: what had to be fetched.
    :raises FetchFailed: a package manager failed.
    :raises ArtifactRefused: what came is not what the lock says; it was removed.
    """
    wanted = {a.cache_path: a for a in artifacts}
    missing = [a for path, a in wanted.items() if not matches(a, cache / path)]
    if not missing:
        return []
    megabytes = sum(a.size for a in missing) / 1e6
    say(f"fetching {len(missing)} files ({megabytes:.0f} MB)")
    for artifact in missing:
        (cache / artifact.cache_path).unlink(missing_ok=True)
    maven = [a for a in missing if a.source == "maven"]
    if maven:
        _fetch_maven(maven, cache)
    for artifact in missing:
        if artifact.source == "pypi":
            _fetch_pypi(artifact, cache)
        elif artifact.source == "debian":
            _fetch_debian(artifact, cache)
    damaged = [a for a in maven if not matches(a, cache / a.cache_path)]
    if damaged:  # perhaps the user's local repository holds a damaged copy: once past it
        say(f"{len(damaged)} files are not as locked; fetching them past the local repository")
        with tempfile.TemporaryDirectory(prefix="m2-", dir=cache) as fresh:
            _fetch_maven(damaged, cache, [f"-Dmaven.repo.local={fresh}"])
    refused = [a for a in missing if not matches(a, cache / a.cache_path)]
    for artifact in refused:
        (cache / artifact.cache_path).unlink(missing_ok=True)
    if refused:
        names = ", ".join(a.name for a in refused)
        raise ArtifactRefused(
            f"refused, sha256 is not that of the lock: {names}. The registry or a mirror serves other bytes than "
            "were locked: do not use them before you know why"
        )
    return missing


def fill_uv_cache(requirements: Path) -> None:
    """Have uv download and build what a lock of Python packages names, so that it can be installed without network.

    :param requirements: packages with hashes.
    :raises FetchFailed: with uv's own words.
    """
    uv = str(Path(sys.executable).with_name("uv"))
    with tempfile.TemporaryDirectory(prefix="rtlake-uv-") as temporary:
        there = f"{temporary}/bin/python"
        for command in (
            ["venv", "--quiet", "--python", sys.executable, temporary, "--allow-existing"],
            ["pip", "sync", "--quiet", "--python", there, "--require-hashes", str(requirements)],
        ):
            done = subprocess.run([uv, *command], capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise FetchFailed(f"{requirements.name}: uv failed: {done.stderr.strip()[-2000:]}")


def maven_item(artifact: Artifact, cache: Path) -> str:
    """One ``artifactItem`` of the copy run."""
    group, name, version, *rest = artifact.name.split(":")
    extension, classifier = [*rest, "", ""][:2]
    target = cache / artifact.cache_path
    parts = {
        "groupId": group,
        "artifactId": name,
        "version": version,
        "type": extension or "jar",
        "classifier": classifier,
        "outputDirectory": str(target.parent),
        "destFileName": target.name,
    }
    inner = "".join(f"<{k}>{escape(v)}</{k}>" for k, v in parts.items() if v)
    return f"<artifactItem>{inner}</artifactItem>"


def _pom(name: str, inner: str) -> str:
    return (
        '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>'
        f"<groupId>rtlake</groupId><artifactId>{name}</artifactId><version>1</version><packaging>pom</packaging>"
        f"{inner}</project>"
    )


def _lane_pom(name: str, items: Sequence[str]) -> str:
    # Bound to a phase: called by its name, the goal would run for the parent alone.
    group, artifact, version = DEPENDENCY_PLUGIN.split(":")
    return _pom(
        name,
        f"<build><plugins><plugin><groupId>{group}</groupId><artifactId>{artifact}</artifactId>"
        f"<version>{version}</version><executions><execution><phase>validate</phase><goals><goal>copy</goal></goals>"
        f"<configuration><artifactItems>{''.join(items)}</artifactItems></configuration>"
        "</execution></executions></plugin></plugins></build>",
    )


def _fetch_maven(artifacts: Sequence[Artifact], cache: Path, options: Sequence[str] = ()) -> None:
    lanes = min(_LANES, len(artifacts))
    # Largest first, dealt round, so that no lane gets all the large ones.
    ordered = sorted(artifacts, key=lambda a: -a.size)
    with tempfile.TemporaryDirectory(prefix="rtlake-mvn-") as temporary:
        root = Path(temporary)
        names = [f"lane{lane}" for lane in range(lanes)]
        for lane, name in enumerate(names):
            (root / name).mkdir()
            (root / name / "pom.xml").write_text(_lane_pom(name, [maven_item(a, cache) for a in ordered[lane::lanes]]))
        modules = "".join(f"<module>{name}</module>" for name in names)
        (root / "pom.xml").write_text(_pom("fetch", f"<modules>{modules}</modules>"))
        run_maven(["-T", str(lanes), "-f", str(root / "pom.xml"), *options, "validate"])


def run_maven(arguments: Sequence[str]) -> str:
    """Run Maven with the user's ordinary settings.

    :raises FetchFailed: with Maven's own error lines.
    """
    command = ["mvn", "-B", "-ntp", "-Dstyle.color=never", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        errors = [line for line in done.stdout.splitlines() if line.startswith("[ERROR]")][:6]
        raise FetchFailed("Maven failed: " + ("\n".join(errors) or done.stdout[-2000:] + done.stderr[-2000:]))
    return done.stdout


def _fetch_pypi(artifact: Artifact, cache: Path) -> None:
    target = cache / artifact.cache_path
    target.parent.mkdir(parents=True, exist_ok=True)
    requirement = f"{artifact.name} --hash=sha256:{artifact.sha256}\n"
    with tempfile.TemporaryDirectory(prefix="rtlake-pip-", dir=target.parent) as temporary:
        listing = Path(temporary, "requirements.txt")
        listing.write_text(requirement)
        pip_download(["--require-hashes", "-r", str(listing)], Path(temporary), artifact.file)
        Path(temporary, artifact.file).rename(target)


def pip_download(arguments: Sequence[str], folder: Path, expected: str | None = None) -> Path:
    """Download one distribution without its dependencies.

    :param arguments: what to download, in pip's words.
    :param folder: where to.
    :param expected: the file's name, if known.
    :raises FetchFailed: with pip's own words.
    """
    # No build isolation: pip asks an sdist for its metadata, and setuptools of this environment can tell it.
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-build-isolation"]
    command += ["--disable-pip-version-check", "--dest", str(folder), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = [p for p in folder.iterdir() if p.name.endswith((".whl", ".tar.gz", ".zip"))]
    if done.returncode != 0 or not found:
        raise FetchFailed(f"pip download {' '.join(arguments)} failed: {done.stderr[-2000:]}")
    if expected and not (folder / expected).exists():
        raise FetchFailed(f"pip brought {found[0].name}, the lock names {expected}")
    return found[0]


def _fetch_debian(artifact: Artifact, cache: Path) -> None:
    target = cache / artifact.cache_path
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="rtlake-apt-", dir=target.parent) as temporary:
        folder = Path(temporary)
        try:
            found = apt_download(artifact.name, folder)
        except FetchFailed as failed:  # another distribution, whose archive has other versions
            try:
                found = apt_download(artifact.name, folder, debian_archive(folder))
            except FetchFailed as error:
                raise FetchFailed(f"{failed}. Then, from Debian's archive: {error}. {_DEBIAN_HINT}") from None
        found.rename(target)


def debian_archive(folder: Path) -> list[str]:
    """Options with which apt knows nothing but Debian 12's archive, whatever this machine's own sources are.

    :param folder: where apt keeps what it then knows. Signatures are not asked for, because the machine may not have
        Debian's keys: what comes must be verified by its sha256.
    :raises FetchFailed: the archive does not answer.
    """
    for name in ("lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True)
    archive = os.environ.get("RTLAKE_DEBIAN_MIRROR") or _DEBIAN
    (folder / "sources.list").write_text(f"deb [trusted=yes] {archive} {_DEBIAN_SUITE} main\n")
    places = {"Etc::SourceList": "sources.list", "State::Lists": "lists", "Cache": "cache"}
    options = [word for key, name in places.items() for word in ("-o", f"Dir::{key}={folder / name}")]
    options += ["-o", "Dir::Etc::SourceParts=-"]
    _apt_get([*options, "update", "-qq"], folder)
    return options


def apt_download(name: str, folder: Path, options: Sequence[str] = ()) -> Path:
    """Download one Debian package; nothing is installed, and no root is needed.

    :param name: ``package=version``.
    :param folder: where to.
    :param options: for apt-get; this machine's own sources if there are none.
    :raises FetchFailed: with apt's own words.
    """
    _apt_get([*options, "download", "-qq", name], folder)
    found = sorted(folder.glob("*.deb"))
    if not found:
        raise FetchFailed(f"apt-get download {name} brought nothing")
    return found[0]


def _apt_get(arguments: Sequence[str], folder: Path) -> None:
    # Without its sandbox user, who may not write into the folder.
    command = ["apt-get", "-o", "APT::Sandbox::User=root", *arguments]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise FetchFailed("there is no apt-get here") from None
    if done.returncode != 0:
        said = " ".join(done.stderr.split())[-600:]
        raise FetchFailed(f"apt-get {arguments[-2]} {arguments[-1]} failed: {said}")
