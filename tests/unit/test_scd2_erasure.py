"""The suppression list, and the search in files."""

from __future__ import annotations

import io
import zlib

import pyarrow as pa
import pyarrow.parquet as pq

from airflow_provider_rtlake.scd2.bronze import COLUMNS
from airflow_provider_rtlake.scd2.change import RawChange
from airflow_provider_rtlake.scd2.needles import Needles, unpacked_avro
from airflow_provider_rtlake.scd2.position import Position
from airflow_provider_rtlake.scd2.suppress import Suppression
from tests.scd2_source import Source

NEEDLES = Needles.of(['{"id":7}'], ["secret text", "abc"])


def varint(number: int) -> bytes:
    number <<= 1
    out = b""
    while number > 0x7F:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])


def text(content: bytes) -> bytes:
    return varint(len(content)) + content


def test_short_texts_are_no_needles() -> None:
    assert NEEDLES.values == {"secret text"}


def test_a_key_is_found_inside_json_too() -> None:
    assert NEEDLES.in_bytes(b'{"before":"{\\"id\\":7}"}') == 1
    assert NEEDLES.in_bytes(b'{"id":77}') == 0


def test_parquet_is_read_column_by_column() -> None:
    file = io.BytesIO()
    table = pa.table(
        {"a": ["x", "a secret text"], "h": pa.array([[("k", '{"id":7}')], []], pa.map_(pa.string(), pa.string()))}
    )
    pq.write_table(table, file, compression="zstd")
    assert NEEDLES.in_file("x.parquet", file.getvalue()) == 2


def test_avro_is_inflated() -> None:
    block = zlib.compress(b"bound: secret text", 9)[2:-4]
    head = b"Obj\x01" + varint(1) + text(b"avro.codec") + text(b"deflate") + varint(0) + b"S" * 16
    content = head + varint(1) + text(block) + b"S" * 16
    assert NEEDLES.in_bytes(content) == 0
    assert b"secret text" in unpacked_avro(content)
    assert NEEDLES.in_file("m.avro", content) == 1


def test_property_21_what_is_suppressed_stays_away_and_what_comes_later_does_not() -> None:
    source = Source()
    old = source.begin(10).insert(7, a="x").insert(8, a="y").commit()
    reached = Position(1, 1, 10**6, 0).text
    listed = Suppression.of({}).with_keys(['{"id":7}'], reached)
    again = Suppression.of(listed.properties)
    assert again == listed
    assert '"id"' not in str(listed.properties)
    assert [again.drops(raw) for raw in old] == [True, False]
    source.commit_lsn = 10**6
    assert not again.drops(source.begin(20).update(7, a="z").commit()[0])
    assert not Suppression.of({}).drops(old[0])
    assert not again.drops(old[0]._replace(payload="{"))


def test_property_21_rows_of_bronze_are_dropped_by_their_key() -> None:
    source = Source()
    raws = source.begin(10).insert(7, a="x").insert(8, a="y").truncate().commit()
    columns = {name: [getattr(raw, name) for raw in raws] for name in RawChange._fields}
    columns["headers"] = [list((raw.headers or {}).items()) for raw in raws]
    rows = pa.table(
        [
            pa.array(columns[field.name], pa.int64() if pa.types.is_timestamp(field.type) else field.type).cast(
                field.type
            )
            for field in COLUMNS
        ],
        schema=COLUMNS,
    )
    listed = Suppression.of({}).with_keys(['{"id":7}'], Position(1, 1, 10**6, 0).text)
    assert listed.keep(rows)["message_key"].to_pylist() == ['{"id":8}', None]
    assert Suppression("").keep(rows) is rows
