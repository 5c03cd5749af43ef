"""What the lanes need to know of Kafka: topics, their ends, and a group's progress."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from airflow_provider_rtlake.clients.kafka import KafkaClient, Topic
from airflow_provider_rtlake.exceptions import ServiceUnavailable
from airflow_provider_rtlake.streams.model import Connector, Stream

FOREVER = {"retention.ms": "-1"}


def committed(kafka: KafkaClient, group: str, topic: str, partitions: Iterable[int]) -> dict[int, int]:
    """Next offset that a consumer group has committed, for the partitions where it has.

    :param kafka: the brokers.
    :param group: consumer group.
    :param topic: its topic.
    :param partitions: to look at.
    :raises ServiceUnavailable: no broker answers.
    """
    places = [TopicPartition(topic, partition) for partition in partitions]
    if not places:
        return {}
    admin = AdminClient(dict(kafka.config))
    try:
        request = ConsumerGroupTopicPartitions(group, places)
        found = admin.list_consumer_group_offsets([request])[group].result(kafka.timeout)
    except KafkaException as error:
        raise ServiceUnavailable("Kafka", f"offsets of group {group}: {error.args[0].str()}") from error
    return {place.partition: place.offset for place in found.topic_partitions if place.offset >= 0}


def commit(kafka: KafkaClient, group: str, topic: str, offsets: Mapping[int, int]) -> None:
    """Set where a consumer group goes on.

    :param kafka: the brokers.
    :param group: consumer group that nobody is a member of.
    :param topic: its topic.
    :param offsets: partition → next offset to read.
    :raises ServiceUnavailable: no broker answers, or somebody still reads in that group.
    """
    if not offsets:
        return
    places = [TopicPartition(topic, partition, offset) for partition, offset in sorted(offsets.items())]
    admin = AdminClient(dict(kafka.config))
    try:
        request = ConsumerGroupTopicPartitions(group, places)
        done = admin.alter_consumer_group_offsets([request])[group].result(kafka.timeout)
    except KafkaException as error:
        raise ServiceUnavailable("Kafka", f"setting offsets of group {group}: {error.args[0].str()}") from error
    failed = [place.error for place in done.topic_partitions if place.error is not None]
    if failed:
        raise ServiceUnavailable("Kafka", f"setting offsets of group {group}: {failed[0].str()}")


def connector_topics(connector: Connector) -> list[Topic]:
    """The topics that a connector's bronze jobs read and write.

    They are made before the jobs start: a table without changes has no topic yet, and Flink would wait for it.

    :param connector: as declared.
    """
    sources = [Topic(stream.topic, connector.partitions) for stream in connector.streams]
    # One partition: the order of transactions, and of dead letters and what became of them
    return [
        *sources,
        Topic(connector.transaction_topic, 1),
        Topic(connector.notification_topic, 1, FOREVER),
        Topic(connector.dead_letter_topic, 1, FOREVER),
    ]


def realtime_topics(stream: Stream) -> list[Topic]:
    """The topics that a table's real-time lane writes.

    :param stream: the captured table.
    """
    realtime = stream.table.realtime
    if realtime is False:
        return []
    return [
        Topic(str(stream.current_topic), realtime.partitions, {"cleanup.policy": "compact"}),
        Topic(str(stream.history_topic), realtime.partitions, {"cleanup.policy": "delete"}),
    ]


def make_missing(kafka: KafkaClient, topics: Iterable[Topic]) -> list[str]:
    """Create the topics that are missing; those that are there stay as they are.

    :param kafka: the brokers.
    :param topics: wanted.
    :return: what was done, in words.
    """
    present = kafka.topics()
    return kafka.ensure([topic for topic in topics if topic.name not in present])
