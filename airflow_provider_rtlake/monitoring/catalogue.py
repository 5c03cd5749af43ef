"""Every metric of the exporter: the one list that code, documentation and tests share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Metric:
    """One metric.

    :param help: what it says, with its unit.
    :param labels: names of its labels.
    :param kind: ``counter`` where it only grows while the thing counted lives.
    """

    help: str
    labels: tuple[str, ...] = ()
    kind: Literal["gauge", "counter"] = "gauge"


METRICS: dict[str, Metric] = {
    "rtlake_declarations_valid": Metric("1 if every file under connectors/ can be read and is free of mistakes"),
    "rtlake_connector_state": Metric(
        "1 for the state that a connector is in (ABSENT: declared only)", ("connector", "state")
    ),
    "rtlake_connector_task_running": Metric("1 if a task of a connector runs", ("connector", "task")),
    "rtlake_lane_lag_messages": Metric(
        "Messages of a captured table's topic that a lane has not committed", ("lane", "table")
    ),
    "rtlake_lane_oldest_waiting_seconds": Metric(
        "Age of the oldest message that a lane has not committed, 0 if it has them all", ("lane", "table")
    ),
    "rtlake_consumer_group_lag_messages": Metric(
        "Messages that a consumer group with members has still to read", ("group", "topic")
    ),
    "rtlake_topic_last_message_timestamp_seconds": Metric(
        "When a captured table's last change was written", ("table",)
    ),
    "rtlake_flink_taskmanagers": Metric("Registered TaskManagers"),
    "rtlake_flink_slots_free": Metric("Free task slots"),
    "rtlake_flink_job_state": Metric(
        "1 for the state that a job is in (ABSENT: a declared lane without a job at work)", ("flink_job", "state")
    ),
    "rtlake_flink_job_tasks_not_running": Metric("Tasks of a job that do not process records", ("flink_job",)),
    "rtlake_flink_job_restarts": Metric("Restarts since a job's start", ("flink_job",), "counter"),
    "rtlake_flink_job_checkpoints_failed": Metric("Failed checkpoints since a job's start", ("flink_job",), "counter"),
    "rtlake_flink_job_checkpoint_age_seconds": Metric(
        "Time since a job's last completed checkpoint began", ("flink_job",)
    ),
    "rtlake_flink_job_checkpoint_duration_seconds": Metric(
        "Duration of a job's last completed checkpoint", ("flink_job",)
    ),
    "rtlake_pinot_partitions_consuming": Metric("Partitions that a Pinot table reads", ("table",)),
    "rtlake_pinot_partitions": Metric("Partitions that a Pinot table should read", ("table",)),
    "rtlake_pinot_lag_messages": Metric("Messages of its topic that a Pinot table has not read", ("table",)),
    "rtlake_pinot_oldest_waiting_seconds": Metric(
        "Age of the oldest message that a Pinot table has not read, 0 if it has them all", ("table",)
    ),
    "rtlake_history_age_seconds": Metric(
        "How long the oldest bronze commit that the history lacks has been waiting, 0 if there is none", ("table",)
    ),
    "rtlake_history_bronze_commits_waiting": Metric("Bronze commits that the history lacks", ("table",)),
    "rtlake_history_merged_timestamp_seconds": Metric("When the last merge was published", ("table",)),
    "rtlake_merge_duration_seconds": Metric("Duration of the last merge that published something", ("table",)),
    "rtlake_merge_changes": Metric("Changes in the last merge that published something", ("table",)),
    "rtlake_merge_waiting_changes": Metric("Changes that waited for the rest of their transaction then", ("table",)),
    "rtlake_dead_letters_open": Metric(
        "Messages that could not be read and were neither replayed nor dismissed", ("connector",)
    ),
    "rtlake_service_up": Metric("1 if a service answered a real request", ("service",)),
    "rtlake_probe_up": Metric("1 if the last round of a probe got its answers", ("probe",)),
    "rtlake_probe_duration_seconds": Metric("Duration of a probe's last round", ("probe",)),
    "rtlake_probe_timestamp_seconds": Metric("When a probe last got its answers", ("probe",)),
}


@dataclass(frozen=True)
class Sample:
    """One figure.

    :param name: a key of :data:`METRICS`.
    :param value: in the metric's unit.
    :param labels: values in the order of the metric's labels.
    """

    name: str
    value: float
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.labels) != len(METRICS[self.name].labels):
            raise ValueError(f"{self.name} has the labels {METRICS[self.name].labels}, not {self.labels}")
