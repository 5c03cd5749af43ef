"""Values: exact, typed, and refused where they cannot be."""

from __future__ import annotations

import base64
import json
import math
import struct
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from airflow_provider_rtlake.scd2.change import ChangeReader, Placeholder, canonical_key, key_hash
from airflow_provider_rtlake.scd2.columns import read_rows
from airflow_provider_rtlake.scd2.fold import record_hash
from airflow_provider_rtlake.scd2.tables import (
    HISTORY_COLUMNS,
    Layout,
    SchemaIncompatible,
    arrow_schema,
    column_types,
    create_statement,
    evolution,
    python_values,
)
from airflow_provider_rtlake.scd2.values import (
    MAX_DATE,
    MAX_TIMESTAMP,
    MIN_DATE,
    MIN_TIMESTAMP,
    NAN,
    ValueRefused,
    column_type,
    days_from_civil,
    same,
    timestamp_text,
    widened,
)
from tests.scd2_memory import Memory
from tests.scd2_source import Source, column, envelope
from tests.unit.test_scd2_bulk import bronze

DEBEZIUM = "io.debezium.time."
NUMERIC = {"type": "NUMERIC", "length": "10", "scale": "2"}


def read(field: dict[str, Any], value: Any, **options: Any) -> tuple[str, Any]:
    kind = column_type(field, **options)
    return kind.iceberg, kind.read(value)


@pytest.mark.parametrize(
    ("field", "value", "kind", "expected"),
    [
        (column("c", **NUMERIC), "12.30", "decimal(10,2)", Decimal("12.30")),
        (column("c", **NUMERIC), "12.3", "decimal(10,2)", Decimal("12.30")),
        (column("c", **NUMERIC), "-0.01", "decimal(10,2)", Decimal("-0.01")),
        (
            column("c", type="NUMERIC", length="38", scale="18"),
            "12345678901234567890.123456789012345678",
            "decimal(38,18)",
            Decimal("12345678901234567890.123456789012345678"),
        ),
        (column("c", type="NUMERIC"), "0.1000", "string", "0.1000"),
        (column("c", type="NUMERIC", length="39", scale="0"), "1" * 39, "string", "1" * 39),
        (column("c", type="NUMERIC", length="2", scale="-3"), "12000", "string", "12000"),
        (column("c", "int64", type="INT8"), 9223372036854775807, "long", 9223372036854775807),
        (column("c", "int16", type="INT2"), -3, "int", -3),
        (column("c", "boolean", type="BOOL"), False, "boolean", False),
        (column("c", "double", type="FLOAT8"), 4.9e-324, "double", 4.9e-324),
        (column("c", "double", type="FLOAT8"), "-Infinity", "double", -math.inf),
        (column("c", "float", type="FLOAT4"), 0.1, "float", struct.unpack("f", struct.pack("f", 0.1))[0]),
        (column("c", type="TEXT"), "", "string", ""),
        (column("c", type="BPCHAR"), "ab   ", "string", "ab   "),
        (column("c", "bytes", type="BYTEA"), base64.b64encode(b"\x00\xff").decode(), "binary", b"\x00\xff"),
        (column("c", "bytes", type="BYTEA"), "", "binary", b""),
        (column("c", "int32", semantic=DEBEZIUM + "Date"), 20000, "date", 20000),
        (column("c", "int64", semantic=DEBEZIUM + "MicroTime"), 86400000000, "string", "24:00:00"),
        (column("c", "int32", semantic=DEBEZIUM + "Time"), 1500, "string", "00:00:01.500000"),
        (column("c", "int64", semantic=DEBEZIUM + "MicroTimestamp"), -1, "timestamp", -1),
        (column("c", "int64", semantic=DEBEZIUM + "Timestamp"), 1234, "timestamp", 1234000),
        (column("c", semantic=DEBEZIUM + "ZonedTimestamp"), "1970-01-01T00:00:01.5Z", "timestamptz", 1500000),
        (column("c", semantic=DEBEZIUM + "ZonedTime"), "10:00:00+02:00", "string", "10:00:00+02:00"),
        (column("c", semantic=DEBEZIUM + "Interval"), "P1Y2M3DT4H5M6.78S", "string", "P1Y2M3DT4H5M6.78S"),
        (column("c", semantic="io.debezium.data.Uuid"), "0000-01", "string", "0000-01"),
        (column("c", semantic="io.debezium.data.Json", type="JSONB"), '{"a": 1.10}', "string", '{"a": 1.10}'),
        (column("c", semantic="io.debezium.data.Enum"), "happy", "string", "happy"),
        ({**column("c", "array"), "items": {"type": "int32"}}, [1, None, 3], "list<int>", [1, None, 3]),
        (
            {**column("c", "array"), "items": {"type": "string"}},
            ["a,b", None, 'q"x'],
            "list<string>",
            ["a,b", None, 'q"x'],
        ),
        ({**column("c", "array"), "items": {"type": "string"}}, [], "list<string>", []),
        (column("c", "struct", type="POINT"), {"x": 1.5, "y": 2}, "string", '{"x":1.5,"y":2}'),
        (column("c", "nobody-knows"), "x", "string", "x"),
    ],
)
def test_property_12_values_come_through_exactly(field: dict[str, Any], value: Any, kind: str, expected: Any) -> None:
    found = read(field, value)
    assert found == (kind, expected)
    assert type(found[1]) is type(expected)
    if isinstance(expected, Decimal):
        assert found[1].as_tuple().exponent == expected.as_tuple().exponent


