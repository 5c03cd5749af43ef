"""Open dead letters fail a check, with their keys and reasons."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSkipException

from airflow_provider_rtlake.checks.dead_letters import describe
from airflow_provider_rtlake.exceptions import UserError
from airflow_provider_rtlake.hooks import kafka as kafka_hook
from airflow_provider_rtlake.lanes.dead_letters import DeadLetter
from airflow_provider_rtlake.operators.kafka import KafkaDeadLettersCheckOperator
from airflow_provider_rtlake.operators.values import truth

Message = tuple[bytes | None, bytes | None, dict[str, str]]


class Topics:
    """A dead-letter topic with these messages."""

    def __init__(self, messages: list[Message] | None) -> None:
        self.messages = messages

    def topics(self) -> dict[str, int]:
        return {} if self.messages is None else {"app.dead_letters": 1}

    def read_all(self, topic: str) -> Iterator[Message]:
        assert topic == "app.dead_letters"
        return iter(self.messages or [])


class Pushed:
    """A task instance that keeps what is pushed."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def xcom_push(self, *, key: str, value: Any) -> None:
        self.values[key] = value


def letter(topic: str, offset: int, reason: str = "no JSON", key: str | None = '{"id": 7}') -> Message:
    body = {"topic": topic, "partition": 0, "offset": offset, "reason": reason, "key": key, "value": "x"}
    return f"{topic}:0:{offset}".encode(), json.dumps(body).encode(), {}


def outcome(topic: str, offset: int, status: str) -> Message:
    return f"{topic}:0:{offset}".encode(), json.dumps({"status": status, "note": "seen"}).encode(), {}


def run(monkeypatch: pytest.MonkeyPatch, messages: list[Message] | None, **kwargs: Any) -> tuple[Any, Pushed]:
    monkeypatch.setattr(kafka_hook, "kafka_client", lambda conn_id: Topics(messages))
    pushed = Pushed()
    task = KafkaDeadLettersCheckOperator(task_id="t", dead_letter_topic="app.dead_letters", **kwargs)
    return task.execute({"ti": pushed}), pushed  # type: ignore[typeddict-item]


def test_an_open_one_fails_for_good_and_names_key_and_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    pushed = Pushed()
    monkeypatch.setattr(kafka_hook, "kafka_client", lambda conn_id: Topics([letter("app.public.a", 3)]))
    task = KafkaDeadLettersCheckOperator(task_id="t", dead_letter_topic="app.dead_letters")
    with pytest.raises(AirflowFailException, match=r'app\.public\.a:0:3: key \{"id": 7\}: no JSON'):
        task.execute({"ti": pushed})  # type: ignore[typeddict-item]
    assert "dead-letters list" in pushed.values["failure"]


def test_resolved_ones_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    messages = [letter("t", 1), letter("t", 2), outcome("t", 1, "replayed"), outcome("t", 2, "dismissed")]
    assert run(monkeypatch, messages)[0] == {"open": 0, "resolved": 2}


def test_those_of_other_topics_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    messages = [letter("theirs", 1)]
    assert run(monkeypatch, messages, topics=["ours"])[0] == {"open": 0, "resolved": 0}
    assert run(monkeypatch, messages, except_topics=["theirs"])[0] == {"open": 0, "resolved": 0}


def test_a_lane_that_was_never_deployed_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AirflowSkipException, match="lakehouse_deploy"):
        run(monkeypatch, None)


def test_many_and_long_ones_stay_readable() -> None:
    letters = [DeadLetter(f"t:0:{n}", "t", 0, n, reason="r" * 5_000, key=None) for n in range(30)]
    text = describe(letters, 10)
    assert "30 of t" in text
    assert "… and 20 more" in text
    assert "key none" in text
    assert len(text) < 5_000


@pytest.mark.parametrize(("value", "wanted"), [(True, True), (False, False), ("True", True), (" false ", False)])
def test_a_rendered_yes_or_no(value: bool | str, wanted: bool) -> None:
    assert truth(value, "prune") is wanted


def test_neither_yes_nor_no_is_refused() -> None:
    with pytest.raises(UserError, match="prune must be true or false"):
        truth("yes please", "prune")
