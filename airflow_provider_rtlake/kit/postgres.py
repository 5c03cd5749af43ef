"""Brings roles and databases of PostgreSQL about; there is no psql beside the server."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import hmac
import os
import time
from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import sql

from airflow_provider_rtlake.exceptions import TerminalError, WaitTimeout

_ITERATIONS = 4096  # PostgreSQL's own default
_START_SECONDS = 120.0  # for the server to accept a login; a crashed one replays its log first


class PasswordRefused(TerminalError):
    """The server has another superuser password."""


@dataclasses.dataclass(frozen=True)
class Server:
    """Where the server is.

    :param password: the superuser's.
    :param log: named in the error when it does not answer.
    """

    host: str
    port: int
    password: str = dataclasses.field(repr=False)
    log: str = ""

    def connect(self, database: str = "postgres") -> psycopg.Connection[Any]:
        """Log in as superuser, in autocommit."""
        return psycopg.connect(
            host=self.host,
            port=self.port,
            user="postgres",
            password=self.password,
            dbname=database,
            connect_timeout=5,
            autocommit=True,
        )


def scram_verifier(password: str, salt: bytes | None = None, iterations: int = _ITERATIONS) -> str:
    """What PostgreSQL stores for a password; sending this keeps the password itself out of every server log.

    :param password: the password, ASCII.
    :param salt: 16 bytes; random if None.
    """
    salt = salt or os.urandom(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, iterations)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    encode = [base64.b64encode(part).decode() for part in (salt, stored, server)]
    return f"SCRAM-SHA-256${iterations}:{encode[0]}${encode[1]}:{encode[2]}"


def password_matches(password: str, stored: str | None) -> bool:
    """Whether a stored verifier belongs to the password."""
    if not stored or not stored.startswith("SCRAM-SHA-256$"):
        return False
    iterations, salt = stored.split("$")[1].split(":")
    return hmac.compare_digest(scram_verifier(password, base64.b64decode(salt), int(iterations)), stored)


def set_superuser_password(server: Server, new: str) -> None:
    """Change the password of ``postgres`` itself.

    :param server: with the password until now.
    :param new: the password from now on.
    """
    with wait(server) as connection:
        statement = sql.SQL("ALTER ROLE postgres PASSWORD {}").format(sql.Literal(scram_verifier(new)))
        connection.execute(statement)


def wait(server: Server) -> psycopg.Connection[Any]:
    """Log in as soon as the server lets us.

    :raises WaitTimeout: it did not within its time.
    :raises PasswordRefused: the password is wrong.
    """
    limit = time.monotonic() + _START_SECONDS
    while True:
        try:
            return server.connect()
        except psycopg.OperationalError as error:
            if "password authentication failed" in str(error):
                raise PasswordRefused(
                    "PostgreSQL refuses the password in secrets/postgres: another server, other data, or a rotation"
                    " that was interrupted? './rtlake rotate postgres' ends one"
                ) from error
            if time.monotonic() > limit:
                raise WaitTimeout(f"PostgreSQL does not answer ({error}); see {server.log}") from error
            time.sleep(0.1)


def converge(
    server: Server,
    roles: Sequence[dict[str, Any]],
    databases: Sequence[dict[str, Any]],
    *,
    check: bool = False,
) -> list[str]:
    """Make what is missing, mend what differs; returns what was done.

    :param roles: each with ``name``, ``password``, ``attributes`` and ``member_of``.
    :param databases: each with ``name``, ``owner`` and ``connect`` (roles).
    :param check: only tell.
    """
    if check:
        try:
            connection = server.connect()
        except psycopg.OperationalError:
            return ["PostgreSQL does not run yet"]
    else:
        connection = wait(server)
    changes: list[str] = []
    with connection:
        for role in roles:
            changes += _role(connection, role, check)
        for database in databases:
            changes += _database(connection, database, check)
    return changes


def _run(connection: psycopg.Connection[Any], statement: sql.Composed, check: bool) -> None:
    if not check:
        connection.execute(statement)


def _role(connection: psycopg.Connection[Any], role: dict[str, Any], check: bool) -> list[str]:
    name = role["name"]
    attributes = {"LOGIN", *role.get("attributes", [])}
    row = connection.execute(
        "SELECT rolpassword, rolcanlogin, rolreplication FROM pg_authid WHERE rolname = %s", [name]
    ).fetchone()
    have = set() if row is None else {a for a, on in (("LOGIN", row[1]), ("REPLICATION", row[2])) if on}
    changes = []
    if row is None:
        _run(connection, sql.SQL("CREATE ROLE {}").format(sql.Identifier(name)), check)
        changes.append(f"role {name}")
    if row is None or have != attributes or not password_matches(role["password"], row[0]):
        words = sql.SQL(" ").join(sql.SQL(a if a in attributes else f"NO{a}") for a in ("LOGIN", "REPLICATION"))
        statement = sql.SQL("ALTER ROLE {} {} PASSWORD {}").format(
            sql.Identifier(name), words, sql.Literal(scram_verifier(role["password"]))
        )
        _run(connection, statement, check)
        changes.append(f"login of {name}")
    for group in role.get("member_of", []):
        if row is None or not _value(connection, "SELECT pg_has_role(%s, %s, 'MEMBER')", [name, group]):
            _run(
                connection,
                sql.SQL("GRANT {} TO {}").format(sql.Identifier(group), sql.Identifier(name)),
                check,
            )
            changes.append(f"{name} in {group}")
    return changes


def _database(connection: psycopg.Connection[Any], database: dict[str, Any], check: bool) -> list[str]:
    name, owner = sql.Identifier(database["name"]), sql.Identifier(database["owner"])
    changes = []
    found = connection.execute(
        "SELECT pg_get_userbyid(datdba), has_database_privilege('public', oid, 'CONNECT') "
        "FROM pg_database WHERE datname = %s",
        [database["name"]],
    ).fetchone()
    if found is None:
        _run(connection, sql.SQL("CREATE DATABASE {} OWNER {}").format(name, owner), check)
        changes.append(f"database {database['name']}")
    elif found[0] != database["owner"]:
        _run(connection, sql.SQL("ALTER DATABASE {} OWNER TO {}").format(name, owner), check)
        changes.append(f"owner of {database['name']}")
    if found is None or found[1]:  # nobody comes in by default
        _run(connection, sql.SQL("REVOKE CONNECT ON DATABASE {} FROM PUBLIC").format(name), check)
        changes.append(f"closed {database['name']}")
    for role in database.get("connect", []):
        allowed = found is not None and _value(
            connection, "SELECT has_database_privilege(%s, %s, 'CONNECT')", [role, database["name"]]
        )
        if not allowed or (found is not None and found[1]):
            _run(
                connection,
                sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(name, sql.Identifier(role)),
                check,
            )
            changes.append(f"{role} may enter {database['name']}")
    return changes


def _value(connection: psycopg.Connection[Any], query: str, values: list[Any]) -> Any:
    row = connection.execute(query, values).fetchone()
    return row[0] if row else None
