"""The Debezium configuration, its plan, and when a new epoch begins."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from airflow_provider_rtlake.exceptions import UserError
from airflow_provider_rtlake.streams.connect_config import Epoch, epoch_of, placeholder_of, render_config
from airflow_provider_rtlake.streams.connect_plan import action_of, diff_config, plan_undeclared
from airflow_provider_rtlake.streams.epochs import Observed, decide
from airflow_provider_rtlake.streams.model import Connector, Table
from airflow_provider_rtlake.streams.schema import Column, TableSchema
from airflow_provider_rtlake.streams.source import SourceTable
from airflow_provider_rtlake.streams.source_access import SourceAccess
from airflow_provider_rtlake.streams.source_deploy import SlotState

PASSWORD = "${directory:/secrets:debezium}"
ACCESS = SourceAccess(
    host="db",
    port=5432,
    dbname="rtsales",
    user="rtlake",
    password="canary-of-the-owner",
    replication_user="debezium",
    replication_password=PASSWORD,
)
EPOCH = Epoch(3, "771", 1)


def connector(**declared: Any) -> Connector:
    tables = declared.pop("tables", {"public.orders": Table()})
    return Connector(connector="sales", topic_prefix="shop", tables=tables, **declared)


def rendered(one: Connector) -> dict[str, str]:
    tables = {
        stream.source: SourceTable(
            TableSchema(stream.schema_name, stream.table_name, (Column("id", "integer"),), stream.table.key or ("id",)),
            None,
            True,
        )
        for stream in one.streams
    }
    return render_config(one, tables, ACCESS, epoch=EPOCH, placeholder="gone", bootstrap_servers="kafka:9092")


def test_fixed_decisions() -> None:
    config = rendered(connector())
    fixed = {
        "value.converter.schemas.enable": "true",
        "key.converter.schemas.enable": "false",
        "decimal.handling.mode": "string",
        "interval.handling.mode": "string",
        "column.propagate.source.type": ".*",
        "provide.transaction.metadata": "true",
        "tombstones.on.delete": "true",
        "skipped.operations": "none",
        "snapshot.mode": "initial",
        "publication.autocreate.mode": "disabled",
        "database.password": PASSWORD,
    }
    assert {key: config[key] for key in fixed} == fixed
    assert all(isinstance(value, str) for value in config.values())


def test_no_secret_in_the_config() -> None:
    assert "canary" not in json.dumps(rendered(connector()))
    assert "canary" not in repr(ACCESS)


def test_epoch_and_placeholder_are_read_back() -> None:
    config = rendered(connector())
    assert epoch_of(config) == EPOCH
    assert placeholder_of(config) == "gone"
    assert epoch_of({}) is None and epoch_of({"transforms.epoch.value.literal": "x"}) is None
    # a literal that began with a digit would arrive as a number
    assert config["transforms.epoch.value.literal"].startswith('"')


def test_declared_settings_win_over_defaults() -> None:
    one = connector(config={"poll.interval.ms": 500, "database.tcpKeepAlive": True}, heartbeat_ms=0)
    config = rendered(one)
    assert (config["poll.interval.ms"], config["database.tcpKeepAlive"]) == ("500", "true")
    assert "heartbeat.action.query" not in config and config["heartbeat.interval.ms"] == "0"
    assert config["message.prefix.exclude.list"] == r"rtlake\.heartbeat"  # the deployment sends some of its own


def test_a_heartbeat_is_a_transaction_only_where_log_piles_up_behind_the_slot() -> None:
    query = rendered(connector())["heartbeat.action.query"]
    assert "pg_logical_emit_message(coalesce(pg_current_wal_lsn() - confirmed_flush_lsn > 16777216, false)" in query
    assert query.endswith(f"WHERE slot_name = '{connector().slot_name}'")


def test_key_and_excluded_columns() -> None:
    one = connector(tables={"public.a": Table(key=("x", "y"), exclude=("z",)), "public.b": Table()})
    config = rendered(one)
    assert config["message.key.columns"] == r"(?-i)public\.a:x,y"
    assert config["column.exclude.list"] == r"(?-i)public\.a\.z"
    assert config["table.include.list"] == r"(?-i)public\.a,(?-i)public\.b"


def test_diff_hides_secrets_and_shows_references() -> None:
    settings = diff_config(
        {"a": "1", "database.password": "canary", "gone": "x"}, {"a": "2", "database.password": PASSWORD, "new": "y"}
    )
    assert [str(setting) for setting in settings] == [
        "~ a: 1 → 2",
        f"~ database.password: *** → {PASSWORD}",
        "- gone = x",
        "+ new = y",
    ]


def test_actions() -> None:
    config = rendered(connector())
    assert action_of(None, diff_config(None, config)) == "create"
    assert action_of(config, diff_config(config, config)) == "unchanged"
    assert action_of(config, diff_config({**config, "a": "b"}, config)) == "update"
    assert [plan.action for plan in plan_undeclared(["a", "b"], ["a"], prune=False)] == ["undeclared"]
    plans = plan_undeclared(["a", "b"], ["a"], prune=True)
    assert [(plan.connector, plan.action, plan.changes) for plan in plans] == [("b", "delete", True)]


DESIRED = rendered(connector())
SLOT = SlotState(system_id="771", timeline=1, exists=True, active=True)
RUNNING = Observed(config=DESIRED, has_offsets=True, trace="", slot=SLOT, recorded=3, publication=True, returned=())


def changed(**kinds: Any) -> Observed:
    slot = dataclasses.replace(SLOT, **kinds.pop("slot", {}))
    return dataclasses.replace(RUNNING, slot=slot, **kinds)


def test_goes_on_in_its_epoch() -> None:
    decision = decide(RUNNING, DESIRED, "sales")
    assert (decision.epoch, decision.new) == (EPOCH, False)
    # the slot is made by the first start, and the offsets come with the snapshot
    assert not decide(changed(slot={"exists": False}, has_offsets=False), DESIRED, "sales").new


@pytest.mark.parametrize(
    ("observed", "number", "reason"),
    [
        (changed(slot={"exists": False}), 4, "slot is gone"),
        (changed(slot={"lost": True}), 4, "thrown away log"),
        (changed(slot={"system_id": "772"}), 4, "another database system"),
        (changed(slot={"timeline": 2}), 4, "branched off"),
        (changed(publication=False), 4, "publication was gone"),
        (changed(returned=("public.orders",)), 4, "changes of public.orders, captured before, were not published"),
        (changed(trace="... but this is no longer available on the server. Reconfigure"), 4, "no longer holds"),
        (changed(config={**DESIRED, "slot.name": "rtlake_old"}), 4, "another name"),
        (changed(config={**DESIRED, "database.dbname": "old"}), 4, "another database is read"),
        (changed(config={**DESIRED, "topic.prefix": "old"}), 4, "another prefix"),
        (changed(config={"slot.name": "x"}), 4, "not deployed by this project"),
        (changed(recorded=7), 7, "begun and not finished"),
        (changed(config=None, slot={"exists": False}, recorded=0), 1, "first deployment"),
        (changed(config=None, slot={"exists": False}, recorded=3), 4, "deployed anew"),
        (changed(config=None, slot={"active": False}, recorded=3), 4, "deployed anew"),
    ],
)
def test_new_epoch(observed: Observed, number: int, reason: str) -> None:
    decision = decide(observed, DESIRED, "sales")
    assert decision.new and reason in decision.reason
    assert decision.epoch.number == number
    assert (decision.epoch.system_id, decision.epoch.timeline) == (observed.slot.system_id, observed.slot.timeline)


@pytest.mark.parametrize(("slot", "name"), [({"active": True}, "rtlake_sales"), ({"active": False}, "somebodys_slot")])
def test_somebody_elses_slot_is_left_alone(slot: dict[str, Any], name: str) -> None:
    observed = changed(config=None, slot=slot, recorded=0)
    with pytest.raises(UserError, match="somebody else's"):
        decide(observed, {**DESIRED, "slot.name": name}, "sales")


def test_source_connection() -> None:
    fields: dict[str, Any] = {"host": "h", "port": None, "login": "l", "password": "p", "schema": "db"}
    plain = SourceAccess.of_connection(**fields, extra={})
    assert (plain.port, plain.dbname) == (5432, "db")
    with pytest.raises(UserError, match="no connection names the role"):
        plain.with_replication({})
    made = plain.with_replication({"database_login": "d", "secrets_dir": "/s", "database_secret": "f"})
    assert (made.replication_user, made.replication_password) == ("d", "${directory:/s:f}")
    with pytest.raises(UserError, match="clear text"):
        SourceAccess.of_connection(**fields, extra={"replication_password": "canary"})
