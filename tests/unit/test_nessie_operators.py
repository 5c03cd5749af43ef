"""The Nessie operators do nothing twice, lose nothing, and delete nothing that readers look at."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException
from airflow.sdk import Connection

from airflow_provider_rtlake.hooks.nessie import NessieHook
from airflow_provider_rtlake.operators.nessie import (
    NessieCreateBranchOperator,
    NessieCreateTagOperator,
    NessieDeleteBranchOperator,
    NessieMergeBranchOperator,
)
from tests.unit.nessie_server import Nessie, serving

SALES = ("default", "sales")
CONTEXT: Any = {"ti": SimpleNamespace(dag_id="d", run_id="r", task_id="t", map_index=-1)}


@pytest.fixture
def nessie(monkeypatch: pytest.MonkeyPatch) -> Iterator[Nessie]:
    with serving(Nessie()) as server:
        url = urlsplit(server.url)
        connection = Connection(
            conn_id="rtlake_nessie", conn_type="nessie", host=url.hostname, port=url.port, schema="http"
        )
        monkeypatch.setattr(NessieHook, "get_connection", lambda *_: connection)
        yield server


def merge(**kwargs: Any) -> dict[str, Any]:
    return NessieMergeBranchOperator(task_id="t", branch="b", **kwargs).execute(CONTEXT)


def test_a_second_try_keeps_the_branch(nessie: Nessie) -> None:
    create = NessieCreateBranchOperator(task_id="c", branch="b")
    assert create.execute(CONTEXT)["changed"] is True
    nessie.put("b", SALES, "s3://1")
    assert create.execute(CONTEXT)["changed"] is False
    assert nessie.head("b").contents
    reset = NessieCreateBranchOperator(task_id="c", branch="b", if_exists="reset").execute(CONTEXT)
    assert reset["changed"] is True
    assert not nessie.head("b").contents


def test_a_merge_publishes_once(nessie: Nessie) -> None:
    NessieCreateBranchOperator(task_id="c", branch="b").execute(CONTEXT)
    nessie.put("b", SALES, "s3://1")
    first = merge(delete_branch=True)
    assert first["changed"] is True
    assert first["keys"] == ["default.sales"]
    assert "b" not in nessie.references
    assert merge(delete_branch=True)["changed"] is False


def test_a_lost_answer_is_looked_up_and_not_repeated(nessie: Nessie) -> None:
    NessieCreateBranchOperator(task_id="c", branch="b").execute(CONTEXT)
    nessie.put("b", SALES, "s3://1")
    nessie.lose = ["/history/merge"]
    assert merge()["changed"] is True
    assert sum(line.endswith("/merge") for line in nessie.requests) == 1


def test_an_old_merge_of_another_run_does_not_count(nessie: Nessie) -> None:
    NessieCreateBranchOperator(task_id="c", branch="b").execute(CONTEXT)
    nessie.put("b", SALES, "s3://1")
    merge(delete_branch=True)
    other: Any = {"ti": SimpleNamespace(dag_id="d", run_id="other", task_id="t", map_index=-1)}
    with pytest.raises(AirflowFailException, match="not found"):
        NessieMergeBranchOperator(task_id="t", branch="b", delete_branch=True).execute(other)


def test_a_conflict_fails_for_good_and_keeps_the_branch(nessie: Nessie) -> None:
    NessieCreateBranchOperator(task_id="c", branch="b").execute(CONTEXT)
    nessie.put("b", SALES, "s3://1")
    nessie.put("main", SALES, "s3://2")
    with pytest.raises(AirflowFailException, match=r"default\.sales"):
        merge(delete_branch=True)
    assert "b" in nessie.references


def test_the_readers_branch_is_never_deleted(nessie: Nessie) -> None:
    with pytest.raises(AirflowFailException, match="readers"):
        NessieDeleteBranchOperator(task_id="d", branch="main").execute(CONTEXT)
    assert NessieDeleteBranchOperator(task_id="d", branch="gone").execute(CONTEXT)["changed"] is False


def test_a_tag_moves_only_when_told(nessie: Nessie) -> None:
    assert NessieCreateTagOperator(task_id="g", tag="v1").execute(CONTEXT)["changed"] is True
    assert NessieCreateTagOperator(task_id="g", tag="v1").execute(CONTEXT)["changed"] is False
    nessie.put("main", SALES, "s3://1")
    with pytest.raises(AirflowFailException):
        NessieCreateTagOperator(task_id="g", tag="v1").execute(CONTEXT)
    moved = NessieCreateTagOperator(task_id="g", tag="v1", move=True).execute(CONTEXT)
    assert moved["hash"] == nessie.head("main").hash
