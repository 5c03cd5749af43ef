"""Airflow's part of the stack: environment, metadata database, and the connections and pools that DAGs expect.

Reading is done by SQL in milliseconds; only what differs is changed, and that by Airflow's own command line,
which takes seconds to start. Imports no Airflow.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pwd
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from airflow_provider_rtlake.exceptions import ServiceUnavailable, TerminalError, UserError
from airflow_provider_rtlake.kit.stack import Stack, read_secret

CLI_SECONDS = 600  # for one run of Airflow's command line: a migration on a busy machine
_MARKER = ".migrated"
_FIELDS = ("conn_type", "host", "port", "login", "schema", "password", "extra")


class AirflowCommandFailed(TerminalError):
    """Airflow's command line ended with an error; its own last lines are in the message."""


@dataclasses.dataclass(frozen=True)
class Database:
    """Where Airflow keeps its metadata."""

    host: str
    port: int
    password: str
    name: str = "airflow"
    user: str = "airflow"

    def connect(self) -> Any:
        """A psycopg connection; commits nothing by itself.

        :raises ServiceUnavailable: PostgreSQL does not answer, or refuses the login.
        """
        import psycopg

        try:
            return psycopg.connect(
                host=self.host,
                port=self.port,
                user=self.user,
                password=self.password,
                dbname=self.name,
                connect_timeout=10,
            )
        except psycopg.OperationalError as error:
            raise ServiceUnavailable("PostgreSQL", str(error)) from error


def airflow_env(home: Path) -> dict[str, str]:
    """The environment in which every Airflow process of this stack runs; it holds no secret.

    :param home: RTLAKE_HOME.
    :raises UserError: Airflow is not installed there.
    """
    path = home / "etc" / "airflow" / "environment"
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        raise UserError(f"{path} is missing: Airflow is not installed in {home}; run './rtlake up'") from None
    words = (word for line in lines if not line.startswith("#") for word in shlex.split(line))
    found = dict(word.split("=", 1) for word in words)
    kept = {k: os.environ[k] for k in ("HOME", "LANG", "TERM", "SSL_CERT_FILE", "TZ") if k in os.environ}
    return {**kept, **found}


def account(stack: Stack) -> str | None:
    """The account that must own what Airflow writes, or None for this user."""
    if stack.supervisor != "systemd" or os.geteuid() != 0:
        return None
    return "rtlake-airflow"


def command(stack: Stack, arguments: Sequence[str]) -> list[str]:
    """Airflow's command line, run by the account that owns its files.

    :param arguments: as after ``airflow``.
    """
    user = account(stack)
    prefix = ["/usr/sbin/runuser", "-u", user, "--"] if user else []  # not on the services' PATH
    return [*prefix, str(stack.home / "venv" / "bin" / "airflow"), *arguments]


