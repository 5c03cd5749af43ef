"""The source's side of a connector: publication, rights, replica identity, slot. Says what it changes."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from airflow_provider_rtlake.exceptions import ServiceUnavailable, UserError, WaitTimeout
from airflow_provider_rtlake.streams.model import Connector, Stream
from airflow_provider_rtlake.streams.naming import quote_identifier
from airflow_provider_rtlake.streams.source import SourceTable
from airflow_provider_rtlake.streams.source_access import explained

_PUBLISH = "insert, update, delete, truncate"
_SCHEMAS_PUBLISHED = 150000  # the version from which whole schemas can be published, and rows and columns filtered
# Tables that a publication publishes every change of, in full.
_WHOLE = """
SELECT t.schemaname, t.tablename FROM pg_publication_tables t
JOIN pg_publication p ON p.pubname = t.pubname
JOIN pg_namespace n ON n.nspname = t.schemaname JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = t.tablename
LEFT JOIN pg_publication_rel r ON r.prpubid = p.oid AND r.prrelid = c.oid
WHERE p.pubname = %s AND p.pubinsert AND p.pubupdate AND p.pubdelete AND p.pubtruncate
  AND to_jsonb(r) ->> 'prqual' IS NULL AND to_jsonb(r) ->> 'prattrs' IS NULL
