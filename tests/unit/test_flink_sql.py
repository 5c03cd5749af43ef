"""The renderers of the Flink jobs: quoting, fingerprints, hostile names, refusals."""

from __future__ import annotations

import dataclasses
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_rtlake.exceptions import DeclarationError, UserError
from airflow_provider_rtlake.flink_sql.backfill import copy_job, refill_job
from airflow_provider_rtlake.flink_sql.bronze import bronze_job, notifications_job, transactions_job
from airflow_provider_rtlake.flink_sql.job import EARLIEST, RenderedJob, StartPoint, job_id_for
from airflow_provider_rtlake.flink_sql.quoting import identifier, literal, table
from airflow_provider_rtlake.flink_sql.realtime import realtime_job
from airflow_provider_rtlake.flink_sql.script import script_job, split_statements
from airflow_provider_rtlake.flink_sql.settings import LaneSettings
from airflow_provider_rtlake.streams.model import Connector
from airflow_provider_rtlake.streams.schema import Column, TableSchema

SETTINGS = LaneSettings(bootstrap="broker:9092", nessie_uri="http://nessie/api/v2", s3_endpoint="http://s3")
CONNECTOR = Connector.model_validate(
    {
        "connector": "c",
        "topic_prefix": "shop",
        "tables": {
            "public.sales": {},
            "public.plain": {"realtime": False},
            "public.files": {"parquet_staging": "sales_cdc"},
        },
    }
)
SALES, PLAIN, FILES = CONNECTOR.streams
SCHEMA = TableSchema(
    "public",
    "sales",
    (
        Column("id", "bigint", nullable=False),
        Column("name", "text", toastable=True),
        Column("price", "numeric", 10, 2),
        Column("made", "timestamp with time zone"),
    ),
    ("id",),
    "full",
)
HOSTILE = ["a.b", 'q"uote', "it's", "sp ace", "emoji😀", "back`tick", "select", "UPPER", "position", "a;b", "--x", "\\"]


def text(job: RenderedJob, start: StartPoint = EARLIEST) -> str:
    return ";\n".join(job.statements(start))


@given(st.text())
def test_a_literal_holds_any_text(value: str) -> None:
    quoted = literal(value)
    assert quoted[0] == quoted[-1] == "'"
    assert quoted[1:-1].replace("''", "") == value.replace("'", "")
    assert quoted[1:-1].replace("''", "'") == value


@given(st.text())
def test_an_identifier_holds_any_name(value: str) -> None:
    assert identifier(value)[1:-1].replace("``", "`") == value


def test_a_table_is_split_at_its_first_dot() -> None:
    assert table("bronze.a.b", "rtlake") == "`rtlake`.`bronze`.`a.b`"


def test_no_key_and_no_password_is_rendered() -> None:
    everything = text(bronze_job(SALES, SETTINGS)) + text(realtime_job(SALES, SCHEMA, SETTINGS))
    assert not re.search(r"access[-.]key|secret|password", everything, re.IGNORECASE)


def test_the_start_is_no_part_of_the_fingerprint_but_of_the_statements() -> None:
    job = bronze_job(SALES, SETTINGS)
    start = StartPoint("offsets", {1: 7, 0: 5})
    assert "'partition:0,offset:5;partition:1,offset:7'" in text(job, start)
    assert "'scan.startup.mode' = 'specific-offsets'" in text(job, start)
    assert "specific-offsets" not in text(job)
    assert job.fingerprint == bronze_job(SALES, SETTINGS).fingerprint


def test_the_group_start_falls_back_to_the_earliest() -> None:
    assert StartPoint("group").source_options()["properties.auto.offset.reset"] == "earliest"


@pytest.mark.parametrize(
    "changed",
    [
        bronze_job(SALES, dataclasses.replace(SETTINGS, bronze_interval_ms=5000)),
        bronze_job(SALES, dataclasses.replace(SETTINGS, bootstrap="other:9092")),
        bronze_job(FILES, SETTINGS),
        transactions_job(CONNECTOR, SETTINGS),
    ],
)
def test_whatever_changes_a_job_changes_its_fingerprint(changed: RenderedJob) -> None:
    assert changed.fingerprint != bronze_job(SALES, SETTINGS).fingerprint


def test_an_added_column_changes_the_realtime_job_and_not_bronze() -> None:
    more = dataclasses.replace(SCHEMA, columns=(*SCHEMA.columns, Column("note", "text")))
    assert realtime_job(SALES, more, SETTINGS).fingerprint != realtime_job(SALES, SCHEMA, SETTINGS).fingerprint