@pytest.mark.parametrize("special", ["NAN", "POSITIVE_INFINITY", "NEGATIVE_INFINITY"])
@pytest.mark.parametrize("numeric", [NUMERIC, {"type": "NUMERIC"}])
def test_property_12_nan_and_infinities_are_refused_unless_the_column_is_text(
    special: str, numeric: dict[str, str]
) -> None:
    with pytest.raises(ValueRefused, match=r"column c: .*accept_loss"):
        read(column("c", **numeric), special)
    spelled = {"NAN": "NaN", "POSITIVE_INFINITY": "Infinity", "NEGATIVE_INFINITY": "-Infinity"}[special]
    assert read(column("c", **numeric), special, as_text=True) == ("string", spelled)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (column("c", **NUMERIC), "1.005"),
        (column("c", **NUMERIC), "100000000.00"),
        (column("c", **NUMERIC), "-123456789"),
    ],
)
def test_a_value_without_an_exact_form_is_refused_by_column_with_its_remedy(field: dict[str, Any], value: Any) -> None:
    with pytest.raises(ValueRefused, match=r"column c: .*accept_loss.*rtlake scd2 rebuild"):
        read(field, value)


WRONG: list[tuple[dict[str, Any], Any]] = [
    (column("c", **NUMERIC), "x"),
    (column("c", **NUMERIC), ["1"]),
    (column("c", "int64"), "x"),
    (column("c", "int32", type="INT4"), 2**31),
    (column("c", "int32", type="INT4"), 1.5),
    (column("c", "int32", semantic=DEBEZIUM + "Date"), 10**12),
    (column("c", "boolean"), "yes"),
    (column("c", "bytes"), "*"),
    (column("c", semantic=DEBEZIUM + "ZonedTimestamp"), "yesterday"),
    ({**column("c", "array"), "items": {"type": "string"}}, "abc"),
]


@pytest.mark.parametrize(("field", "value"), WRONG)
def test_a_value_that_is_not_of_its_columns_type_makes_the_row_unread_and_stops_nothing(
    field: dict[str, Any], value: Any
) -> None:
    source = Source(columns=[column("id", "int64", type="INT8"), field])
    facts = {"lsn": 1, "txId": 5, "ts_us": 9, "sequence": '["7","8"]'}
    good, bad = (
        source.raw("c", number, None, {"id": number, "c": one}, **facts) for number, one in ((1, None), (2, value))
    )
    batch, unread = read_rows(bronze([good, bad]), ChangeReader(), 0)
    assert batch.key.to_pylist() == ['{"id":1}']
    assert [(one.topic_offset, one.message_key) for one in unread] == [(2, '{"id":2}')]
    assert "column c: " in unread[0].reason


