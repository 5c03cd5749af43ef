"""Property 21: a key that was erased is nowhere any more, and does not come back."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from airflow_provider_rtlake.clients.kafka import KafkaClient, Topic
from airflow_provider_rtlake.demo.access import ICEBERG, Access
from airflow_provider_rtlake.exceptions import UserError
from airflow_provider_rtlake.kit.stack import Stack
from airflow_provider_rtlake.lanes.topics import commit
from airflow_provider_rtlake.scd2.erase import EraseRequest, erase
from airflow_provider_rtlake.scd2.erasure import Places, await_realtime
from airflow_provider_rtlake.scd2.lake import Lake
from airflow_provider_rtlake.scd2.needles import Needles
from airflow_provider_rtlake.scd2.returned import returned
from airflow_provider_rtlake.streams.load import load_connectors
from tests.scd2_lake import LakeTable
from tests.scd2_source import Source

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(1800)]
SECRET = "Jane Q. Public, 5 Elm Street"
NEEDLES = Needles.of(['{"id":7}'], [SECRET])


def found(table: LakeTable) -> dict[str, int]:
    """Files below the table's locations that hold the key or the secret."""
    result = {}
    for name in (table.request.history, table.request.changes, table.request.bronze):
        lake = Lake(table.spark, table.request.catalog, "main")
        here = lake.table(name)
        assert here is not None
        listing = here.java.io().listPrefix(str(here.java.location()) + "/").iterator()
        while listing.hasNext():
            path = str(listing.next().location())
            with lake.store.open(path) as file:
                count = NEEDLES.in_file(path, file.read())
            if count:
                result[path] = count
    return result


def test_property_21_erasure_with_proof(lake_table: Callable[..., LakeTable], access: Access) -> None:
    source, table = Source(), lake_table()
    table.arrive(source.begin(10).insert(7, a=SECRET).insert(8, a="other").commit())
    table.merge()
    table.arrive(source.begin(20).update(7, b=5).update(8, b=6).commit())
    table.merge()
    request = EraseRequest(merge=table.request, keys=('{"id":7}',))
    with pytest.raises(UserError, match=r'key \{"id":7\} is current'):
        erase(table.spark, request)
    table.arrive(source.begin(30).change_key(7, 9, a="moved").commit())
    table.merge()
    assert len(found(table)) > 5
    others = [row for row in table.rows() if row.scd2_key != '{"id":7}']

    report = erase(table.spark, request)

    assert report.remains == {}
    assert found(table) == {}
    assert report.rows[table.request.history] == 2
    assert report.rows[table.request.bronze] == 3
    assert report.files > 10
    assert SECRET in report.values
    after = table.rows()
    assert [(row.scd2_key, row.a, row.b) for row in after] == [(row.scd2_key, row.a, row.b) for row in others]
    assert {row.scd2_previous_key for row in after} == {None}
    # What is delivered again, or replayed from the start, stays away; a row that is made under the key later does not.
    again = [
        raw._replace(topic_offset=raw.topic_offset + 1000, kafka_ts=raw.kafka_ts + 1000)
        for group in source.messages
        for raw in group
    ]
    assert returned(access.trino, ICEBERG, table.request.bronze, table.request.base) == {}
    table.arrive(again)
    mine = [raw.topic_offset for raw in again if raw.message_key == '{"id":7}']
    assert returned(access.trino, ICEBERG, table.request.bronze, table.request.base) == {0: mine}
    table.merge()
    assert '{"id":7}' not in table.versions()
    table.arrive(source.begin(40).insert(7, a="someone else").update(8, b=7).commit())
    assert returned(access.trino, ICEBERG, table.request.bronze, table.request.base) == {0: mine}
    table.merge()
    versions = table.versions()
    assert [row.a for row in versions['{"id":7}']] == ["someone else"]
    assert [row.b for row in versions['{"id":8}']] == [None, 6, 7]


def test_records_stay_until_the_real_time_lane_has_read_them(stack: Stack, tmp_path: Path) -> None:
    unique = f"it_erased_{uuid.uuid4().hex[:8]}"
    declared = {"connector": unique.replace("_", "-"), "topic_prefix": unique, "publication": unique}
    (tmp_path / "it.yaml").write_text(json.dumps({**declared, "tables": {"public.t": {}}}))
    (connector,) = load_connectors(tmp_path)
    (stream,) = connector.streams
    kafka = KafkaClient({"bootstrap.servers": stack.kafka_bootstrap})
    places = Places(stream, kafka, stack.source_access("rtlake_source"), tmp_path)
    kafka.ensure([Topic(stream.topic, 1)])
    try:
        assert await_realtime(places, stream.topic, {0: 5}, limit=0) is None  # the lane never ran
        commit(kafka, stream.realtime_group, stream.topic, {0: 3})
        late = await_realtime(places, stream.topic, {0: 5}, limit=0)
        assert late is not None
        assert "partition 0 at 3 of 5" in late
        commit(kafka, stream.realtime_group, stream.topic, {0: 5})
        assert await_realtime(places, stream.topic, {0: 5}, limit=0) is None
    finally:
        kafka.delete([stream.topic])
