"""Debian packages as artifacts: unpacked without being run, and made to look for their files beside them."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

import pytest

from airflow_provider_rtlake.kit import fetch
from airflow_provider_rtlake.kit.artifacts import Artifact, ArtifactRefused, Component, install

NAME = "prometheus_1_amd64.deb"


def member(name: str, content: bytes) -> bytes:
    head = f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode()
    return head + content + b"\n" * (len(content) % 2)


def package(files: dict[str, bytes], mode: str = "w:xz") -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode=mode) as tar:  # type: ignore[call-overload]
        for name, content in files.items():
            info = tarfile.TarInfo(f"./{name}")
            info.size, info.mode = len(content), 0o755
            tar.addfile(info, io.BytesIO(content))
    return (
        b"!<arch>\n"
        + member("debian-binary", b"2.0\n")
        + member("control.tar.xz", b"odd")
        + member("data.tar.xz", data.getvalue())
    )


def component(content: bytes, cache: Path) -> Component:
    artifact = Artifact(
        "debian",
        "prometheus=1",
        NAME,
        hashlib.sha256(content).hexdigest(),
        len(content),
        unpack="deb",
        strip=1,
        only=("bin/*", "share/*"),
    )
    path = cache / artifact.cache_path
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return Component("prometheus", "1", (artifact,))


def test_a_package_is_unpacked_and_looks_below_the_working_folder(tmp_path: Path) -> None:
    program = b"\x7fELF /usr/share/prometheus/web /usr/share/zoneinfo"
    files = {"usr/bin/prometheus": program, "usr/share/x": b"x", "etc/init.d/prometheus": b"no", "usr/lib/y": b"no"}
    target = install(component(package(files), tmp_path / "cache"), tmp_path / "cache", tmp_path / "opt")
    there = sorted(
        str(p.relative_to(target)) for p in target.rglob("*") if p.is_file() and not p.name.startswith(".rtlake")
    )
    assert there == ["bin/prometheus", "share/x"]
    moved = (target / "bin" / "prometheus").read_bytes()
    assert moved == b"\x7fELF ././/share/prometheus/web /usr/share/zoneinfo"
    assert len(moved) == len(program), "another length would damage the program"
    assert (target / "bin" / "prometheus").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("content", [b"PK\x03\x04", b"!<arch>\n" + member("debian-binary", b"2.0\n")])
def test_what_is_no_package_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ArtifactRefused, match=r"no Debian package|holds no data\.tar"):
        install(component(content, tmp_path / "cache"), tmp_path / "cache", tmp_path / "opt")


def test_a_package_that_would_leave_its_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactRefused, match="leave its folder"):
        content = package({"usr/bin/../../../evil": b"x"})
        found = component(content, tmp_path / "cache")
        install(found, tmp_path / "cache", tmp_path / "opt")
    assert not (tmp_path / "evil").exists()


DEB = Artifact("debian", "prometheus=1", NAME, hashlib.sha256(b"deb").hexdigest(), 3)


def test_without_apt_the_message_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(fetch.FetchFailed, match=r"no apt-get here.*rtlake fetch"):
        fetch.ensure([DEB], tmp_path / "cache")


def apt(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An apt-get that does what a script says."""
    (folder / "apt-get").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "apt-get").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_apts_own_words_are_in_the_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    apt(tmp_path, "echo 'E: Version 1 for prometheus was not found' >&2; exit 100", monkeypatch)
    with pytest.raises(fetch.FetchFailed, match=r"Version 1 for prometheus was not found.*RTLAKE_DEBIAN_MIRROR"):
        fetch.ensure([DEB], tmp_path / "cache")


@pytest.mark.parametrize("word", ["deb", "other"])
def test_where_the_own_sources_do_not_know_it_debians_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    lists = f'case "$*" in *sources.list*update*) cat sources.list >{tmp_path}/list;;'
    apt(tmp_path, f"{lists} *sources.list*download*) printf {word} >{NAME};; *) exit 100;; esac", monkeypatch)
    monkeypatch.setenv("RTLAKE_DEBIAN_MIRROR", "http://mirror/debian")
    if word == "deb":
        assert fetch.ensure([DEB], tmp_path / "cache") == [DEB]
        assert (tmp_path / "list").read_text() == "deb [trusted=yes] http://mirror/debian bookworm main\n"
    else:  # whatever an archive says of itself, the lock decides
        with pytest.raises(ArtifactRefused, match="sha256 is not that of the lock"):
            fetch.ensure([DEB], tmp_path / "cache")