@pytest.mark.parametrize(
    "wrong", [{"op": "x"}, {"message_key": "5"}, {"message_key": "[]"}, {"value_schema": '{"fields": "x"}'}]
)
@pytest.mark.parametrize("renamed", [{}, {"b": "a"}])
def test_a_message_that_is_no_change_is_unread_whichever_way_it_is_read(
    wrong: dict[str, str], renamed: dict[str, str]
) -> None:
    source = Source()
    good = source.begin(1).insert(1, a="x").insert(2, a="y").commit()
    bad = good[1]._replace(**wrong)
    if "op" in wrong:
        bad = bad._replace(payload=bad.payload.replace('"op": "c"', '"op": "x"'))
    batch, unread = read_rows(bronze([good[0], bad]), ChangeReader(renamed_from=renamed), 0)
    assert batch.key.to_pylist() == ['{"id":1}']
    assert [one.topic_offset for one in unread] == [2]


@pytest.mark.parametrize("image", [5, {"id": 1, "b": "x"}])
def test_a_before_image_that_cannot_be_read_tells_nothing_and_stops_nothing(image: Any) -> None:
    source, table = Source(), Memory()
    raws = source.begin(1).insert(1, a="x", b=1).update(1, a="y").update(1, a="z").commit()
    payload = json.loads(raws[1].payload) | {"before": image}
    table.merge([raws[0], raws[1]._replace(payload=json.dumps(payload)), raws[2]])
    assert [found[0][0] for found in table.facts()['{"id":1}']] == [("a", "z")]


def test_a_refused_value_names_key_and_place() -> None:
    source = Source(columns=[column("id", "int64"), column("a", **NUMERIC)])
    raw = source.begin(1).insert(7, a="NAN").commit()[0]
    with pytest.raises(ValueRefused, match=r'column a: NAN.*key \{"id":7\}, topic p\.public\.t partition 0 offset 1'):
        ChangeReader().read(raw)


@pytest.mark.parametrize(
    ("text", "micros"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1969-12-31T23:59:59.999999Z", -1),
        ("2026-11-21T05:11:12.123456Z", 1795237872123456),
        ("2026-11-21T07:11:12.123456+02:00", 1795237872123456),
        ("2000-02-29T00:00:00-00:30", 951784200000000),
        ("infinity", MAX_TIMESTAMP),
        ("-infinity", MIN_TIMESTAMP),
        ("9999-12-31T23:59:59.999999Z", MAX_TIMESTAMP),
        ("0001-01-01T00:00:00Z", MIN_TIMESTAMP),
        ("-0043-03-15T00:00:00Z", days_from_civil(-43, 3, 15) * 86_400_000_000),
    ],
)
def test_property_13_timestamps_are_microseconds_utc(text: str, micros: int) -> None:
    assert timestamp_text(text) == micros


def test_property_13_infinite_dates_follow_one_rule() -> None:
    date = column("c", "int32", semantic=DEBEZIUM + "Date")
    stamp = column("c", "int64", semantic=DEBEZIUM + "MicroTimestamp")
    assert [read(date, value)[1] for value in (2146033979, -2147472691)] == [MAX_DATE, MIN_DATE]
    assert [read(stamp, value)[1] for value in (2**63 - 1, -(2**63))] == [MAX_TIMESTAMP, MIN_TIMESTAMP]
    assert [read(date, value)[1] for value in (-622191234, -625821272)] == [MAX_DATE, MIN_DATE]  # from a snapshot
    millis = column("c", "int64", semantic=DEBEZIUM + "Timestamp")
    sent = (9223372036825200000, -9223372036832400000)
    assert [read(millis, value)[1] for value in sent] == [MAX_TIMESTAMP, MIN_TIMESTAMP]
    assert timestamp_text("+292269055-12-02T23:00:00.000000Z") == MIN_TIMESTAMP  # in an array


