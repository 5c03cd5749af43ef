"""What a declaration must obey beyond its types. Each rule yields (path, what is wrong, what to do)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from airflow_provider_rtlake.streams.model import Connector, History, Realtime, Stream, Table
from airflow_provider_rtlake.streams.naming import IDENTIFIER_BYTES, split_qualified

Path = tuple[str | int, ...]
Problem = tuple[Path, str, str]

TOPIC_LENGTH = 249  # Kafka
NAME_LENGTH = 200  # of an Iceberg table or Pinot table: file names end at 255 bytes, and both append suffixes
_CONNECTOR = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_PREFIX = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_LOWER = re.compile(r"[a-z_][a-z0-9_]*")
_TOPIC = re.compile(r"[A-Za-z0-9._-]+")
_ICEBERG = re.compile(r"[a-z][a-z0-9_]*\.[a-z][a-z0-9_]*")
_PINOT = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
_CONNECTION = re.compile(r"[A-Za-z0-9_.()-]{1,200}")
_STAGING = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._=-]*(/[A-Za-z0-9_][A-Za-z0-9._=-]*)*")
_RESERVED_TOPICS = ("__", "_connect", "_rtlake", "_schemas", "connect-")
_SYSTEM_SCHEMAS = ("information_schema",)
_KEY_CHARACTERS = re.compile(r"[^\s,;:]+")  # what Debezium's message.key.columns can spell

# Debezium settings that this project derives, or fixes because the rest of the path relies on them.
_DERIVED = {
    "name": "connector",
    "connector.class": None,
    "tasks.max": None,
    "plugin.name": None,
    "slot.name": "slot",
    "slot.drop.on.stop": None,
    "topic.prefix": "topic_prefix",
    "topic.delimiter": None,
    "topic.naming.strategy": None,
    "topic.transaction": None,
    "publish.via.partition.root": None,
    "message.key.columns": "tables.<table>.key",
    "decimal.handling.mode": None,
    "interval.handling.mode": None,
    "hstore.handling.mode": None,
    "binary.handling.mode": None,
    "time.precision.mode": None,
    "datatype.propagate.source.type": None,
    "column.propagate.source.type": None,
    "provide.transaction.metadata": None,
    "tombstones.on.delete": None,
    "skipped.operations": None,
    "snapshot.mode": None,
    "snapshot.isolation.mode": None,
    "snapshot.include.collection.list": None,
    "unavailable.value.placeholder": None,
    "heartbeat.interval.ms": "heartbeat_ms",
    "replica.identity.autoset.values": "tables.<table>.replica_identity",
    "offset.mismatch.strategy": None,
    "internal.slot.seek.to.known.offset.on.start": None,
    "log.position.check.enable": None,
    "flush.lsn.source": None,
    "lsn.flush.mode": None,
    "include.unknown.datatypes": None,
    "message.prefix.exclude.list": None,
    "message.prefix.include.list": None,
    "schema.name.adjustment.mode": None,
    "field.name.adjustment.mode": None,
    "errors.tolerance": None,
    "errors.deadletterqueue.topic.name": None,
    "event.processing.failure.handling.mode": None,
    "event.converting.failure.handling.mode": None,
    "skip.messages.without.change": None,
    "extended.headers.enabled": None,
    "sourceinfo.struct.maker": None,
    "post.processors": None,
    "transaction.metadata.factory": None,
    "connector.plugin.version": None,
    "table.ignore.builtin": None,
}
_DERIVED_PREFIXES = {
    "database.hostname": "database.connection",
    "database.port": "database.connection",
    "database.user": "database.connection",
    "database.password": "database.connection",
    "database.dbname": "database.name",
    "publication.": "publication",
    "table.include.": "tables",
    "table.exclude.": "tables",
    "schema.include.": "tables",
    "schema.exclude.": "tables",
    "column.include.": "tables.<table>.exclude",
    "column.exclude.": "tables.<table>.exclude",
    "key.converter": None,
    "value.converter": None,
    "header.converter": None,
    "transforms": None,
    "predicates": None,
    "topic.heartbeat.": None,
    "topic.creation.": "partitions",
    "snapshot.select.statement.overrides": None,
    "signal.": None,
    "notification.": None,
    "heartbeat.action": None,
    "converters": None,
}
_SECRET_KEY = re.compile(r"(?i)password|passwd|secret|token|jaas|credential|access[.-]?key|private[.-]?key")
_SECRET_REFERENCE = re.compile(r"\$\{[A-Za-z0-9_]+:[^}]+\}")


def check_connector(connector: Connector) -> Iterator[Problem]:
    """Every rule that can be seen in one declaration.

    :param connector: a declaration whose types are right.
    """
    yield from _names(connector)
    for key, value in connector.config.items():
        yield from _setting(key, value)
    if not connector.tables:
        yield (
            ("tables",),
            "names no table",
            "write at least one, such as 'public.orders: {}', or remove the file",
        )
    for source, table in connector.tables.items():
        path = ("tables", source)
        try:
            split_qualified(source)
        except ValueError as error:
            what, fix = _halves(str(error))
            yield path, what, fix
        else:
            yield from _table(path, Stream(connector=connector, source=source, table=table))


def _halves(message: str) -> tuple[str, str]:
    what, _, fix = message.partition("; ")
    return what, fix


def _names(connector: Connector) -> Iterator[Problem]:
    if not _CONNECTOR.fullmatch(connector.connector):
        yield (
            ("connector",),
            f"{connector.connector!r} is no usable name",
            "write 1 to 100 letters, digits, '.', '_' or '-', beginning with a letter or digit",
        )
    if not _PREFIX.fullmatch(connector.topic_prefix) or ".." in connector.topic_prefix:
        yield (
            ("topic_prefix",),
            f"{connector.topic_prefix!r} cannot begin a Kafka topic",
            "write 1 to 100 letters, digits, '.', '_' or '-', beginning with a letter or digit",
        )
    elif connector.topic_prefix.lower().startswith("connect-"):
        yield ("topic_prefix",), "topics named connect-… belong to Kafka Connect", "choose another prefix"
    if not _LOWER.fullmatch(connector.publication) or len(connector.publication) > IDENTIFIER_BYTES:
        yield (
            ("publication",),
            f"{connector.publication!r} is no usable publication name",
            f"write 1 to {IDENTIFIER_BYTES} lower-case letters, digits or underscores, the first no digit",
        )
    if connector.slot is not None and not re.fullmatch(r"[a-z0-9_]{1,63}", connector.slot):
        yield (
            ("slot",),
            f"{connector.slot!r} is no replication slot name",
            "PostgreSQL allows 1 to 63 lower-case letters, digits and underscores; or leave the key out",
        )
    if not _CONNECTION.fullmatch(connector.database.connection):
        yield (
            ("database", "connection"),
            f"{connector.database.connection!r} is no connection id",
            "write the id of an Airflow connection of type postgres, such as rtlake_source",
        )
    name = connector.database.name
    if name is not None and (not name or len(name.encode()) > IDENTIFIER_BYTES or "\0" in name):
        yield (
            ("database", "name"),
            "is no database name",
            f"write 1 to {IDENTIFIER_BYTES} bytes, or leave the key out",
        )


def _setting(key: str, value: str | int | bool) -> Iterator[Problem]:
    path = ("config", key)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", key):
        yield (
            path,
            "is no setting's name",
            "write it as Debezium's documentation does, such as max.batch.size",
        )
        return
    if key in _DERIVED:
        yield path, "is derived by this project", _instead(_DERIVED[key])
        return
    for prefix, instead in _DERIVED_PREFIXES.items():
        if key.startswith(prefix):
            yield path, "is derived by this project", _instead(instead)
            return
    if _SECRET_KEY.search(key) and not _SECRET_REFERENCE.fullmatch(str(value)):
        yield (
            path,
            "carries a secret in clear text",
            "put the secret into a file of the stack's secrets folder and write ${directory:<folder>:<file>}",
        )
    if isinstance(value, str) and not value.strip():
        yield path, "is empty", "give it a value or remove the line"


def _instead(key: str | None) -> str:
    return (
        "remove the line: the rest of the path relies on its value" if key is None else f"remove the line and set {key}"
    )


def _table(path: Path, stream: Stream) -> Iterator[Problem]:
    table = stream.table
    schema = stream.schema_name
    if schema in _SYSTEM_SCHEMAS or schema.startswith("pg_"):
        yield path, f"{schema} belongs to PostgreSQL itself and cannot be captured", "remove the table"
    if table.name is not None and (not _NAME.fullmatch(table.name) or len(table.name) > 100):
        yield (
            (*path, "name"),
            f"{table.name!r} is no identifier",
            "write at most 100 lower-case letters, digits and single underscores, beginning with a letter",
        )
    if len(stream.topic) > TOPIC_LENGTH:
        yield (
            path,
            f"its topic would have {len(stream.topic)} characters, Kafka allows {TOPIC_LENGTH}",
            "shorten topic_prefix",
        )
    yield from _columns(path, table)
    if isinstance(table.history, History):
        yield from _history((*path, "history"), table, table.history)
    if isinstance(table.realtime, Realtime):
        yield from _realtime((*path, "realtime"), stream, table.realtime)
    staging = table.parquet_staging
    if staging is not None and (not _STAGING.fullmatch(staging) or len(staging) > NAME_LENGTH):
        yield (
            (*path, "parquet_staging"),
            f"{staging!r} is no folder's name",
            "write letters, digits, '_', '-', '.' and single slashes between, such as sales_cdc",
        )


def _columns(path: Path, table: Table) -> Iterator[Problem]:
    yield from _column_list((*path, "exclude"), table.exclude)
    yield from _column_list((*path, "accept_loss"), table.accept_loss)
    if table.key is None:
        return
    yield from _column_list((*path, "key"), table.key)
    if not table.key:
        yield (
            (*path, "key"),
            "is empty",
            "name the columns that identify a row, or leave the key out to take the primary key",
        )
    for name in table.key:
        if name in table.exclude:
            yield (*path, "exclude"), f"excludes the key column {name!r}", "keep key columns"
        if name and not _KEY_CHARACTERS.fullmatch(name):
            yield (
                (*path, "key"),
                f"Debezium cannot spell the column {name!r} as a key (blank, comma, colon or semicolon)",
                "make it the table's primary key in the database and leave the key out here",
            )


def _column_list(path: Path, names: Sequence[str]) -> Iterator[Problem]:
    for index, name in enumerate(names):
        if not name or len(name.encode()) > IDENTIFIER_BYTES or "\0" in name:
            yield (*path, index), f"{name!r} is no column name", f"write 1 to {IDENTIFIER_BYTES} bytes"
        elif name in names[:index]:
            yield (*path, index), f"names {name!r} twice", "keep one"


def _history(path: Path, table: Table, history: History) -> Iterator[Problem]:
    if history.table is not None:
        yield from _history_table((*path, "table"), history.table)
    yield from _column_list((*path, "untracked"), history.untracked)
    yield from _column_list((*path, "accept_loss"), history.accept_loss)
    for name in history.untracked:
        if table.key is not None and name in table.key:
            yield (
                (*path, "untracked"),
                f"{name!r} is a key column",
                "a change of the key always counts; remove it",
            )
        if name in table.exclude:
            yield (*path, "untracked"), f"{name!r} is excluded", "remove it from one of the two lists"
    old_names: set[str] = set()
    for new, old in history.renamed_from.items():
        here = (*path, "renamed_from", new)
        yield from _column_list(here, (old,))
        if new == old:
            yield here, "is renamed from itself", "write 'new name: old name'"
        if old in old_names:
            yield here, f"two columns continue {old!r}", "keep one"
        if new in table.exclude:
            yield here, f"{new!r} is excluded", "remove it from one of the two"
        old_names.add(old)


def _history_table(path: Path, name: str) -> Iterator[Problem]:
    if not _ICEBERG.fullmatch(name):
        yield (
            path,
            f"{name!r} is no Iceberg table name",
            "write namespace.table in lower-case letters, digits and underscores: default.orders_scd2_iceberg",
        )
    elif len(name) > NAME_LENGTH:
        yield path, f"has {len(name)} characters, {NAME_LENGTH} are allowed", "shorten it"
    elif name.startswith("bronze."):
        yield (
            path,
            "the namespace bronze holds the captured changes",
            "choose another namespace, such as default",
        )


def _realtime(path: Path, stream: Stream, realtime: Realtime) -> Iterator[Problem]:
    for key in ("current_topic", "history_topic"):
        topic = getattr(realtime, key)
        if topic is None:
            continue
        if not _TOPIC.fullmatch(topic) or topic in (".", "..") or len(topic) > TOPIC_LENGTH:
            yield (
                (*path, key),
                f"{topic!r} is no topic name",
                f"write 1 to {TOPIC_LENGTH} letters, digits, '.', '_' or '-'",
            )
        elif topic.startswith(_RESERVED_TOPICS):
            yield (*path, key), f"{topic!r} is reserved for Kafka and its tools", "choose another name"
        elif topic.startswith(f"{stream.connector.topic_prefix}."):
            yield (
                (*path, key),
                f"topics that begin with {stream.connector.topic_prefix!r} and a dot are Debezium's",
                "choose a name without that beginning",
            )
    for key in ("current_table", "history_table"):
        name = getattr(realtime, key)
        if name is None:
            continue
        if not _PINOT.fullmatch(name) or "__" in name or len(name) > NAME_LENGTH:
            yield (
                (*path, key),
                f"{name!r} is no Pinot table name",
                f"write at most {NAME_LENGTH} letters, digits and single underscores, a letter first",
            )
        elif name.endswith(("_REALTIME", "_OFFLINE")):
            yield (*path, key), "Pinot appends _REALTIME and _OFFLINE itself", "leave the ending out"


def is_secret(key: str, value: object) -> bool:
    """Whether a setting's value must not be shown: it names a secret and is no reference to one.

    :param key: the setting.
    :param value: its value.
    """
    return bool(_SECRET_KEY.search(key)) and not _SECRET_REFERENCE.fullmatch(str(value))
