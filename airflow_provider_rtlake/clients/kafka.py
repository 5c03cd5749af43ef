"""Kafka topics: describe, create, grow, configure, delete. No Airflow."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ConfigSource,
    NewPartitions,
    NewTopic,
    ResourceType,
)

from airflow_provider_rtlake.exceptions import RequestRefused, ServiceError, ServiceUnavailable
from airflow_provider_rtlake.pinot_config.render import Topic

_SERVICE = "Kafka"


class KafkaTopics:
    """Topics of one Kafka cluster.

    :param bootstrap_servers: ``host:port``, comma-separated.
    :param config: further settings of the client, such as those of a login.
    :param timeout: seconds for one request.
    """

    def __init__(
        self, bootstrap_servers: str, config: Mapping[str, Any] | None = None, *, timeout: float = 30.0
    ) -> None:
        self.bootstrap_servers = bootstrap_servers
        self.timeout = timeout
        settings = {"socket.timeout.ms": int(timeout * 1000), **(config or {})}
        self._admin = AdminClient({**settings, "bootstrap.servers": bootstrap_servers, "log_level": 2})

    def describe(self, name: str) -> Topic | None:
        """A topic with the settings that were made on it; None where there is none.

        :param name: topic.
        :raises ServiceUnavailable: no broker answers.
        """
        try:
            found = self._admin.list_topics(timeout=self.timeout).topics.get(name)
        except KafkaException as error:
            raise self._error(error, "list topics") from error
        if found is None or found.error is not None or not found.partitions:
            return None
        copies = len(next(iter(found.partitions.values())).replicas)
        return Topic(name, len(found.partitions), copies, self._config(name))

    def create(self, topic: Topic) -> None:
        """Create a topic; one that is there already stays as it is.

        :param topic: name, partitions, copies and settings.
        :raises RequestRefused: with the broker's reason.
        """
        new = NewTopic(topic.name, topic.partitions, topic.replication_factor, config=topic.config)
        future = self._admin.create_topics([new], operation_timeout=self.timeout)[topic.name]
        self._finish(future, f"create topic {topic.name}", KafkaError.TOPIC_ALREADY_EXISTS)

    def grow(self, name: str, partitions: int) -> None:
        """Give a topic more partitions.

        :param name: topic.
        :param partitions: how many there shall be.
        """
        future = self._admin.create_partitions([NewPartitions(name, partitions)])[name]
        self._finish(future, f"grow topic {name}")

    def configure(self, name: str, config: dict[str, str]) -> None:
        """Set some of a topic's settings, the others stay.

        :param name: topic.
        :param config: settings as Kafka spells them.
        """
        entries = [
            ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET)
            for key, value in config.items()
        ]
        resource = ConfigResource(ResourceType.TOPIC, name, incremental_configs=entries)
        self._finish(self._admin.incremental_alter_configs([resource])[resource], f"configure topic {name}")

    def delete(self, name: str) -> bool:
        """Delete a topic; True if it was there.

        :param name: topic.
        """
        future = self._admin.delete_topics([name], operation_timeout=self.timeout)[name]
        return self._finish(future, f"delete topic {name}", KafkaError.UNKNOWN_TOPIC_OR_PART)

    def _config(self, name: str) -> dict[str, str]:
        resource = ConfigResource(ResourceType.TOPIC, name)
        try:
            entries = self._admin.describe_configs([resource])[resource].result(self.timeout)
        except KafkaException as error:
            raise self._error(error, f"describe topic {name}") from error
        source = ConfigSource.DYNAMIC_TOPIC_CONFIG.value
        return {key: entry.value for key, entry in entries.items() if _number(entry.source) == source}

    def _finish(self, future: Future[Any], what: str, harmless: int | None = None) -> bool:
        """Wait for an answer; False where it is the harmless refusal."""
        try:
            future.result(self.timeout)
        except KafkaException as error:
            if error.args[0].code() == harmless:
                return False
            raise self._error(error, what) from error
        return True

    def _error(self, error: KafkaException, what: str) -> ServiceError:
        reason: KafkaError = error.args[0]
        message = f"{what} on {self.bootstrap_servers}: {reason.str()}"
        if reason.retriable() or reason.code() in (
            KafkaError._TRANSPORT,
            KafkaError._ALL_BROKERS_DOWN,
            KafkaError._TIMED_OUT,
        ):
            return ServiceUnavailable(_SERVICE, message)
        return RequestRefused(_SERVICE, message)


def _number(source: Any) -> int:
    return int(getattr(source, "value", source))
