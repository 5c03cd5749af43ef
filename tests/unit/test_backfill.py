"""A backfill ends well where bronze holds what is no change for the lane, and where retention removes messages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from airflow_provider_rtlake.clients.flink import FlinkClient
from airflow_provider_rtlake.clients.kafka import KafkaClient
from airflow_provider_rtlake.flink_sql.job import RenderedJob
from airflow_provider_rtlake.flink_sql.settings import LaneSettings
from airflow_provider_rtlake.lanes import backfill as module
from airflow_provider_rtlake.lanes.backfill import Incomplete, backfill
from airflow_provider_rtlake.lanes.lanes import LaneRunner, lanes_of
from airflow_provider_rtlake.streams.model import Connector
from airflow_provider_rtlake.streams.schema import Column, TableSchema
from tests.unit.flink_server import State, flink_server

CONNECTOR = Connector.model_validate({"connector": "shop", "topic_prefix": "shop", "tables": {"public.a": {}}})
(STREAM,) = CONNECTOR.streams
SCHEMA = TableSchema("public", "a", (Column("id", "bigint", nullable=False),), ("id",), "full")
SETTINGS = LaneSettings(bootstrap="b:1", nessie_uri="http://n", s3_endpoint="http://s")
COPY, HISTORY = f"{STREAM.topic}.backfill", str(STREAM.history_topic)
IN_BRONZE, CHANGES = 5, 4  # one message of bronze is no change


class Topics(KafkaClient):
    """Topics with a first and a next offset, in one partition each."""

    def __init__(self) -> None:
        self.ends = {STREAM.topic: (0, 9), COPY: (0, 0), HISTORY: (10, 40)}

    def topics(self) -> dict[str, int]:
        return dict.fromkeys(self.ends, 1)

    def ensure(self, topics: Any) -> list[str]:
        return []

    def delete(self, topics: Any) -> list[str]:
        return []

    def end_offsets(self, topic: str) -> dict[int, tuple[int, int]]:
        return {0: self.ends[topic]} if topic in self.ends else {}

    def read_all(self, topic: str) -> Iterator[tuple[bytes | None, bytes | None, dict[str, str]]]:
        return iter(())

    def write(self, topic: str, messages: int, *, removed: int = 0) -> None:
        """Some are written, and some old ones go."""
        first, end = self.ends[topic]
        self.ends[topic] = (first + removed, end + messages)


class Bench:
    """A backfill whose two jobs do nothing but move the ends of their topics."""

    def __init__(self, state: State, client: FlinkClient) -> None:
        self.flink, self.kafka = state, Topics()
        self.runner = LaneRunner(client, SETTINGS, self.kafka)
        self.taken: list[int] = [CHANGES]  # by the history topic, of each refill
        self.removed, self.refills, self.rewound = 0, 0, False

    def run_job(self, client: FlinkClient, job: RenderedJob, timeout: float) -> None:
        if job.name.startswith("backfill.copy."):
            self.kafka.write(COPY, IN_BRONZE)
        else:
            self.kafka.write(HISTORY, self.taken[min(self.refills, len(self.taken) - 1)], removed=self.removed)
            self.refills += 1

    def fill(self) -> int:
        lane = next(
            lane for lane in lanes_of([CONNECTOR], {STREAM.source: SCHEMA}, SETTINGS) if lane.kind == "realtime"
        )
        return backfill(self.runner, STREAM, lane, timeout=5).messages

    def counted(self) -> bool:
        return "SELECT COUNT(*) FROM `changes`" in self.flink.statements


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    with flink_server() as (url, state), FlinkClient(url, url, attempts=2, timeout=5) as client:
        state.rows["SELECT COUNT(*)"] = [[CHANGES]]
        found = Bench(state, client)

        def rewind(*_: Any, **__: Any) -> None:
            found.rewound = True

        set_to: Callable[..., None] = monkeypatch.setattr
        set_to(module, "_run", found.run_job)
        set_to(module, "next_offsets", lambda *_: {})
        set_to(LaneRunner, "rewind", rewind)
        yield found


def test_a_message_that_is_no_change_is_not_waited_for(bench: Bench) -> None:
    assert bench.fill() == CHANGES
    assert (bench.refills, bench.rewound, bench.counted()) == (1, True, True)
    source = next(text for text in bench.flink.statements if "CREATE TEMPORARY TABLE `topic`" in text)
    assert f"'{COPY}'" in source and "'scan.bounded.mode' = 'latest-offset'" in source  # what the refill itself reads


def test_the_usual_backfill_counts_nothing(bench: Bench) -> None:
    bench.taken = [IN_BRONZE]
    assert bench.fill() == IN_BRONZE
    assert (bench.refills, bench.rewound, bench.counted()) == (1, True, False)


def test_old_segments_that_go_meanwhile_are_no_loss(bench: Bench) -> None:
    bench.removed = 20
    assert bench.fill() == CHANGES
    assert bench.refills == 1


def test_changes_that_did_not_arrive_are_sent_again_and_then_an_error(bench: Bench) -> None:
    bench.taken = [CHANGES - 1, CHANGES]
    assert bench.fill() == CHANGES
    assert bench.refills == 2
    bench.taken, bench.refills, bench.rewound = [0], 0, False
    bench.kafka.ends[COPY] = (0, 0)
    with pytest.raises(Incomplete, match=f"took 0 of {CHANGES} changes, 3 times"):
        bench.fill()
    assert (bench.refills, bench.rewound) == (3, False)
