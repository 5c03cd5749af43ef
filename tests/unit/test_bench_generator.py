"""Messages of the generator, without a broker."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path

import fastavro
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_provider_rtlake.bench import generator, source
from airflow_provider_rtlake.exceptions import UserError


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> source.Events:
    return source.prepare(tmp_path_factory.mktemp("events"), events=500, synthetic=True)


def batches(path: Path, form: generator.Format = "json", pace: generator.Pace | None = None) -> list[generator._Batch]:
    return list(generator._batches(path, form, pace or generator.Pace()))


def test_every_row_is_a_message_keyed_by_the_trip(events: source.Events) -> None:
    rows = pq.read_table(events.path).to_pylist()
    (keys, values, bad, _), *rest = batches(events.path)
    assert not bad and not rest
    for row, value in zip(rows, values, strict=True):
        found = json.loads(value)
        for name, wanted in row.items():
            assert found[name] == (str(wanted) if name.startswith("tpep") else wanted)
    assert len(set(keys)) == 495  # five trips come twice: the same key, another row number


def test_avro_holds_the_same(events: source.Events) -> None:
    schema = fastavro.parse_schema(generator.avro_schema())
    plain, packed = batches(events.path)[0][1], batches(events.path, "avro")[0][1]
    for text, binary in zip(plain, packed, strict=True):
        assert fastavro.schemaless_reader(io.BytesIO(binary), schema, None) == json.loads(text)


def test_a_row_that_is_no_message_goes_aside(events: source.Events, tmp_path: Path) -> None:
    table = pq.read_table(events.path)
    distances = table["trip_distance"].to_pylist()
    distances[3], distances[7] = float("nan"), float("inf")
    position = table.column_names.index("trip_distance")
    broken = tmp_path / "broken.parquet"
    pq.write_table(table.set_column(position, "trip_distance", pa.array(distances)), broken)
    keys, values, bad, _ = batches(broken)[0]
    assert len(keys) == len(values) == 498
    assert [reason for _, _, reason in bad] == ["a number is not finite"] * 2
    assert {json.loads(value)["row_number"] for value in values} == set(range(500)) - {3, 7}


def test_batches_have_the_size_that_is_asked_for(events: source.Events) -> None:
    pace = generator.Pace("batch", size=120, delay=0.0)
    assert [len(one[0]) for one in batches(events.path, pace=pace)] == [120, 120, 120, 120, 20]


def test_real_time_keeps_the_distance_of_the_events() -> None:
    batch = (["a", "b", "c"], ["1", "2", "3"], [], [100.0, 100.0, 160.0])
    begin, seen = time.monotonic(), []
    for keys, _, _ in generator._in_real_time(iter([batch]), speed=200.0):
        seen.append((keys, time.monotonic() - begin))
    assert [keys for keys, _ in seen] == [["a", "b"], ["c"]]
    assert seen[0][1] < 0.2 and 0.29 < seen[1][1] < 1.0


def test_a_pace_must_make_sense() -> None:
    for wrong in ({"speed": 0.0}, {"size": 0}, {"delay": -1.0}):
        with pytest.raises(UserError, match="must"):
            generator.Pace(**wrong)  # type: ignore[arg-type]