def test_the_session_carries_name_fingerprint_and_job_id() -> None:
    job = bronze_job(SALES, SETTINGS)
    properties = job.session_properties("a" * 32, restore="s3://x")
    assert properties["pipeline.name"] == SALES.bronze_job
    assert properties["pipeline.global-job-parameters"] == f"rtlake.fingerprint:{job.fingerprint}"
    assert properties["$internal.pipeline.job-id"] == "a" * 32
    assert properties["execution.state-recovery.path"] == "s3://x"


def test_job_ids_differ_by_every_part() -> None:
    assert len(job_id_for("a", "b")) == 32
    assert len({job_id_for("a", "b"), job_id_for("ab"), job_id_for("a", "b", "")}) == 3


def test_bronze_is_exactly_once_and_keeps_the_texts_uncut() -> None:
    job = bronze_job(SALES, SETTINGS)
    assert job.properties["execution.checkpointing.mode"] == "EXACTLY_ONCE"
    assert "JSON_QUERY" not in job.insert
    assert "'flink.max-continuous-empty-commits' = '2147483647'" in text(job)
    assert "'shop.dead_letters'" in text(job)


@pytest.mark.parametrize(
    ("payload", "whole"),
    [
        ('{"op":"u","source":{"lsn":1}}', False),
        ('{"before":null,"after":null,"source":{"lsn":1},"op":"c"}', False),
        ('{"before":{"a":"\\"after\\":{"},"after":null,"op":"u"}', False),
        ('{"before":{"id":1},"after":{"id":2},"op":"u"}', True),
        ('{"after":{},"op":"c"}', True),
    ],
)
def test_bronze_takes_a_change_with_its_row_only(payload: str, whole: bool) -> None:
    """As the real-time lane: a row that is missing is as bad as one that is null."""
    found = re.search(r"`payload` NOT LIKE '%(.*after.*)%'", text(bronze_job(SALES, SETTINGS)))
    assert found is not None
    assert (found.group(1) in payload) is whole


def test_parquet_files_are_written_only_where_declared() -> None:
    assert "'s3://streaming/staging/sales_cdc'" in text(bronze_job(FILES, SETTINGS))
    assert "filesystem" not in text(bronze_job(SALES, SETTINGS))


def test_an_update_to_null_is_not_coalesced() -> None:
    insert = realtime_job(SALES, SCHEMA, SETTINGS).insert
    assert "CASE WHEN `payload`.`op` = 'd' THEN `payload`.`before`.`name` ELSE `payload`.`after`.`name` END" in insert
    assert "COALESCE(`payload`.`before`" not in insert


def test_hostile_column_names_are_quoted_and_sent_as_identifiers() -> None:
    columns = tuple(Column(name, "text") for name in HOSTILE)
    schema = dataclasses.replace(SCHEMA, columns=(Column("id", "bigint"), *columns))
    job = realtime_job(SALES, schema, SETTINGS)
    for name in HOSTILE:
        assert f"`after`.{identifier(name)}" in job.insert
    sink = next(statement for statement in job.setup if "`current`" in statement)
    names = re.findall(r"^  `(.+?)` [A-Z]", sink, re.MULTILINE)
    assert len(set(names)) == len(names) == len(HOSTILE) + 5
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", name) for name in names)
    assert "position_src" in names


@pytest.mark.parametrize("name", ["line\nbreak", "carriage\rreturn"])
def test_a_line_break_in_a_column_name_is_refused(name: str) -> None:
    schema = dataclasses.replace(SCHEMA, columns=(*SCHEMA.columns, Column(name, "text")))
    with pytest.raises(DeclarationError, match="line break"):
        realtime_job(SALES, schema, SETTINGS)


def test_an_incomplete_replica_identity_is_refused_with_the_fix() -> None:
    schema = dataclasses.replace(SCHEMA, name='sa"les', replica_identity="default")
    with pytest.raises(DeclarationError, match=r'ALTER TABLE "public"."sa""les" REPLICA IDENTITY FULL'):
        realtime_job(SALES, schema, SETTINGS)


def test_a_table_without_key_or_lane_is_refused() -> None:
    with pytest.raises(DeclarationError) as caught:
        realtime_job(PLAIN, dataclasses.replace(SCHEMA, key=()), SETTINGS)
    assert len(caught.value.problems) == 2


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (Column("x", "date"), "* 86400000"),
        (Column("x", "timestamp without time zone"), "/ 1000"),
        (Column("x", "timestamp without time zone", 3), "LEAST(TRY_CAST(`payload`.`after`.`x` AS BIGINT), 9223372"),
        (Column("x", "timestamp with time zone"), "EXTRACT(EPOCH"),
        (Column("x", "numeric"), "'POSITIVE_INFINITY'"),
        (Column("x", "boolean"), "TRY_CAST(`payload`.`after`.`x` AS BOOLEAN)"),
        (Column("x", "integer", dimensions=1), "`payload`.`after`.`x` AS `after_x`"),
        (Column("x", "jsonb"), "`payload`.`after`.`x` AS `after_x`"),
    ],
)
def test_each_type_is_converted(column: Column, expected: str) -> None:
    schema = dataclasses.replace(SCHEMA, columns=(*SCHEMA.columns, column))
    assert expected in realtime_job(SALES, schema, SETTINGS).insert