"""

Connection = psycopg.Connection[dict[str, Any]]


@dataclass(frozen=True)
class SlotState:
    """The replication slot and the server it lives on.

    :param system_id: the database cluster's identity: another one after a restore from elsewhere.
    :param timeline: of the cluster: another one after a failover or a recovery to a point in time.
    :param exists: whether the slot is there.
    :param active: whether somebody reads from it.
    :param lost: whether the server has thrown away log that the slot still needs.
    :param lag_bytes: log that the server keeps for it; None without a slot.
    """

    system_id: str
    timeline: int
    exists: bool
    active: bool = False
    lost: bool = False
    lag_bytes: int | None = None


@dataclass(frozen=True)
class SourceChange:
    """One statement that the deployment runs in the source database.

    :param what: in words.
    :param statement: as SQL.
    """

    what: str
    statement: sql.Composable | str


def read_slot(connection: Connection, slot: str) -> SlotState:
    """What the server says of itself and of a slot.

    :param connection: to the source database.
    :param slot: its name.
    """
    with explained(f"reading the state of the replication slot {slot}"):
        server = connection.execute(
            "SELECT system_identifier::text AS system_id, ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))"
            "::bit(32)::int AS timeline FROM pg_control_system()"
        ).fetchone()
        row = connection.execute(  # by way of JSON: the column came with PostgreSQL 16
            "SELECT active, wal_status = 'lost' OR (to_jsonb(s) ->> 'conflicting')::boolean IS TRUE AS lost,"
            " (pg_current_wal_lsn() - confirmed_flush_lsn)::bigint AS lag"
            " FROM pg_replication_slots s WHERE slot_name = %s",
            (slot,),
        ).fetchone()
    if server is None:
        raise ServiceUnavailable("PostgreSQL", "does not say which system it is")
    known = {"system_id": server["system_id"], "timeline": server["timeline"]}
    if row is None:
        return SlotState(**known, exists=False)
    return SlotState(**known, exists=True, active=row["active"], lost=bool(row["lost"]), lag_bytes=row["lag"])


def plan_source(
    connection: Connection, connector: Connector, tables: Mapping[str, SourceTable], replication_user: str
) -> list[SourceChange]:
    """The statements that bring the source to what the declaration says; none where it is so already.

    :param connection: to the source database.
    :param connector: the declaration.
    :param tables: ``Stream.source`` → what the catalog says of it.
    :param replication_user: role that Debezium logs in as.
    :raises UserError: the deployment's role may not do what is needed.
    """
    with explained(f"comparing the source with the connector {connector.connector}"):
        return [
            *_identities(connection, connector, tables),
            *_grants(connection, connector, replication_user),
            *_publication(connection, connector),
        ]


def apply_source(connection: Connection, changes: list[SourceChange]) -> list[str]:
    """Run the statements, each in its own transaction.

    :param connection: to the source database.
    :param changes: what :func:`plan_source` found.
    :return: what was changed, in words.
    :raises ServiceUnavailable: a table is locked for longer than the deployment waits.
    :raises UserError: the deployment's role may not do it.
    """
    done = []
    for change in changes:
        with explained(change.what):
            connection.execute(change.statement)  # type: ignore[arg-type]  # composed above, no text of a user in it
        done.append(change.what)
    return done


def wants_full(stream: Stream, table: SourceTable) -> bool:
    """Whether the deployment sets REPLICA IDENTITY FULL on a table.

    :param stream: the declaration.
    :param table: what the catalog says of it.
    """
    if stream.table.replica_identity is not None:
        return stream.table.replica_identity == "full"
    return table.full_reason is not None or stream.table.realtime is not False


def without_identity(connection: Connection, connector: Connector, tables: Mapping[str, SourceTable]) -> list[str]:
    """Tables and partitions that lack the REPLICA IDENTITY FULL that they need: their values before come incomplete.

    A partition does not take it from its root: one that was made since the last deployment lacks it.

    :param connection: to the source database.
    :param connector: the declaration.
    :param tables: ``Stream.source`` → what the catalog says of it; tables that are not in it are left out.
    :return: their names as SQL.
    """
    needing = [
        stream
        for stream in connector.streams
        if stream.source in tables and (stream.table.realtime is not False or wants_full(stream, tables[stream.source]))
    ]
    with explained(f"comparing the replica identities with the connector {connector.connector}"):
        return [name for _, name in _without_full(connection, needing, tables)]


def _without_full(
    connection: Connection, streams: Iterable[Stream], tables: Mapping[str, SourceTable]
) -> Iterator[tuple[Stream, str]]:
    for stream in streams:
        if tables[stream.source].schema.replica_identity == "full":
            continue
        rows = connection.execute(
            "SELECT format('%%I.%%I', n.nspname, c.relname) AS name FROM pg_class root"
            " JOIN pg_namespace rn ON rn.oid = root.relnamespace"
            " CROSS JOIN LATERAL (SELECT relid FROM pg_partition_tree(root.oid) UNION SELECT root.oid) tree(oid)"
            " JOIN pg_class c ON c.oid = tree.oid JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE rn.nspname = %s AND root.relname = %s AND c.relreplident <> 'f' ORDER BY 1",
            (stream.schema_name, stream.table_name),
        ).fetchall()
        for row in rows:
            yield stream, row["name"]


def _identities(
    connection: Connection, connector: Connector, tables: Mapping[str, SourceTable]
) -> Iterator[SourceChange]:
    wanted = [stream for stream in connector.streams if wants_full(stream, tables[stream.source])]
    for stream, name in _without_full(connection, wanted, tables):
        if not tables[stream.source].owned:
            raise UserError(
                f"{stream.source} needs REPLICA IDENTITY FULL and the deployment's role does not own it; let its owner"
                f" run ALTER TABLE {name} REPLICA IDENTITY FULL, or write replica_identity: keep and"
                " realtime: false"
            )
        yield SourceChange(f"REPLICA IDENTITY FULL on {name}", f"ALTER TABLE {name} REPLICA IDENTITY FULL")


def _grants(connection: Connection, connector: Connector, role: str) -> Iterator[SourceChange]:
    known = connection.execute(
        "SELECT rolreplication OR rolsuper AS replication FROM pg_roles WHERE rolname = %s", (role,)
    ).fetchone()
    if known is None:
        raise UserError(
            f"PostgreSQL has no role {role!r} for Debezium; CREATE ROLE {role} LOGIN REPLICATION PASSWORD …"
        )
    if not known["replication"]:
        raise UserError(f"the role {role!r} lacks the attribute REPLICATION; ALTER ROLE {role} REPLICATION")
    for schema in sorted({stream.schema_name for stream in connector.streams}):
        if not _holds(connection, "has_schema_privilege(%s, %s, 'USAGE')", role, quote_identifier(schema)):
            yield SourceChange(
                f"USAGE on schema {schema} for {role}",
                sql.SQL("GRANT USAGE ON SCHEMA {} TO {}").format(sql.Identifier(schema), sql.Identifier(role)),
            )
    for stream in connector.streams:
        if not _holds(connection, "has_table_privilege(%s, %s, 'SELECT')", role, _name(stream)):
            yield SourceChange(
                f"SELECT on {_name(stream)} for {role}",
                sql.SQL("GRANT SELECT ON {} TO {}").format(_identifier(stream), sql.Identifier(role)),
            )


def _holds(connection: Connection, call: str, role: str, name: str) -> bool:
    schema = call.startswith("has_schema")
    bare = name[1:-1].replace('""', '"') if schema else name  # the schema's name is taken as it is, a table's is parsed
    row = connection.execute(f"SELECT {call} AS held", (role, bare)).fetchone()  # one of two constants
    return bool(row and row["held"])


def _publication(connection: Connection, connector: Connector) -> Iterator[SourceChange]:
    name = sql.Identifier(connector.publication)
    wanted = {(stream.schema_name, stream.table_name) for stream in connector.streams}
    listed = sql.SQL(", ").join(_identifier(stream) for stream in connector.streams)
    create = sql.SQL(
        "CREATE PUBLICATION {} FOR TABLE {} WITH (publish = {}, publish_via_partition_root = true)"
    ).format(name, listed, sql.Literal(_PUBLISH))
    row = connection.execute(
        "SELECT oid, puballtables, pubinsert AND pubupdate AND pubdelete AND pubtruncate AS complete, pubviaroot,"
        " pg_has_role(current_user, pubowner, 'USAGE') AS owned FROM pg_publication WHERE pubname = %s",
        (connector.publication,),
    ).fetchone()
    shown = ", ".join(sorted(stream.source for stream in connector.streams))
    if row is None:
        yield SourceChange(f"publication {connector.publication} made for {shown}", create)
        return
    if not row["owned"]:
        raise UserError(
            f"the publication {connector.publication} belongs to another role; declare another name (publication: …)"
        )
    if row["puballtables"]:
        yield SourceChange(
            f"publication {connector.publication} of all tables dropped",
            sql.SQL("DROP PUBLICATION {}").format(name),
        )
        yield SourceChange(f"publication {connector.publication} made for {shown}", create)
        return
    if not (row["complete"] and row["pubviaroot"]):
        yield SourceChange(
            f"publication {connector.publication} publishes {_PUBLISH}, partitions through their root",
            sql.SQL("ALTER PUBLICATION {} SET (publish = {}, publish_via_partition_root = true)").format(
                name, sql.Literal(_PUBLISH)
            ),
        )
    if _published(connection, row["oid"]) != wanted:
        yield SourceChange(
            f"publication {connector.publication} set to {shown}",
            sql.SQL("ALTER PUBLICATION {} SET TABLE {}").format(name, listed),
        )


def _published(connection: Connection, publication: int) -> set[tuple[str, str]] | None:
    """The tables of a publication; None where some are filtered or whole schemas are published."""
    rows = connection.execute(
        "SELECT n.nspname, c.relname, (to_jsonb(r) ->> 'prqual') IS NOT NULL OR (to_jsonb(r) ->> 'prattrs') IS NOT NULL"
        " AS filtered FROM pg_publication_rel r JOIN pg_class c ON c.oid = r.prrelid"
        " JOIN pg_namespace n ON n.oid = c.relnamespace WHERE r.prpubid = %s",
        (publication,),
    ).fetchall()
    if connection.info.server_version >= _SCHEMAS_PUBLISHED:
        rows += connection.execute(
            "SELECT '' AS nspname, '' AS relname, true AS filtered FROM pg_publication_namespace WHERE pnpubid = %s",
            (publication,),
        ).fetchall()
    if any(row["filtered"] for row in rows):
        return None
    return {(row["nspname"], row["relname"]) for row in rows}


def drop_slot(connection: Connection, slot: str, *, limit: float = 30.0) -> bool:
    """Drop a replication slot; whoever still reads from it is disconnected.

    :param connection: to the source database.
    :param slot: its name.
    :param limit: seconds to wait for its reader to let go.
    :return: whether there was one.
    :raises WaitTimeout: the slot stays in use.
    """
    deadline = time.monotonic() + limit
    with explained(f"dropping the replication slot {slot}"):
        while True:
            row = connection.execute(
                "SELECT active_pid FROM pg_replication_slots WHERE slot_name = %s", (slot,)
            ).fetchone()
            if row is None:
                return False
            if row["active_pid"] is not None:
                connection.execute("SELECT pg_terminate_backend(%s)", (row["active_pid"],))
            try:
                connection.execute("SELECT pg_drop_replication_slot(%s)", (slot,))
                return True
            except psycopg.errors.ObjectInUse:
                if time.monotonic() > deadline:
                    raise WaitTimeout(
                        f"the replication slot {slot} is still in use after {limit:.0f} s; stop who reads from it"
                    ) from None
                time.sleep(0.2)  # between two looks at the slot
            except psycopg.errors.UndefinedObject:
                return False


def has_publication(connection: Connection, name: str) -> bool:
    """Whether a publication is there.

    :param connection: to the source database.
    :param name: of the publication.
    """
    with explained(f"looking for the publication {name}"):
        return bool(connection.execute("SELECT 1 AS found FROM pg_publication WHERE pubname = %s", (name,)).fetchall())


def unpublished(connection: Connection, connector: Connector) -> list[Stream]:
    """The declared tables that the publication leaves out, or does not publish every change of.

    :param connection: to the source database.
    :param connector: the declaration.
    """
    with explained(f"reading the publication {connector.publication}"):
        rows = connection.execute(_WHOLE, (connector.publication,)).fetchall()
    whole = {(row["schemaname"], row["tablename"]) for row in rows}
    return [stream for stream in connector.streams if (stream.schema_name, stream.table_name) not in whole]


def drop_publication(connection: Connection, name: str) -> bool:
    """Drop a publication.

    :param connection: to the source database.
    :param name: of the publication.
    :return: whether there was one.
    """
    with explained(f"dropping the publication {name}"):
        if not has_publication(connection, name):
            return False
        connection.execute(sql.SQL("DROP PUBLICATION IF EXISTS {}").format(sql.Identifier(name)))
        return True


def _name(stream: Stream) -> str:
    return f"{quote_identifier(stream.schema_name)}.{quote_identifier(stream.table_name)}"


def _identifier(stream: Stream) -> sql.Identifier:
    return sql.Identifier(stream.schema_name, stream.table_name)
