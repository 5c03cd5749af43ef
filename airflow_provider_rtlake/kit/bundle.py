"""A support bundle: what somebody needs to see what is wrong, without any secret."""

from __future__ import annotations

import dataclasses
import io
import json
import platform
import re
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path

from airflow_provider_rtlake import __version__
from airflow_provider_rtlake.exceptions import TerminalError
from airflow_provider_rtlake.kit import doctor, health
from airflow_provider_rtlake.kit.stack import Stack

_LOG_LINES = 2000
_MASK = "***"
# A key that users put into settings is no secret of ours: it is known by the name before it, or by its place in a URL.
_NAMED = r"[\w.-]*(?:pass|passwd|password|passphrase|secret|token|key|credential)s?"
_VALUE = r"""(?:"(?:[^"\\]|\\.)*"|'[^']*'|\S.*)"""
_KEYS = (
    re.compile(rf"""(["']?\b{_NAMED}["']?[ \t]*[:=][ \t]*){_VALUE}""", re.IGNORECASE),
    re.compile(rf"(^[ \t]*[\w-]+\.{_NAMED}[ \t]+){_VALUE}", re.IGNORECASE | re.MULTILINE),  # spark-defaults.conf
    re.compile(r"(://[^\s/:@]*:)[^\s@]+(?=@)"),
)
_COMMANDS: Mapping[str, list[str]] = {
    "listeners": ["ss", "-ltnp"],
    "disk": ["df", "-h"],
    "memory": ["free", "-m"],
    "processes": ["ps", "-eo", "pid,user,rss,pcpu,etime,args", "--sort=-rss"],
    "units": ["systemctl", "list-units", "--all", "--no-pager", "rtlake-*"],
    "failed": ["systemctl", "--failed", "--no-pager"],
}


def secrets_of(home: Path) -> list[str]:
    """Every secret's value, longest first, also in the parts that a list of keys has.

    :param home: RTLAKE_HOME.
    """
    values = {p.read_text().strip() for p in (home / "secrets").iterdir() if p.is_file()}
    values |= {part for value in values for part in value.split(",")}
    return sorted((v for v in values if v), key=len, reverse=True)


def redacted(text: str, secrets: list[str]) -> str:
    """The text with every secret masked, and whatever a name such as ``password`` or a URL says is one."""
    for secret in secrets:
        text = text.replace(secret, _MASK)
    for pattern in _KEYS:
        text = pattern.sub(rf"\1{_MASK}", text)
    return text


def write(stack: Stack, project: Path, folder: Path) -> Path:
    """Write the bundle; returns its path.

    :param stack: an installed stack, running or not.
    :param project: the checkout.
    :param folder: where to.
    :raises TerminalError: a secret would be in it: nothing was written.
    """
    secrets = secrets_of(stack.home)
    made = datetime.now(timezone.utc)
    path = folder / f"rtlake-support-{made:%Y%m%dT%H%M%SZ}.tar.gz"
    texts = {name: redacted(text, secrets) for name, text in _parts(stack, project)}
    leaking = [name for name, text in texts.items() if any(s in text for s in secrets)]
    if leaking:
        raise TerminalError(f"a secret would be in {', '.join(leaking)}: no bundle was written")
    folder.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    with tarfile.open(path, "w:gz") as archive:
        for name, text in texts.items():
            content = text.encode()
            entry = tarfile.TarInfo(f"{path.name.removesuffix('.tar.gz')}/{name}")
            entry.size, entry.mtime, entry.mode = len(content), int(made.timestamp()), 0o600
            archive.addfile(entry, io.BytesIO(content))
    return path


def _parts(stack: Stack, project: Path) -> Iterator[tuple[str, str]]:
    yield (
        "about.json",
        json.dumps(
            {"rtlake": __version__, "python": platform.python_version(), "system": platform.platform()}, indent=1
        ),
    )
    findings = [dataclasses.asdict(f) for f in doctor.examine(stack.home, project)]
    yield "doctor.json", json.dumps(findings, indent=1)
    answers = {n: dataclasses.asdict(h) for n, h in health.check_all(stack).items()}
    yield "status.json", json.dumps(answers, indent=1)
    for name, command in _COMMANDS.items():
        yield f"system/{name}.txt", _output(command)
    for path in sorted((stack.home / "etc").rglob("*")):
        if path.is_file() and path.stat().st_mode & 0o040 and "secrets" not in path.parts:  # keys are in 0600 files
            yield str(path.relative_to(stack.home)), path.read_text(errors="replace")
    for name in stack.services:
        yield f"log/{name}.log", "\n".join(health.last_lines(stack, name, _LOG_LINES))
    yield "log/ansible.log", "\n".join(health.tail(stack.home / "log" / "ansible.log", _LOG_LINES))


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{command[0]}: {error}"
    return done.stdout + done.stderr
