"""How the source database is reached: by the deployment, and by Debezium."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from airflow_provider_rtlake.exceptions import ServiceUnavailable, UserError
from airflow_provider_rtlake.streams.model import Connector

if TYPE_CHECKING:
    import psycopg

CONNECT_SECONDS = 10
LOCK_SECONDS = 15  # that a statement waits for a table's users: a change of it would block everybody behind it


@dataclass(frozen=True)
class SourceAccess:
    """One PostgreSQL server and the two roles that the project uses there.

    :param host: of the server.
    :param port: of the server.
    :param dbname: database.
    :param user: role that makes publications and sets replica identities: the tables' owner.
    :param password: of that role.
    :param replication_user: role that Debezium logs in as; empty where it was not told.
    :param replication_password: where Kafka Connect finds its password: ``${directory:<folder>:<file>}``.
    :param sslmode: as libpq spells it.
    """

    host: str
    port: int
    dbname: str
    user: str
    password: str = field(repr=False)
    replication_user: str = ""
    replication_password: str = ""
    sslmode: str = "prefer"

    @classmethod
    def of_connection(
        cls,
        *,
        host: str,
        port: int | None,
        login: str,
        password: str,
        schema: str | None,
        extra: Mapping[str, Any],
    ) -> SourceAccess:
        """From the fields of an Airflow connection.

        Of the extra, ``dbname``, ``sslmode``, ``replication_user`` and ``replication_password`` are read.

        :param host: of the server.
        :param port: by default 5432.
        :param login: role of the deployment.
        :param password: of that role.
        :param schema: the database, where the extra names none.
        :param extra: the connection's extra.
        :raises UserError: the extra holds a password in clear text.
        """
        reference = str(extra.get("replication_password") or "")
        if reference and not (reference.startswith("${") and reference.endswith("}")):
            raise UserError(
                "replication_password of the source's connection is a password in clear text, which would show in"
                " Connect's answers; write a reference that Connect resolves: ${directory:<folder>:<file>}"
            )
        return cls(
            host=host,
            port=port or 5432,
            dbname=str(extra.get("dbname") or schema or "postgres"),
            user=login,
            password=password,
            replication_user=str(extra.get("replication_user") or ""),
            replication_password=reference,
            sslmode=str(extra.get("sslmode") or "prefer"),
        )

    def with_replication(self, connect_extra: Mapping[str, Any]) -> SourceAccess:
        """With the role of Debezium, where the source's connection does not name it: the Connect connection does.

        Of its extra, ``database_login``, ``secrets_dir`` and ``database_secret`` (a file in that folder) are read.

        :param connect_extra: the extra of the connection to Kafka Connect.
        :raises UserError: neither names it.
        """
        user = self.replication_user or str(connect_extra.get("database_login") or "")
        folder, name = connect_extra.get("secrets_dir"), connect_extra.get("database_secret")
        reference = self.replication_password or (f"${{directory:{folder}:{name}}}" if folder and name else "")
        if not user or not reference:
            raise UserError(
                "no connection names the role that Debezium logs in as; write replication_user and replication_password"
                " (as ${directory:<folder>:<file>}) into the extra of the source's connection"
            )
        return replace(self, replication_user=user, replication_password=reference)

    def for_connector(self, connector: Connector) -> SourceAccess:
        """The same server with the database that the declaration names.

        :param connector: the declaration.
        """
        return replace(self, dbname=connector.database.name) if connector.database.name else self

    def connect(self) -> psycopg.Connection[dict[str, Any]]:
        """A connection of the deployment's role, each statement its own transaction.

        :raises ServiceUnavailable: the server does not answer.
        :raises UserError: the server refuses role, password or database.
        """
        import psycopg  # DAG files, which are read all the time, need not wait for it

        try:
            return psycopg.connect(
                host=self.host,
                port=self.port,
                dbname=self.dbname,
                user=self.user,
                password=self.password,
                sslmode=self.sslmode,
                connect_timeout=CONNECT_SECONDS,
                options=f"-c lock_timeout={LOCK_SECONDS}s",
                application_name="rtlake-connectors",
                autocommit=True,
                row_factory=psycopg.rows.dict_row,
            )
        except psycopg.OperationalError as error:
            where = f"{self.user}@{self.host}:{self.port}/{self.dbname}"
            text = str(error).strip()
            if "password authentication" in text or "does not exist" in text or "no pg_hba" in text:
                raise UserError(f"PostgreSQL refuses {where}: {text}; correct the source's connection") from error
            raise ServiceUnavailable("PostgreSQL", f"no answer from {where}: {text}") from error


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Name what was tried in the database's errors.

    :param what: in words.
    :raises ServiceUnavailable: the database does not answer, or a table is locked for longer than is waited.
    :raises UserError: the role may not do it, or it is wrong.
    """
    import psycopg  # as above

    try:
        yield
    except psycopg.errors.InsufficientPrivilege as error:
        raise UserError(
            f"{what}: PostgreSQL refuses it: {_first_line(error)}; let the role of the source's connection own the"
            " tables and have CREATE on the database and the attribute REPLICATION"
        ) from error
    except psycopg.OperationalError as error:  # a lock that was not to be had is one, too
        raise ServiceUnavailable("PostgreSQL", f"{what}: {_first_line(error)}") from error
    except psycopg.Error as error:
        raise UserError(f"{what}: PostgreSQL says: {_first_line(error)}") from error


def _first_line(error: psycopg.Error) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
