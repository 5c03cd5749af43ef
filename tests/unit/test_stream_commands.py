"""The commands of the lanes read no more of a source than they need: a table that it lost does not disable them all."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from airflow_provider_rtlake.clients import captured
from airflow_provider_rtlake.commands import stream as commands
from airflow_provider_rtlake.exceptions import DeclarationError, ServiceUnavailable
from airflow_provider_rtlake.flink_sql.settings import LaneSettings
from airflow_provider_rtlake.lanes.lanes import LaneName, lanes_of, names_of, select, sources_needed
from airflow_provider_rtlake.pinot_config.gather import feeding
from airflow_provider_rtlake.streams.load import load_connectors
from airflow_provider_rtlake.streams.model import Connector, Stream
from airflow_provider_rtlake.streams.schema import Column, TableSchema
from tests.unit.flink_server import State, flink_server

DECLARED = """
connector: shop
topic_prefix: shop
tables:
  public.a: {}
  public.gone: {realtime: {history_table: gone_changes}}
  public.plain: {realtime: false}
"""
SETTINGS = LaneSettings(bootstrap="b:1", nessie_uri="http://n", s3_endpoint="http://s")
DROPPED = "tables.public.gone: the source has no such table; remove it"


def schema_of(stream: Stream) -> TableSchema:
    return TableSchema("public", stream.table_name, (Column("id", "bigint", nullable=False),), ("id",), "full")


class Stand:
    """A project whose source lost a table, and what was asked of it."""

    def __init__(self, folder: Path, state: State) -> None:
        self.folder, self.flink = folder, state
        self.connectors: list[Connector] = load_connectors(folder)
        self.asked: list[set[str] | None] = []
        self.down = False

    def captured(
        self, connectors: Iterable[Connector], access: Any, only: Collection[str] | None = None
    ) -> list[tuple[Stream, TableSchema]]:
        self.asked.append(None if only is None else set(only))
        streams = [s for c in connectors for s in c.streams if only is None or s.source in only]
        if self.down and streams:
            raise ServiceUnavailable("PostgreSQL", "no answer")
        if any(stream.source == "public.gone" for stream in streams):
            raise DeclarationError([DROPPED])
        return [(stream, schema_of(stream)) for stream in streams]

    def run(self, *arguments: str) -> Any:
        return CliRunner().invoke(commands.app, [*arguments, "--connectors", str(self.folder), "--json"])


@pytest.fixture
def stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stand]:
    (tmp_path / "shop.yaml").write_text(DECLARED)
    with flink_server() as (url, state):
        found = Stand(tmp_path, state)
        flink = SimpleNamespace(url=url, extra={"gateway_url": url})
        stack = SimpleNamespace(connection=lambda _: flink, source_access=None)
        kafka = SimpleNamespace(end_offsets=lambda topic: {}, topics=dict, ensure=lambda topics: [])
        monkeypatch.setattr(commands.Stack, "load", lambda home: stack)
        monkeypatch.setattr(commands, "settings_of", lambda stack: SETTINGS)
        monkeypatch.setattr(commands, "_kafka", lambda stack: kafka)
        monkeypatch.setattr(commands, "captured_tables", found.captured)
        yield found


def test_the_names_of_the_lanes_need_no_source(stand: Stand) -> None:
    schemas = {s.source: schema_of(s) for c in stand.connectors for s in c.streams}
    lanes = lanes_of(stand.connectors, schemas, SETTINGS)
    names = names_of(stand.connectors)
    assert [LaneName(lane.kind, lane.source, lane.name) for lane in lanes] == names
    assert [lane.job.name for lane in lanes] == [lane.name for lane in names]
    assert sources_needed(names) == {"public.a", "public.gone"}
    assert sources_needed(select(names, [], ["bronze", "transactions"])) == set()


def test_a_dropped_table_does_not_keep_others_from_being_applied(stand: Stand) -> None:
    done = stand.run("apply", "public.a", "--lane", "realtime")
    assert done.exit_code == 0, done.exception
    assert stand.asked == [{"public.a"}]
    assert [job["name"] for job in stand.flink.jobs.values()] == ["realtime.shop.public.a"]


def test_what_is_declared_is_not_pruned_where_one_table_is_applied(stand: Stand) -> None:
    kept = stand.flink.add_job("realtime.shop.public.gone")
    left = stand.flink.add_job("realtime.shop.public.former")
    assert stand.run("apply", "public.a", "--lane", "realtime", "--prune").exit_code == 0
    assert (stand.flink.jobs[kept]["state"], stand.flink.jobs[left]["state"]) == ("RUNNING", "FINISHED")


def test_lanes_are_stopped_without_their_source(stand: Stand) -> None:
    job = stand.flink.add_job("realtime.shop.public.gone")
    done = stand.run("stop", "public.gone")
    assert done.exit_code == 0 and stand.asked == []
    assert stand.flink.jobs[job]["state"] == "FINISHED"
    assert stand.run("stop", "public.nope").exit_code == 1


@pytest.mark.parametrize("down", [False, True])
def test_the_status_is_shown_where_the_source_cannot_be_compared_with(stand: Stand, down: bool) -> None:
    stand.down = down
    stand.flink.add_job("realtime.shop.public.gone")
    done = stand.run("status")
    told = json.loads(done.stdout)
    assert done.exit_code == 1 and told["problem"] == ("PostgreSQL: no answer" if down else DROPPED)
    states = {entry["job"]: (entry["state"], entry["as_declared"]) for entry in told["lanes"]}
    assert states["realtime.shop.public.gone"] == ("RUNNING", None)
    assert states["bronze.shop.public.gone"] == ("ABSENT", False)
    assert len(told["lanes"]) == len(names_of(stand.connectors))


def test_a_pinot_table_needs_its_own_captured_table_only(stand: Stand) -> None:
    assert feeding(stand.connectors, []) is None
    assert feeding(stand.connectors, ["a_current", "a_history", "no_captured_one"]) == {"public.a"}
    assert feeding(stand.connectors, ["gone_changes"]) == {"public.gone"}


def test_a_source_is_reached_for_the_wanted_tables_only_and_a_mistake_names_its_connector(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    def introspect(connection: Any, streams: list[Stream]) -> dict[str, TableSchema]:
        assert [stream.source for stream in streams] == ["public.gone"]
        raise DeclarationError([DROPPED])

    def unreachable(conn_id: str) -> Any:
        raise AssertionError("the source was reached")

    monkeypatch.setattr(captured, "introspect", introspect)
    source: Any = SimpleNamespace(for_connector=lambda connector: SimpleNamespace(connect=nullcontext))
    assert captured.captured_tables(stand.connectors, unreachable, {"crm.other"}) == []
    with pytest.raises(DeclarationError, match=r"^connector shop: tables\.public\.gone: the source has no such table"):
        captured.captured_tables(stand.connectors, lambda conn_id: source, {"public.gone"})
