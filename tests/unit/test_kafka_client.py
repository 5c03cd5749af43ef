"""What the client does while a partition has no leader yet."""

from __future__ import annotations

from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from airflow_provider_rtlake.clients.kafka import KafkaClient

PLACE = TopicPartition("t", 0)


class Electing:
    """A consumer of a partition that answers with an error some times."""

    def __init__(self, code: int, times: int) -> None:
        self.code, self.left = code, times

    def get_watermark_offsets(self, place: TopicPartition, timeout: float) -> tuple[int, int]:
        self.left -= 1
        if self.left >= 0:
            raise KafkaException(KafkaError(self.code))
        return 3, 9


def bounds(consumer: Any, timeout: float = 5.0) -> tuple[int, int]:
    client = KafkaClient({"bootstrap.servers": "127.0.0.1:1", "log_level": 0}, timeout=timeout)
    found: Consumer = consumer
    return client._bounds(found, PLACE)


@pytest.mark.parametrize("code", [KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE])
def test_a_partition_made_just_now_is_asked_again(code: int) -> None:
    assert bounds(Electing(code, times=3)) == (3, 9)


def test_a_partition_that_gets_no_leader_is_not_waited_for_without_end() -> None:
    with pytest.raises(KafkaException):
        bounds(Electing(KafkaError.NOT_LEADER_FOR_PARTITION, times=10**6), timeout=0.2)


def test_any_other_answer_is_final() -> None:
    consumer = Electing(KafkaError.TOPIC_AUTHORIZATION_FAILED, times=1)
    with pytest.raises(KafkaException):
        bounds(consumer)
    assert consumer.left == 0
