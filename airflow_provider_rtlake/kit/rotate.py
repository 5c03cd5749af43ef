"""Makes secrets anew without losing what they protect."""

from __future__ import annotations

import base64
import os
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path

from airflow_provider_rtlake.exceptions import UserError
from airflow_provider_rtlake.kit import airflow, postgres
from airflow_provider_rtlake.kit.stack import Stack

_FERNET = "airflow_fernet"


def names(stack: Stack) -> list[str]:
    """Every secret of a stack."""
    return sorted(p.name for p in (stack.home / "secrets").iterdir() if p.is_file() and not p.suffix)


def rotate(stack: Stack, wanted: Sequence[str], converge: Callable[[], None]) -> None:
    """Make secrets anew and bring them wherever they are used.

    :param stack: a running stack.
    :param wanted: below ``secrets/``.
    :param converge: runs the playbook and waits until all services answer.
    :raises UserError: there is no such secret, or nobody who could use the new one.
    """
    unknown = sorted(set(wanted) - set(names(stack)))
    if unknown:
        raise UserError(f"no secret {', '.join(unknown)}; there are: {', '.join(names(stack))}")
    if _FERNET in wanted and "airflow" not in stack.components:
        raise UserError(f"{_FERNET}: what it encrypts can only be encrypted anew while Airflow is installed")
    for name in wanted:
        if name != _FERNET:
            _renew(stack, stack.home / "secrets" / name)
    if _FERNET not in wanted:
        converge()
        return
    path = stack.home / "secrets" / _FERNET
    old = path.read_text().strip()
    new = base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
    _write(path, f"{new},{old}")  # Airflow reads with any key of the list and writes with the first
    converge()
    airflow.run_cli(stack, ["rotate-fernet-key"])
    _write(path, new)
    converge()


def _renew(stack: Stack, path: Path) -> None:
    new = secrets.token_hex(32)
    _write(path.with_suffix(".new"), new)  # before the server knows it: a broken run leaves both
    if path.name == "postgres":
        server = postgres.Server("127.0.0.1", stack.service("postgresql").port, stack.secret(path.name))
        postgres.set_superuser_password(server, new)
    path.with_suffix(".new").replace(path)


def _write(path: Path, value: str) -> None:
    temporary = path.with_suffix(".tmp")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w") as stream:
        stream.write(value + "\n")
    temporary.replace(path)
