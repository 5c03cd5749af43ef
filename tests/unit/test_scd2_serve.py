"""The merge server: questions over its socket, one merge at a time, and what happens when somebody goes away."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_rtlake.exceptions import ServiceUnavailable, UserError
from airflow_provider_rtlake.scd2.request import MergeRequest
from airflow_provider_rtlake.scd2.serve import Asking, Server, default_socket, follow

ONE = MergeRequest(history="n.t_h", base="n.t", bronze="n.b", collection="public.t")


class Merges:
    """Stands where the Spark job stands."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.at_once = self.most_at_once = 0
        self.ended: list[str] = []
        self.go_on = threading.Event()
        self.go_on.set()
        self.begun = threading.Event()

    def __call__(self, requests: Sequence[MergeRequest], step: Callable[[str], None]) -> list[dict[str, Any]]:
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        try:
            self.begun.set()
            self.asked += [request.history for request in requests]
            while not self.go_on.wait(0.01):
                step("waiting")
            self.ended += [request.history for request in requests]
            return [{"table": request.history, "waiting": 0, "behind": False} for request in requests]
        finally:
            self.at_once -= 1


@pytest.fixture
def merges() -> Merges:
    return Merges()


@pytest.fixture
def server(tmp_path: Path, merges: Merges) -> Iterator[Server]:
    found = Server(tmp_path / "run" / "merge.sock", merges)
    ready = threading.Event()
    thread = threading.Thread(target=found.run, args=(ready.set,))
    thread.start()
    assert ready.wait(10)
    yield found
    found.stop()
    thread.join(10)
    assert not thread.is_alive()
    assert not found.path.exists()


def test_answers_in_turn(server: Server, merges: Merges) -> None:
    answers: list[Any] = []
    askers = [threading.Thread(target=lambda: answers.append(Asking(server.path).results([ONE]))) for _ in range(5)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join(10)
    assert answers == [[{"table": "n.t_h", "waiting": 0, "behind": False}]] * 5
    assert merges.most_at_once == 1


def test_the_socket_is_for_its_group_only(server: Server) -> None:
    assert server.path.stat().st_mode & 0o7777 == 0o660


def test_a_merge_stops_when_nobody_waits_for_it(server: Server, merges: Merges) -> None:
    merges.go_on.clear()
    asking = Asking(server.path)
    failed: list[Exception] = []

    def ask() -> None:
        try:
            asking.results([ONE])
        except Exception as error:  # what the killed task sees
            failed.append(error)

    asker = threading.Thread(target=ask)
    asker.start()
    assert merges.begun.wait(10)
    asking.take_back()
    asker.join(10)
    assert isinstance(failed[0], ServiceUnavailable)
    deadline = time.monotonic() + 10
    while merges.at_once and time.monotonic() < deadline:
        time.sleep(0.01)
    merges.go_on.set()
    assert Asking(server.path).results([ONE])  # the server goes on
    assert merges.ended == ["n.t_h"]


def test_a_second_server_is_refused_and_a_dead_ones_socket_is_replaced(server: Server, merges: Merges) -> None:
    with pytest.raises(UserError, match="another merge server listens"):
        Server(server.path, merges).run()
    assert Asking(server.path).results([ONE])


def test_nobody_there_and_nonsense(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ServiceUnavailable, match="rtlake scd2 serve"):
        Asking(tmp_path / "none.sock").results([ONE])
    assert "not a list of merge requests" in server._answer(b'{"a": 1}\n', None)["error"]  # type: ignore[arg-type]
    monkeypatch.delenv("RTLAKE_HOME", raising=False)
    with pytest.raises(UserError, match="RTLAKE_HOME"):
        default_socket()


def test_following_merges_when_bronze_moved_and_again_while_something_waits(tmp_path: Path) -> None:
    looks, results = iter([1, 1, 2, 2, 2]), iter([0, 1, 0])
    merged: list[int] = []
    stopped = threading.Event()
    current = [0]

    def moved(_: MergeRequest) -> object:
        current[0] = next(looks, 2)
        return current[0]

    def merge(requests: Sequence[MergeRequest], step: Callable[[str], None]) -> list[dict[str, Any]]:
        merged.append(current[0])
        if len(merged) == 3:
            stopped.set()
        return [{"table": "n.t_h", "waiting": next(results), "behind": False}]

    begin = time.monotonic()
    follow(Server(tmp_path / "s", merge), [ONE], moved, 0.01, stopped)
    assert merged == [1, 2, 2]  # once while nothing moved, and again where a change waits
    assert 0.5 < time.monotonic() - begin < 10  # but not at once
