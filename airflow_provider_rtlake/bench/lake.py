"""Iceberg tables of a run: where they are, DuckDB reading them, and taking them away."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import duckdb

from airflow_provider_rtlake.clients.nessie import Entry, NessieClient
from airflow_provider_rtlake.exceptions import NotFound, UserError
from airflow_provider_rtlake.kit.stack import Stack

_EXTENSIONS = ("httpfs", "avro", "iceberg")  # avro before iceberg


@contextmanager
def nessie(stack: Stack) -> Iterator[NessieClient]:
    """A client of the stack's Nessie."""
    with NessieClient(f"{stack.connection('rtlake_nessie').url}/api/v2") as client:
        yield client


def entry(stack: Stack, table: str) -> Entry | None:
    """A table as main holds it now.

    :param table: ``namespace.name``.
    """
    with nessie(stack) as client:
        return client.content(tuple(table.split(".", 1)))


def scan(stack: Stack, table: str) -> str:
    """DuckDB's relation of a table's current snapshot.

    :param table: ``namespace.name``.
    :raises NotFound: there is no such table.
    """
    found = entry(stack, table)
    if found is None or not found.metadata_location:
        raise NotFound("Nessie", f"no table {table}")
    return f"iceberg_scan('{found.metadata_location}')"


@dataclass(frozen=True)
class Layout:
    """What a table's current snapshot consists of."""

    data_files: int
    delete_files: int
    size: int  # bytes of the data files

    @classmethod
    def of(cls, connection: duckdb.DuckDBPyConnection, stack: Stack, table: str) -> Layout:
        """A table's layout, from the summary that its writer left.

        :param connection: after :func:`make_readable`.
        :param table: ``namespace.name``.
        :raises NotFound: there is no such table, or nothing was written to it.
        """
        found = entry(stack, table)
        if found is None or not found.metadata_location:
            raise NotFound("Nessie", f"no table {table}")
        (text,) = connection.execute("SELECT content FROM read_text($1)", [found.metadata_location]).fetchone() or ("",)
        metadata = json.loads(text)
        current = metadata.get("current-snapshot-id")
        for snapshot in metadata.get("snapshots", ()):
            if snapshot["snapshot-id"] == current:
                summary = snapshot["summary"]
                return cls(
                    int(summary["total-data-files"]),
                    int(summary["total-delete-files"]),
                    int(summary["total-files-size"]),
                )
        raise NotFound("Nessie", f"table {table} has no snapshot")


def make_readable(connection: duckdb.DuckDBPyConnection, stack: Stack) -> None:
    """Load what DuckDB needs to read the lake, and let it log in; neither is stored in its file.

    :raises UserError: the extensions are not installed, or not for this DuckDB.
    """
    folder = stack.home / "var" / "bench" / "duckdb"
    connection.execute(f"SET extension_directory = '{folder}'")
    for name in _EXTENSIONS:
        try:
            connection.execute(f"LOAD {name}")
        except duckdb.Error:
            _import(connection, name, folder)
    given = stack.connection("rtlake_s3")
    endpoint = urlsplit(str(given.extra["endpoint_url"]))
    connection.execute(
        "CREATE OR REPLACE TEMPORARY SECRET lake (TYPE s3, KEY_ID $key, SECRET $secret, REGION $region, "
        "ENDPOINT $endpoint, URL_STYLE 'path', USE_SSL $ssl)",
        {
            "key": given.login,
            "secret": stack.password("rtlake_s3"),
            "region": str(given.extra.get("region_name", "us-east-1")),
            "endpoint": endpoint.netloc,
            "ssl": endpoint.scheme == "https",
        },
    )


def _import(connection: duckdb.DuckDBPyConnection, name: str, folder: Path) -> None:
    try:
        from duckdb_extensions import import_extension
    except ImportError as error:
        raise UserError(
            f"DuckDB's extension {name} is not installed: it comes with the Python packages of requirements/lock.txt"
        ) from error
    folder.mkdir(parents=True, exist_ok=True)
    try:
        import_extension(name, con=connection)
        connection.execute(f"LOAD {name}")
    except Exception as error:
        raise UserError(f"DuckDB {duckdb.__version__} cannot load its extension {name}: {error}") from error


class Watch:
    """Notices when a table's first snapshot appears, and the latest one: what a reader would see.

    :param table: ``namespace.name``.
    """

    def __init__(self, stack: Stack, table: str) -> None:
        self._stack, self._table = stack, table
        self._seen = self._snapshot()
        self.first: float | None = None
        self.last: float | None = None

    def look(self) -> None:
        """Look once; times are those of the look, in seconds since the epoch."""
        now = self._snapshot()
        if now != self._seen:
            self._seen, self.last = now, time.time()
            self.first = self.first or self.last

    def _snapshot(self) -> int | None:
        found = entry(self._stack, self._table)
        return found.snapshot_id if found else None