def run_cli(stack: Stack, arguments: Sequence[str]) -> str:
    """Run Airflow's command line to its end.

    :raises AirflowCommandFailed: it failed or took longer than ``CLI_SECONDS``.
    """
    try:
        done = subprocess.run(
            command(stack, arguments),
            env=airflow_env(stack.home),
            cwd=stack.home / "var" / "airflow",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=CLI_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise AirflowCommandFailed(f"airflow {' '.join(arguments[:2])}: no end after {CLI_SECONDS} s") from None
    if done.returncode != 0:
        words = "\n".join((done.stdout + done.stderr).strip().splitlines()[-12:])
        raise AirflowCommandFailed(f"airflow {' '.join(arguments[:2])} failed:\n{words}")
    return done.stdout


def database(stack: Stack) -> Database:
    """Airflow's metadata database in this stack's PostgreSQL."""
    source = stack.connection("rtlake_source")
    return Database(source.host, int(source.port or 5432), read_secret(stack.home, "airflow"))


def is_migrated(connection: Any, marker: Path) -> bool:
    """Whether the database has the schema of the installed Airflow.

    :param connection: to the metadata database.
    :param marker: written after the last migration: Airflow's version and the schema revision that it led to.
    """
    row = connection.execute("SELECT to_regclass('public.alembic_version')").fetchone()
    if row is None or row[0] is None or not marker.exists():
        return False
    revisions = [r[0] for r in connection.execute("SELECT version_num FROM alembic_version ORDER BY 1").fetchall()]
    return marker.read_text().split() == [metadata.version("apache-airflow"), *revisions]


def migrate(stack: Stack, db: Database, *, check: bool) -> bool:
    """Bring the database's schema to the installed Airflow's; returns whether it had to be changed."""
    marker = stack.home / "var" / "airflow" / _MARKER
    with db.connect() as connection:
        if is_migrated(connection, marker):
            return False
    if check:
        return True
    run_cli(stack, ["db", "migrate"])
    with db.connect() as connection:
        revisions = [r[0] for r in connection.execute("SELECT version_num FROM alembic_version ORDER BY 1").fetchall()]
    marker.write_text(" ".join([metadata.version("apache-airflow"), *revisions]) + "\n")
    return True


def wanted_connections(stack: Stack) -> dict[str, dict[str, Any]]:
    """The stack's connections as Airflow stores them, with passwords."""
    return {
        name: {
            "conn_type": c.conn_type,
            "host": c.host,
            "port": c.port,
            "login": c.login,
            "schema": c.schema,
            "password": c.password,
            "extra": dict(c.extra),
        }
        for name, c in stack.connections.items()
    }


def stored_connections(connection: Any, fernet_key: str) -> dict[str, dict[str, Any]]:
    """What is in Airflow's database; a row that cannot be decrypted counts as absent.

    :param connection: to the metadata database.
    :param fernet_key: Airflow's; several, by comma, while they are rotated.
    """
    from cryptography.fernet import Fernet, InvalidToken, MultiFernet

    fernet = MultiFernet([Fernet(key.encode()) for key in fernet_key.split(",")])
    rows = connection.execute(
        "SELECT conn_id, conn_type, host, port, login, schema, password, is_encrypted, extra, is_extra_encrypted"
        " FROM connection"
    ).fetchall()
    found = {}
    for conn_id, *plain, password, is_encrypted, extra, is_extra_encrypted in rows:
        try:
            secret = fernet.decrypt(password.encode()).decode() if password and is_encrypted else password
            text = fernet.decrypt(extra.encode()).decode() if extra and is_extra_encrypted else extra
            values = (*plain, secret, json.loads(text) if text else {})
        except (InvalidToken, ValueError):
            continue
        found[conn_id] = dict(zip(_FIELDS, values, strict=True))
    return found


def differing(wanted: Mapping[str, Mapping[str, Any]], stored: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Names of wanted connections that are absent or different; empty text and none are the same."""

    def normal(values: Mapping[str, Any]) -> dict[str, Any]:
        return {k: values.get(k) or None for k in _FIELDS}

    return sorted(n for n, w in wanted.items() if n not in stored or normal(w) != normal(stored[n]))


def import_connections(stack: Stack, connections: Mapping[str, Mapping[str, Any]]) -> None:
    """Hand connections to Airflow in a file that only its account reads and that is removed afterwards."""
    folder = Path(tempfile.mkdtemp(prefix=".connections-", dir=stack.home / "var" / "airflow"))
    try:
        path = folder / "connections.json"
        path.touch(mode=0o600)
        path.write_text(json.dumps({n: {**c, "extra": json.dumps(c["extra"])} for n, c in connections.items()}))
        user = account(stack)
        if user:
            entry = pwd.getpwnam(user)
            for owned in (folder, path):
                os.chown(owned, entry.pw_uid, entry.pw_gid)
        run_cli(stack, ["connections", "import", "--overwrite", str(path)])
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def missing_pools(connection: Any, pools: Mapping[str, int]) -> dict[str, int]:
    """Pools that are absent or of another size."""
    rows = dict(connection.execute("SELECT pool, slots FROM slot_pool").fetchall())
    return {name: slots for name, slots in pools.items() if rows.get(name) != slots}


def converge(stack: Stack, pools: Mapping[str, int], *, check: bool = False) -> list[str]:
    """Migrate, and store the stack's connections and pools where they differ; returns what was changed.

    :param stack: the stack.
    :param pools: slots of each pool.
    :param check: only tell.
    :raises AirflowCommandFailed: Airflow refused.
    :raises ServiceUnavailable: its database does not answer.
    """
    db = database(stack)
    try:
        changes = ["database"] if migrate(stack, db, check=check) else []
    except ServiceUnavailable:
        if not check:
            raise
        return ["PostgreSQL does not run yet"]
    if changes and check:
        return changes
    wanted = wanted_connections(stack)
    with db.connect() as connection:
        names = differing(wanted, stored_connections(connection, read_secret(stack.home, "airflow_fernet")))
        new_pools = missing_pools(connection, pools)
    if not check:
        if names:
            import_connections(stack, {n: wanted[n] for n in names})
        for name, slots in new_pools.items():
            run_cli(stack, ["pools", "set", name, str(slots), "made by the rtlake playbook"])
    return [*changes, *(f"connection {n}" for n in names), *(f"pool {n}" for n in new_pools)]
