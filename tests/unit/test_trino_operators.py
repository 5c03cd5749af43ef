"""When a check through Trino is skipped, and when a table that is not there is a failure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSkipException

from airflow_provider_rtlake.checks.names import TableName
from airflow_provider_rtlake.exceptions import NotFound
from airflow_provider_rtlake.operators.trino import (
    TrinoScd2InvariantsCheckOperator,
    TrinoScd2SourceCheckOperator,
    _TrinoCheckOperator,
)

HISTORY, BRONZE, SOURCE = "nessie.default.t_scd2_iceberg", "nessie.bronze.t", "postgresql.public.t"
TYPES = {"id": "bigint", "scd2_key": "varchar"}
SNAPSHOT = ("10:10:", 100)


class Told:
    """Collects what a task pushes."""

    def __init__(self) -> None:
        self.pushed: dict[str, Any] = {}

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushed[key] = value


def run(
    operator: _TrinoCheckOperator, tables: Mapping[str, int], answers: Mapping[str, list[Any]] | None = None
) -> Any:
    """Run a check on a Trino that has these tables.

    :param tables: name → rows older than an hour.
    :param answers: part of a query → its rows.
    """

    def columns(table: TableName) -> dict[str, str]:
        if str(table) not in tables:
            raise NotFound("Trino", f"there is no table {table}")
        return TYPES

    def query(sql: str, **_: Any) -> list[Any]:
        for part, rows in (answers or {}).items():
            if part in sql:
                return rows
        for name in (HISTORY, BRONZE, SOURCE):
            if TableName.parse(name).sql in sql:
                columns(TableName.parse(name))
                return [[tables[name]]]
        raise AssertionError(sql)

    operator.columns, operator.query = columns, query  # type: ignore[method-assign, assignment]
    told = Told()
    try:
        return operator.execute({"ti": told})  # type: ignore[typeddict-item]
    finally:
        operator.told = told.pushed  # type: ignore[attr-defined]


def invariants(**options: Any) -> TrinoScd2InvariantsCheckOperator:
    return TrinoScd2InvariantsCheckOperator(task_id="t", table=HISTORY, keys=["scd2_key"], **options)


def equals_source(**options: Any) -> TrinoScd2SourceCheckOperator:
    return TrinoScd2SourceCheckOperator(
        task_id="t",
        history=HISTORY,
        checkpoint="nessie.default.t_scd2_checkpoint",
        schema="public",
        table="t",
        timeout=0,
        **options,
    )


@pytest.mark.parametrize("make", [invariants, equals_source])
@pytest.mark.parametrize("tables", [{}, {BRONZE: 0}, {BRONZE: 0, SOURCE: 5}])
def test_a_history_is_not_missed_while_nothing_is_there_to_make_it_from(make: Any, tables: dict[str, int]) -> None:
    with pytest.raises(AirflowSkipException):
        run(make(fed_from=BRONZE), tables)


@pytest.mark.parametrize("make", [invariants, equals_source])
def test_a_history_that_was_never_made_is_a_failure(make: Any) -> None:
    operator = make(fed_from=BRONZE)
    with pytest.raises(AirflowFailException, match=r"there is no table .* though nessie.bronze.t holds 7 changes"):
        run(operator, {BRONZE: 7, SOURCE: 5})
    assert "does the merge fail" in operator.told["failure"]


def test_without_a_table_that_feeds_it_a_missing_table_is_a_failure() -> None:
    with pytest.raises(AirflowFailException, match="there is no table"):
        run(invariants(), {BRONZE: 0})


def test_a_source_that_is_gone_is_a_failure_that_says_so() -> None:
    answers = {"SELECT scd2_key": [['{"id":1}']]}
    with pytest.raises(AirflowFailException, match=r"postgresql\.public\.t, the source of .* dropped or renamed"):
        run(equals_source(fed_from=BRONZE), {HISTORY: 1, BRONZE: 1}, answers)


def test_a_history_that_is_being_rebuilt_has_no_position() -> None:
    answers = {
        "SELECT scd2_key": [['{"id":1}']],
        "pg_attribute": [["id", False]],
        "rtlake_present, rtlake_snapshot": [[True, *SNAPSHOT, '["1"]', "hash"]],
        "SELECT position": [[None, "rebuild"]],
    }
    with pytest.raises(AirflowFailException, match="the merges only got to 0:\nnothing is merged yet"):
        run(equals_source(), {HISTORY: 1, SOURCE: 1}, answers)