TYPES = ["smallint", "integer", "bigint", "real", "double precision", "numeric", "money", "boolean", "date", "jsonb"]
TIMES = ["timestamp without time zone", "timestamp with time zone", "time without time zone", "interval", "uuid"]


def test_no_text_of_a_value_can_end_the_lane() -> None:
    """A CAST throws where the text is none of its type, and the job would restart for ever."""
    columns = tuple(Column(name, name) for name in [*TYPES, *TIMES])
    job = realtime_job(SALES, dataclasses.replace(SCHEMA, columns=(*SCHEMA.columns, *columns)), SETTINGS)
    unsafe = re.findall(r"(?<!TRY_)CAST\((.{20})", job.insert)
    safe = ("'NaN'", "'Infinity'", "'-Infinity'", "`topic_", "`message_headers`", "NULL")
    assert [text for text in unsafe if not text.startswith(safe)] == []


def test_the_refill_is_the_lane_over_another_topic() -> None:
    lane = realtime_job(SALES, SCHEMA, SETTINGS)
    refill = refill_job(SALES, lane, "copy")
    assert refill.insert == lane.insert
    assert refill.views == lane.views
    assert refill.name != lane.name
    assert refill.source is not None
    assert refill.source.topic == "copy"
    assert refill.source.options["scan.bounded.mode"] == "latest-offset"
    assert refill.source.group != lane.source.group  # type: ignore[union-attr]
    assert SALES.bronze_table.split(".")[1] in copy_job(SALES, "copy", SETTINGS).insert


def test_property_21_a_copy_leaves_out_messages_of_erased_keys() -> None:
    assert "WHERE" not in copy_job(SALES, "copy", SETTINGS, {}).insert
    insert = copy_job(SALES, "copy", SETTINGS, {1: [7], 0: [3, 5], 2: []}).insert
    assert insert.endswith(
        "WHERE NOT ((`topic_partition` = 0 AND `topic_offset` IN (3, 5)) "
        "OR (`topic_partition` = 1 AND `topic_offset` IN (7)))"
    )


def test_a_script_is_split_outside_quotes_comments_and_statement_sets() -> None:
    script = """-- a; comment
    CREATE TABLE `x;y` (a STRING) WITH ('k'='v;''w'); /* ; */
    EXECUTE STATEMENT SET BEGIN
      INSERT INTO a SELECT CASE WHEN b = 'x' THEN 1 ELSE 2 END FROM c;
      INSERT INTO b SELECT 1;
    END;
    """
    statements = split_statements(script)
    assert len(statements) == 2
    assert statements[0].startswith("CREATE TABLE `x;y`")
    assert statements[1].endswith("END")
    assert statements[1].count("INSERT") == 2


@pytest.mark.parametrize(
    "script", ["SELECT 1", "", "INSERT INTO a SELECT 1; INSERT INTO b SELECT 2", "INSERT INTO a SELECT 1; SET 'x'='y'"]
)
def test_a_script_that_does_not_end_in_its_one_job_is_refused(script: str) -> None:
    with pytest.raises(UserError, match="start a job"):
        script_job("j", script, {})


def test_each_topic_follows_the_types_that_its_pinot_table_is_declared_with() -> None:
    declared = {"price": "STRING"}
    plain = text(realtime_job(SALES, SCHEMA, SETTINGS))
    current = text(realtime_job(SALES, SCHEMA, SETTINGS, declared=declared))
    history = text(realtime_job(SALES, SCHEMA, SETTINGS, declared_history={"before_price": "STRING"}))
    assert "`price` DOUBLE" in plain and "`after_price` DOUBLE" in plain
    assert "`price` STRING,\n  `made`" in current and "`after_price` DOUBLE" in current
    assert "`price` DOUBLE" in history and "`after_price` STRING" in history and "`before_price` STRING" in history


def test_notifications_have_a_table_of_their_own() -> None:
    job = notifications_job(SALES.connector, SETTINGS)
    assert job.source is not None and job.source.topic == "shop.notifications"
    assert "`rtlake`.`bronze`.`shop_notifications`" in job.insert


def test_a_row_that_leaves_a_deferrable_key_comes_before_all_that_arrive_at_it() -> None:
    swapping = dataclasses.replace(SCHEMA, deferrable_key=True)
    assert "__debezium.newkey" in text(realtime_job(SALES, swapping, SETTINGS))
    assert "__debezium.newkey" not in text(realtime_job(SALES, SCHEMA, SETTINGS))
