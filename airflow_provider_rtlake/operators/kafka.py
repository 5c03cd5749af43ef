"""A check of what the lanes could not read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow.providers.common.compat.sdk import AirflowSkipException, BaseOperator, Context

from airflow_provider_rtlake.exceptions import CheckFailed
from airflow_provider_rtlake.operators.errors import no_retry_of_terminal_errors


class KafkaDeadLettersCheckOperator(BaseOperator):
    """No message waits among the dead letters: each that the lanes could not read was replayed or dismissed.

    A table whose dead letters are open lacks these changes, however well its other checks go.

    :param dead_letter_topic: where the lanes put them (templated).
    :param topics: only those that came from these topics; by default all (templated).
    :param except_topics: not those that came from these, such as topics that have checks of their own (templated).
    :param samples: at most so many are shown, with key and reason.
    :param kafka_conn_id: connection id (templated).
    :return: ``open`` (none), ``resolved``, the number of those replayed or dismissed.
    """

    template_fields: Sequence[str] = ("kafka_conn_id", "dead_letter_topic", "topics", "except_topics")
    ui_color = "#dfe3f5"

    def __init__(
        self,
        *,
        dead_letter_topic: str,
        topics: Sequence[str] = (),
        except_topics: Sequence[str] = (),
        samples: int = 10,
        kafka_conn_id: str = "rtlake_kafka",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.dead_letter_topic = dead_letter_topic
        self.topics = topics
        self.except_topics = except_topics
        self.samples = samples
        self.kafka_conn_id = kafka_conn_id

    def execute(self, context: Context) -> dict[str, Any]:
        """Read the dead letters.

        :param context: the task's context.
        :raises AirflowFailException: there are open ones; the message names their keys and reasons.
        :raises AirflowSkipException: the topic does not exist, so no lane was deployed yet.
        """
        with no_retry_of_terminal_errors():
            try:
                return self.check()
            except CheckFailed as failure:
                context["ti"].xcom_push(key="failure", value=str(failure))
                raise

    def check(self) -> dict[str, Any]:
        """Judge them.

        :raises CheckFailed: there are open ones.
        """
        # Not at the top: DAG files that name an operator need not wait for Kafka's client.
        from airflow_provider_rtlake.checks.dead_letters import describe
        from airflow_provider_rtlake.hooks.kafka import kafka_client
        from airflow_provider_rtlake.lanes.dead_letters import fold

        kafka = kafka_client(self.kafka_conn_id)
        if self.dead_letter_topic not in kafka.topics():
            raise AirflowSkipException(f"there is no topic {self.dead_letter_topic} yet; lakehouse_deploy makes it")
        letters = [
            letter
            for letter in fold(kafka.read_all(self.dead_letter_topic))
            if (not self.topics or letter.topic in self.topics) and letter.topic not in self.except_topics
        ]
        waiting = [letter for letter in letters if letter.status == "open"]
        if waiting:
            raise CheckFailed(describe(waiting, self.samples))
        return {"open": 0, "resolved": len(letters)}
