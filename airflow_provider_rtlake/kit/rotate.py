"""Makes secrets anew without losing what they protect."""

from __future__ import annotations

import base64
import dataclasses
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path

from airflow_provider_rtlake.exceptions import UserError
from airflow_provider_rtlake.kit import airflow, postgres, settings
from airflow_provider_rtlake.kit.stack import Stack

_FERNET = "airflow_fernet"
_SUPERSET = "superset_key"
_SUPERUSER = "postgres"


def names(stack: Stack) -> list[str]:
    """Every secret of a stack."""
    return sorted(p.name for p in (stack.home / "secrets").iterdir() if p.is_file() and not p.suffix)


def kept(stack: Stack) -> dict[str, str]:
    """Secrets that cannot be made anew on this stack without a loss, and why.

    :param stack: an installed stack.
    """
    found = {}
    if "airflow" not in stack.components:
        found[_FERNET] = "what it encrypts can only be encrypted anew while Airflow is installed"
    if "postgresql" not in stack.services:
        found[_SUPERUSER] = "only a running PostgreSQL can be given a new one"
    if _superset_has_data(stack) and "superset" not in stack.services:
        found[_SUPERSET] = "what it encrypts can only be encrypted anew while Superset is installed"
    return found


def _superset_has_data(stack: Stack) -> bool:
    return (stack.home / "var" / "superset").exists()


def rotate(stack: Stack, wanted: Sequence[str], converge: Callable[[], None]) -> None:
    """Make secrets anew and bring them wherever they are used.

    :param stack: a running stack.
    :param wanted: below ``secrets/``.
    :param converge: runs the playbook and waits until all services answer.
    :raises UserError: there is no such secret, or it is :func:`kept`; none was made anew.
    """
    unknown = sorted(set(wanted) - set(names(stack)))
    if unknown:
        raise UserError(f"no secret {', '.join(unknown)}; there are: {', '.join(names(stack))}")
    refused = [f"{name}: {reason}" for name, reason in kept(stack).items() if name in wanted]
    if refused:
        raise UserError("; ".join(refused))
    if _SUPERUSER in wanted:  # first: it is the one that a server can refuse
        _renew_superuser(stack)
    encrypting = {
        name: _make(name) for name in wanted if name == _FERNET or (name == _SUPERSET and _superset_has_data(stack))
    }
    for name in wanted:
        if name not in (*encrypting, _SUPERUSER):
            _write(stack.home / "secrets" / name, _make(name))
    for name, new in encrypting.items():  # what is there is read with any key of the list, and written with the first
        _write(stack.home / "secrets" / name, f"{new},{(stack.home / 'secrets' / name).read_text().strip()}")
    converge()  # Superset encrypts anew when it starts
    if not encrypting:
        return
    if _FERNET in encrypting:
        airflow.run_cli(stack, ["rotate-fernet-key"])
    for name, new in encrypting.items():
        _write(stack.home / "secrets" / name, new)
    converge()


def _make(name: str) -> str:
    return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode() if name == _FERNET else secrets.token_hex(32)


def _renew_superuser(stack: Stack) -> None:
    path = stack.home / "secrets" / _SUPERUSER
    prepared = path.with_suffix(".new")
    server = postgres.Server("127.0.0.1", stack.service("postgresql").port, stack.secret(_SUPERUSER))
    if prepared.exists():  # of an interrupted rotation: the server knows it, or still the old one
        candidate = dataclasses.replace(server, password=prepared.read_text().strip())
        try:
            postgres.wait(candidate).close()
        except postgres.PasswordRefused:
            pass
        else:
            prepared.replace(path)
            server = candidate
    new = secrets.token_hex(32)
    _write(prepared, new)  # before the server knows it: an interruption leaves both
    postgres.set_superuser_password(server, new)
    prepared.replace(path)


def _write(path: Path, value: str) -> None:
    settings.write_private(path, value + "\n")