def test_property_13_times_that_64_bits_cannot_hold_are_refused() -> None:
    stamp = column("c", "int64", semantic=DEBEZIUM + "MicroTimestamp")
    with pytest.raises(ValueRefused, match="cannot hold"):
        read(stamp, -9223372036853775810)  # 294276-12-31, run over
    with pytest.raises(ValueRefused, match="cannot hold"):
        timestamp_text("+294276-12-31T23:59:59.999999Z")


def test_days_agree_with_the_calendar() -> None:
    from datetime import date, timedelta

    for days in range(-719_162, 2_932_896, 9973):
        day = date(1970, 1, 1) + timedelta(days=days)
        assert days_from_civil(day.year, day.month, day.day) == days


def test_same_and_hash_tell_values_apart() -> None:
    assert same(NAN, float("nan")) and not same(0.0, -0.0) and not same(None, "") and same([1], [1])
    values = [
        None,
        "",
        "1",
        1,
        1.0,
        True,
        Decimal("1"),
        Decimal("1.0"),
        b"1",
        [1],
        ["1"],
        "NaN",
        NAN,
        -0.0,
        0.0,
        [None],
        [],
    ]
    assert len({record_hash({"c": value}, frozenset()) for value in values}) == len(values)
    assert record_hash({"a": "x", "b": "y"}, frozenset()) == record_hash({"b": "y", "a": "x"}, frozenset())
    assert record_hash({"a": "x,y"}, frozenset()) != record_hash({"a": "x", "y": ""}, frozenset())


def test_property_9_placeholders_of_every_form() -> None:
    placeholder = Placeholder("s3cret")
    raw = b"s3cret"
    assert "s3cret" in placeholder and base64.b64encode(raw).decode() in placeholder
    assert ["s3cret"] in placeholder and list(raw) in placeholder
    for value in (None, "", "other", [], ["other"], 5, [5]):
        assert value not in placeholder


@pytest.mark.parametrize(
    ("old", "new", "both"),
    [
        ("int", "long", "long"),
        ("long", "int", "long"),
        ("float", "double", "double"),
        ("decimal(10,2)", "decimal(12,2)", "decimal(12,2)"),
        ("decimal(12,2)", "decimal(10, 2)", "decimal(12,2)"),
        ("decimal(10,2)", "decimal(12,3)", None),
        ("string", "int", None),
        ("date", "timestamp", None),
        ("list<int>", "list<int>", "list<int>"),
    ],
)
def test_property_11_widening(old: str, new: str, both: str | None) -> None:
    assert widened(old, new) == both


def _shapes(*schemas: list[dict[str, Any]], **options: Any) -> list[Any]:
    reader = ChangeReader(**options)
    return [reader.shape(envelope(columns)) for columns in schemas]


def test_property_10_and_11_evolution_of_the_history() -> None:
    old = [column("id", "int32"), column("a"), column("n", **NUMERIC)]
    new = [column("id", "int64"), column("b"), column("n", **{**NUMERIC, "length": "12"}), column("extra", "boolean")]
    found = evolution(
        "h", {"id": "int", "a": "string", "n": "decimal(10, 2)"}, _shapes(old, new, renamed_from={"b": "a"}), {"b": "a"}
    )
    assert (found.renamed, found.added) == ((("a", "b"),), (("extra", "boolean"),))
    assert dict(found.widened) == {"id": "long", "n": "decimal(12,2)"}
    assert "ALTER TABLE h RENAME COLUMN `a` TO `b`" in found.statements("h")
    assert "ALTER TABLE h ALTER COLUMN `id` TYPE bigint" in found.statements("h")


def test_property_11_an_incompatible_type_names_table_column_and_both_types() -> None:
    with pytest.raises(SchemaIncompatible, match=r"default\.h: column a is string in the history, and long \(int8\)"):
        evolution("default.h", {"a": "string"}, _shapes([column("a", "int64", type="INT8")]), {})


def test_a_source_column_with_a_name_of_the_history_gets_another_one() -> None:
    found = evolution("h", {}, _shapes([column("is_current", "boolean")]), {})
    assert found.added == (("is_current_src", "boolean"),)


def test_hostile_column_names_are_quoted() -> None:
    statement = create_statement("`c`.`t`", [("Se lect`x.y", "int")], [])
    assert "`Se lect``x.y` int" in statement


