"""The topics that feed Pinot, as the deployment of its tables needs them."""

from __future__ import annotations

from airflow_provider_rtlake.clients.kafka import KafkaClient
from airflow_provider_rtlake.clients.kafka import Topic as KafkaTopic
from airflow_provider_rtlake.pinot_config.render import Topic


class PinotTopics:
    """Topics of one Kafka cluster.

    :param kafka: its client.
    """

    def __init__(self, kafka: KafkaClient) -> None:
        self.kafka = kafka

    @property
    def bootstrap_servers(self) -> str:
        """The brokers."""
        return self.kafka.bootstrap_servers

    def describe(self, name: str) -> Topic | None:
        """A topic with its settings; None where there is none.

        :param name: topic.
        """
        partitions = self.kafka.topics().get(name)
        if partitions is None:
            return None
        return Topic(name, partitions, 0, self.kafka.topic_config(name))

    def ensure(self, topic: Topic) -> list[str]:
        """Create a topic, give it more partitions, correct its settings.

        :param topic: as it should be.
        :return: what was changed, in words.
        """
        copies = topic.replication_factor
        return self.kafka.ensure([KafkaTopic(topic.name, topic.partitions, topic.config, copies)])

    def delete(self, name: str) -> bool:
        """Delete a topic; True if it was there.

        :param name: topic.
        """
        return bool(self.kafka.delete([name]))
