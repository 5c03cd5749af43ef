"""What is installed: read from ``etc/stack.json``, which the playbook writes and which holds no secret."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_provider_rtlake.exceptions import UserError

if TYPE_CHECKING:
    import psycopg

    from airflow_provider_rtlake.clients.rest import RestClient
    from airflow_provider_rtlake.streams.source_access import SourceAccess


def default_home() -> Path:
    """RTLAKE_HOME, or its default for this user."""
    named = os.environ.get("RTLAKE_HOME")
    if named:
        return Path(named)
    return Path("/opt/rtlake") if os.geteuid() == 0 else Path.home() / ".rtlake"


def read_secret(home: Path, name: str) -> str:
    """A secret's value.

    :param home: RTLAKE_HOME.
    :param name: file name below ``secrets/``.
    :raises UserError: it is missing or may not be read.
    """
    path = home / "secrets" / name
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        raise UserError(f"{path} is missing; run './rtlake up --converge'") from None
    except PermissionError:
        raise UserError(f"{path} may not be read by you; run as the user who installed") from None


@dataclasses.dataclass(frozen=True)
class Service:
    """One service.

    :param name: such as ``flink-jobmanager``.
    :param component: the role that installs it.
    :param port: where it listens.
    :param url: where it answers.
    :param log: its log file.
    """

    name: str
    component: str
    port: int
    url: str
    log: Path


@dataclasses.dataclass(frozen=True)
class Connection:
    """One connection, named as in Airflow.

    :param secret: name of the secret that is its password, or None.
    """

    conn_id: str
    conn_type: str
    host: str
    port: int | None
    login: str | None
    schema: str | None
    secret: str | None
    extra: Mapping[str, Any]
    home: Path

    @property
    def password(self) -> str | None:
        """The secret's value, or None where none is needed.

        :raises UserError: it is missing or may not be read.
        """
        return read_secret(self.home, self.secret) if self.secret else None

    @property
    def url(self) -> str:
        """``http://host:port``."""
        return f"http://{self.host}:{self.port}"


@dataclasses.dataclass(frozen=True)
class Stack:
    """An installed stack.

    :param home: RTLAKE_HOME.
    :param project: the checkout that it was installed from.
    :param supervisor: ``supervisord`` or ``systemd``.
    """

    home: Path
    project: Path
    supervisor: str
    port_offset: int
    components: tuple[str, ...]
    services: Mapping[str, Service]
    connections: Mapping[str, Connection]

    @classmethod
    def load(cls, home: Path | str | None = None) -> Stack:
        """Read ``etc/stack.json``.

        :param home: RTLAKE_HOME; from the environment if None.
        :raises UserError: nothing is installed there, or the file is damaged.
        """
        root = Path(home) if home else default_home()
        path = root / "etc" / "stack.json"
        try:
            data = json.loads(path.read_text())
            return cls._parse(data)
        except FileNotFoundError:
            raise UserError(f"{path} is missing: nothing is installed in {root}; run './rtlake up'") from None
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is damaged ({error!r}); run './rtlake up --converge'") from error

    @classmethod
    def _parse(cls, data: dict[str, Any]) -> Stack:
        services = {
            name: Service(name, s["component"], int(s["port"]), s["url"], Path(s["log"]))
            for name, s in data["services"].items()
        }
        connections = {
            name: Connection(conn_id=name, home=Path(data["home"]), **c) for name, c in data["connections"].items()
        }
        return cls(
            home=Path(data["home"]),
            project=Path(data["project"]),
            supervisor=data["supervisor"],
            port_offset=int(data["port_offset"]),
            components=tuple(data["components"]),
            services=services,
            connections=connections,
        )

    def service(self, name: str) -> Service:
        """A service by name.

        :raises UserError: there is none of that name; the message names those there are.
        """
        if name not in self.services:
            raise UserError(f"no service {name!r}; there are: {', '.join(self.services)}")
        return self.services[name]

    def connection(self, conn_id: str) -> Connection:
        """A connection by id.

        :raises UserError: there is none of that id.
        """
        if conn_id not in self.connections:
            raise UserError(f"no connection {conn_id!r}; there are: {', '.join(self.connections)}")
        return self.connections[conn_id]

    def secret(self, name: str) -> str:
        """A secret's value.

        :param name: file name below ``secrets/``.
        :raises UserError: it is missing or may not be read.
        """
        return read_secret(self.home, name)

    def password(self, conn_id: str) -> str | None:
        """A connection's password, or None where it needs none."""
        return self.connection(conn_id).password

    def rest(self, conn_id: str, service: str, **kwargs: Any) -> RestClient:
        """A REST client for a connection.

        :param service: its name in messages.
        :param kwargs: as for :class:`~airflow_provider_rtlake.clients.rest.RestClient`; and ``path``.
        """
        from airflow_provider_rtlake.clients.rest import RestClient

        return RestClient(service, self.connection(conn_id).url + kwargs.pop("path", ""), **kwargs)

    def source_access(self, conn_id: str) -> SourceAccess:
        """How a source database is reached.

        :raises UserError: there is no such connection, or its password may not be read.
        """
        from airflow_provider_rtlake.streams.source_access import SourceAccess

        c = self.connection(conn_id)
        return SourceAccess.of_connection(
            host=c.host,
            port=c.port,
            login=c.login or "",
            password=c.password or "",
            schema=c.schema,
            extra=c.extra,
        )

    def postgres(self, conn_id: str = "rtlake_source", **kwargs: Any) -> psycopg.Connection[Any]:
        """Log in to a PostgreSQL connection.

        :param kwargs: as for :func:`psycopg.connect`.
        """
        import psycopg

        c = self.connection(conn_id)
        options: dict[str, Any] = {"connect_timeout": 10, **kwargs}
        return psycopg.connect(
            host=c.host,
            port=c.port,
            user=c.login,
            password=self.password(conn_id),
            dbname=c.schema,
            **options,
        )

    @property
    def kafka_bootstrap(self) -> str:
        """``host:port`` of the broker."""
        return str(self.connection("rtlake_kafka").extra["bootstrap.servers"])