ICEBERG = json.dumps(
    {
        "type": "struct",
        "fields": [
            {"id": 1, "name": "id", "required": False, "type": "long"},
            {"id": 2, "name": "n", "required": False, "type": "decimal(10, 2)"},
            {"id": 3, "name": "at", "required": False, "type": "timestamptz"},
            {"id": 4, "name": "d", "required": False, "type": "date"},
            {
                "id": 5,
                "name": "l",
                "required": False,
                "type": {"type": "list", "element-id": 99, "element": "date", "element-required": False},
            },
            {"id": 6, "name": "x", "required": False, "type": "binary"},
            {"id": 7, "name": "f", "required": False, "type": "float"},
            *(
                {
                    "id": 10 + number,
                    "name": name,
                    "required": False,
                    "type": {"timestamp": "timestamptz", "bigint": "long"}.get(kind, kind),
                }
                for number, (name, kind) in enumerate(HISTORY_COLUMNS)
            ),
        ],
    }
)


def test_versions_survive_the_way_into_rows_and_back() -> None:
    assert column_types(ICEBERG)["l"] == "list<date>"
    columns = [
        column("id", "int64"),
        column("n", **NUMERIC),
        column("at", semantic=DEBEZIUM + "ZonedTimestamp"),
        column("d", "int32", semantic=DEBEZIUM + "Date"),
        {**column("l", "array"), "items": {"type": "int32", "name": DEBEZIUM + "Date"}},
        column("x", "bytes"),
        column("f", "float"),
    ]
    source, table = Source(columns=columns), Memory()
    values = {"n": "-1.50", "at": "1969-12-31T23:59:59.999999Z", "d": -1, "l": [1, None], "x": "AP8=", "f": 0.1}
    source.begin(10).insert(1, **values).insert(2).insert(3, f="NaN", n="0.00", x="").commit()
    source.begin(20).update(1, n="2.00").delete(2).change_key(3, 4).commit()
    table.merge([raw for group in source.messages for raw in group])
    layout = Layout(ICEBERG, 2, frozenset())
    versions = [
        (version, index == len(group) - 1)
        for group in table.everything().values()
        for index, version in enumerate(group)
    ]
    rows = layout.rows(versions)
    assert {bucket for _, bucket in rows} <= {0, 1}
    back = []
    for part in rows.values():
        assert part.schema.field("id").metadata[b"PARQUET:field_id"] == b"1"
        hashes = part["scd2_key_hash"].to_pylist()
        assert hashes == sorted(hashes)
        placed = part.append_column("_file", pa.array(["f"] * part.num_rows)).append_column(
            "_pos", pa.array(range(part.num_rows), pa.int64())
        )
        back += [(stored.version, stored.last) for stored in layout.read(placed)]
    known = {(version.key, version.start): (version, last) for version, last in versions}
    assert len(back) == len(versions)
    from airflow_provider_rtlake.scd2.plan import equal

    for version, last in back:
        expected, expected_last = known[version.key, version.start]
        assert last == expected_last
        assert equal(version, expected)
        assert record_hash(version.values, frozenset()) == record_hash(
            {name: expected.values.get(name) for name in layout.columns}, frozenset()
        )


def test_dates_and_timestamps_are_read_as_numbers() -> None:
    schema = arrow_schema(ICEBERG)
    assert schema.field("effective_start_ts").type == pa.timestamp("us", tz="UTC")
    assert python_values(pa.chunked_array([pa.array([-1, None], pa.date32())])) == [-1, None]
    assert python_values(pa.chunked_array([pa.array([-1, None], pa.timestamp("us"))])) == [-1, None]


def test_a_key_has_one_spelling_and_one_hash() -> None:
    assert canonical_key('{"b": 1, "a": "ü"}') == '{"a":"ü","b":1}' == canonical_key('{"a":"\\u00fc","b":1}')
    assert key_hash('{"id":1}') == key_hash('{"id":1}') != key_hash('{"id":"1"}')
    assert -(2**63) <= key_hash("x") < 2**63
