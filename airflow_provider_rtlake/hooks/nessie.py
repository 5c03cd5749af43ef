"""Airflow's connection to Nessie."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from airflow.providers.common.compat.sdk import BaseHook

from airflow_provider_rtlake.clients.nessie import NessieClient, Reference

DEFAULT_PORT = 19120


class NessieHook(BaseHook):
    """Nessie over its REST API, version 2.

    The connection's host, port and ``schema`` (``http`` or ``https``) name the server, its password is a
    bearer token. Of the extra, ``api_path`` (by default ``/api/v2``), ``verify`` (a CA bundle, or false)
    and ``branch`` (by default the server's) are read.

    :param nessie_conn_id: connection id.
    :param timeout: seconds for one request.
    """

    conn_name_attr = "nessie_conn_id"
    default_conn_name = "rtlake_nessie"
    conn_type = "nessie"
    hook_name = "Nessie"

    def __init__(self, nessie_conn_id: str = default_conn_name, *, timeout: float = 30.0) -> None:
        super().__init__()
        self.nessie_conn_id = nessie_conn_id
        self.timeout = timeout

    def __enter__(self) -> NessieHook:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections of :attr:`client`; it opens new ones when used again."""
        client: NessieClient | None = self.__dict__.pop("client", None)
        if client is not None:
            client.close()

    def get_conn(self) -> NessieClient:
        """A client of the connection's server; close it, or use :attr:`client`."""
        connection = self.get_connection(self.nessie_conn_id)
        extra = connection.extra_dejson
        scheme = connection.schema or "http"
        path = str(extra.get("api_path") or "/api/v2").strip("/")
        verify = extra.get("verify")
        return NessieClient(
            f"{scheme}://{connection.host}:{connection.port or DEFAULT_PORT}/{path}",
            token=connection.password or None,
            timeout=self.timeout,
            verify=verify if isinstance(verify, (bool, str)) and verify != "" else True,
        )

    @cached_property
    def client(self) -> NessieClient:
        """The hook's own client."""
        return self.get_conn()

    @cached_property
    def branch(self) -> str:
        """The branch that readers look at: the connection's, or the server's default."""
        extra: dict[str, Any] = self.get_connection(self.nessie_conn_id).extra_dejson
        return str(extra.get("branch") or self.client.default_branch())

    def get_reference(self, name: str | None = None) -> Reference:
        """A branch or tag with the hash of its newest commit.

        :param name: by default :attr:`branch`.
        """
        return self.client.get_reference(name or self.branch)

    def test_connection(self) -> tuple[bool, str]:
        """Ask the server for its configuration."""
        try:
            config = self.client.config()
        except Exception as error:
            return False, str(error)
        finally:
            self.close()
        return True, f"Nessie API {config.get('specVersion')}, default branch {config.get('defaultBranch')}"
