"""Names that two declarations, or two tables of one, would share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from airflow_provider_rtlake.streams.model import Connector, Stream
from airflow_provider_rtlake.streams.rules import Path


@dataclass(frozen=True)
class Place:
    """Where a name comes from.

    :param file: index of the declaration among those loaded.
    :param path: of the key that gives the name, or of the table that it is derived from.
    """

    file: int
    path: Path


@dataclass(frozen=True)
class Clash:
    """A name that two places give.

    :param place: the later one, where the problem is shown.
    :param first: the earlier one.
    :param what: what is wrong, without the earlier place.
    :param fix: what to do.
    """

    place: Place
    first: Place
    what: str
    fix: str


Named = tuple[str, str, Place]  # comparison key, name as shown, place


def find_clashes(connectors: Iterable[tuple[int, Connector]]) -> Iterator[Clash]:
    """Every name that is given twice where it may be given once.

    :param connectors: declarations with their index among the files.
    """
    loaded = list(connectors)
    kinds: tuple[tuple[Callable[[int, Connector], Iterator[Named]], str, str], ...] = (
        (_connector_names, "the connector's name", "give each connector its own"),
        (_prefixes, "the topic prefix", "give each connector its own topic_prefix"),
        (_slots, "the replication slot", "give each connector its own slot"),
        (_publications, "the publication in one database", "give each connector its own publication"),
        (_sources, "the table (spelled in two ways)", "keep one"),
        (_slugs, "the table's name in Airflow's checks and maintenance", "give one of them another (name: …)"),
        (_merges, "the Airflow DAG", "give one of them another name (name: …)"),
        (
            _topics,
            "the Kafka topic (Kafka takes '.' and '_' for the same)",
            "set name, or the topic, of one of them",
        ),
        (_iceberg, "the Iceberg table", "set name, or history.table, of one of them"),
        (_pinot, "the Pinot table", "set name, or current_table and history_table, of one of them"),
        (_staging, "the staging folder", "give each table its own"),
    )
    for names, what, fix in kinds:
        seen: dict[str, Place] = {}
        for index, connector in loaded:
            for key, shown, place in names(index, connector):
                first = seen.setdefault(key, place)
                if first is not place:
                    yield Clash(place, first, f"{what} {shown!r} is taken", fix)


def _connector_names(index: int, connector: Connector) -> Iterator[Named]:
    yield connector.connector, connector.connector, Place(index, ("connector",))


def _prefixes(index: int, connector: Connector) -> Iterator[Named]:
    prefix = connector.topic_prefix
    yield prefix.replace(".", "_"), prefix, Place(index, ("topic_prefix",))


def _slots(index: int, connector: Connector) -> Iterator[Named]:
    yield (
        connector.slot_name,
        connector.slot_name,
        Place(index, ("slot",) if connector.slot else ("connector",)),
    )


def _publications(index: int, connector: Connector) -> Iterator[Named]:
    key = f"{connector.database.connection} {connector.database.name or ''} {connector.publication}"
    yield key, connector.publication, Place(index, ("publication",))


def _sources(index: int, connector: Connector) -> Iterator[Named]:
    for stream in connector.streams:
        key = f"{index}\0{stream.schema_name}\0{stream.table_name}"
        yield key, stream.source, _at(index, stream)


def _slugs(index: int, connector: Connector) -> Iterator[Named]:
    for stream in connector.streams:
        yield stream.slug, stream.slug, _at(index, stream, "name")


def _merges(index: int, connector: Connector) -> Iterator[Named]:
    for stream in connector.streams:
        if stream.history_table is not None:
            yield stream.merge_dag, stream.merge_dag, _at(index, stream, "name")


def _topics(index: int, connector: Connector) -> Iterator[Named]:
    own = Place(index, ("topic_prefix",))
    for topic in (
        connector.transaction_topic,
        connector.dead_letter_topic,
        connector.notification_topic,
        connector.signal_topic,
    ):
        yield _collision(topic), topic, own
    for stream in connector.streams:
        yield _collision(stream.topic), stream.topic, _at(index, stream)
        for key in ("current_topic", "history_topic"):
            topic = getattr(stream, key)
            if topic is not None:
                yield _collision(topic), topic, _at(index, stream, "realtime", key)


def _collision(topic: str) -> str:
    """Kafka refuses a topic that differs from another in dots and underscores only."""
    return topic.replace(".", "_")


def _iceberg(index: int, connector: Connector) -> Iterator[Named]:
    prefix = Place(index, ("topic_prefix",))
    if connector.streams:
        first = connector.streams[0]
        for name in (first.bronze_transactions, first.bronze_notifications):
            yield name, name, prefix
    for stream in connector.streams:
        yield stream.bronze_table, stream.bronze_table, _at(index, stream)
        if stream.history_table is not None:
            base = stream.history_base
            for name in (stream.history_table, f"{base}_checkpoint", f"{base}_changes"):
                yield name, name, _at(index, stream, "history", "table")


def _pinot(index: int, connector: Connector) -> Iterator[Named]:
    for stream in connector.streams:
        for key, name in (("current_table", stream.pinot_current), ("history_table", stream.pinot_history)):
            if name is not None:
                yield name.lower(), name, _at(index, stream, "realtime", key)


def _staging(index: int, connector: Connector) -> Iterator[Named]:
    for stream in connector.streams:
        folder = stream.table.parquet_staging
        if folder is not None:
            yield folder, folder, _at(index, stream, "parquet_staging")


def _at(index: int, stream: Stream, *keys: str) -> Place:
    return Place(index, ("tables", stream.source, *keys))
