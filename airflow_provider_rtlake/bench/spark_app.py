"""What runs inside Spark for P02: ``stream REQUEST RESULT`` carries a stretch of the topic, ``ask ZONES`` answers."""

from __future__ import annotations

import json
import sys
import time
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from pyspark.sql import DataFrame, SparkSession

_EVENT = (
    "row_number BIGINT, VendorID INT, tpep_pickup_datetime TIMESTAMP_NTZ, tpep_dropoff_datetime TIMESTAMP_NTZ, "
    "passenger_count BIGINT, trip_distance DOUBLE, RatecodeID BIGINT, store_and_fwd_flag STRING, PULocationID INT, "
    "DOLocationID INT, payment_type BIGINT, fare_amount DOUBLE, extra DOUBLE, mta_tax DOUBLE, tip_amount DOUBLE, "
    "tolls_amount DOUBLE, improvement_surcharge DOUBLE, total_amount DOUBLE, congestion_surcharge DOUBLE, "
    "Airport_fee DOUBLE"
)
_BATCH = 250_000  # events of one micro-batch at most: the session has 1 GB
_PROPERTIES = (
    "TBLPROPERTIES ('format-version' = '2', 'write.distribution-mode' = 'none', 'write.merge.mode' = 'merge-on-read')"
)


class Stream:
    """Each micro-batch goes to bronze, silver, the rejected and the dead letters.

    :param spark: the session.
    :param request: as laid down by the engine.
    """

    def __init__(self, spark: SparkSession, request: dict[str, Any]) -> None:
        self.spark = spark
        self.request = request
        self.tables = {name: f"nessie.{table}" for name, table in request["tables"].items()}
        self.times: list[float] = []

    def run(self) -> None:
        """Until the end of the stretch."""
        first = next(iter(self.tables.values()))
        self.spark.sql(f"CREATE NAMESPACE IF NOT EXISTS {first.rsplit('.', 1)[0]}")
        for table in self.tables.values():
            self.spark.sql(f"DROP TABLE IF EXISTS {table}")
        events = (
            self.spark.readStream.format("kafka")
            .option("kafka.bootstrap.servers", self.request["bootstrap"])
            .option("subscribe", self.request["topic"])
            .option("startingOffsets", json.dumps(self.request["starts"]))
            .option("failOnDataLoss", "true")
            .option("maxOffsetsPerTrigger", str(_BATCH))
            .load()
        )
        query = (
            events.writeStream.foreachBatch(self.batch)
            .option("checkpointLocation", self.request["checkpoint"])
            .trigger(availableNow=True)
            .start()
        )
        query.awaitTermination()

    def batch(self, events: DataFrame, number: int) -> None:
        """One micro-batch."""
        spark = events.sparkSession
        # A stream knows no last offset: what came after the stretch belongs to another run.
        ends = self.request["ends"].items()
        inside = " OR ".join(f"(partition = {int(one)} AND offset < {int(end)})" for one, end in ends)
        events = events.where(inside).persist()
        try:
            events.createOrReplaceTempView("raw_events")
            bronze = spark.sql(
                "SELECT partition AS kafka_partition, offset AS kafka_offset, "
                "CAST(timestamp AS TIMESTAMP_NTZ) AS ingested_at, CAST(key AS STRING) AS message_key, "
                "CAST(value AS STRING) AS payload FROM raw_events"
            )
            bronze.createOrReplaceTempView("bronze_rows")
            spark.sql(
                "SELECT event.*, ingested_at FROM (SELECT ingested_at, "  # noqa: S608
                f"from_json(payload, '{_EVENT}', map('timestampNTZFormat', 'yyyy-MM-dd HH:mm:ss')) AS event "
                "FROM bronze_rows WHERE left(trim(payload), 1) = '{')"
            ).createOrReplaceTempView("typed_events")
            spark.sql(self.request["judged"]).persist().createOrReplaceTempView("judged")
            self._write(spark, bronze)
        finally:
            events.unpersist()
            spark.catalog.clearCache()
        self.times.append(time.time())

    def _write(self, spark: SparkSession, bronze: DataFrame) -> None:
        self._append(bronze, self.tables["bronze"])
        rejected = spark.sql("SELECT * FROM judged WHERE reason IS NOT NULL")
        self._append(rejected, self.tables["rejected"])
        latest = spark.sql(self.request["latest"])
        table = self.tables["silver"]
        if not self.times:  # the first batch finds an empty table: nothing to compare with
            self._append(latest, table)
        else:
            latest.createOrReplaceTempView("latest")
            spark.sql(
                f"MERGE INTO {table} AS t USING latest AS s ON t.trip_id = s.trip_id "
                "WHEN MATCHED AND s.source_row > t.source_row THEN UPDATE SET * WHEN NOT MATCHED THEN INSERT *"
            )
        dead = spark.sql(
            "SELECT message_key AS key, payload AS value, array(struct('reason' AS key, "
            "CAST('not a JSON object' AS BINARY) AS value)) AS headers FROM bronze_rows "
            "WHERE payload IS NULL OR left(trim(payload), 1) <> '{'"
        )
        if not dead.isEmpty():
            (
                dead.write.format("kafka")
                .option("kafka.bootstrap.servers", self.request["bootstrap"])
                .option("topic", self.request["dead_letters"])
                .option("includeHeaders", "true")
                .save()
            )

    def _append(self, rows: DataFrame, table: str) -> None:
        rows.createOrReplaceTempView("rows_to_write")
        if not self.times:
            rows.sparkSession.sql(f"CREATE TABLE {table} USING iceberg {_PROPERTIES} AS SELECT * FROM rows_to_write")  # noqa: S608
        else:
            rows.sparkSession.sql(f"INSERT INTO {table} SELECT * FROM rows_to_write")  # noqa: S608


def _plain(value: Any) -> Any:
    if isinstance(value, (date, datetime)):
        return value.isoformat()[:10]
    return f"{value:.2f}" if isinstance(value, Decimal) else value


def ask(spark: SparkSession, zones: str, questions: str, answers: str) -> None:
    """Answer queries, one JSON text a line, until nobody asks any more.

    :param zones: the Commission's zones, CSV.
    :param questions: named pipe to read from.
    :param answers: named pipe to write to.
    """
    found = spark.read.option("header", "true").csv(f"file://{zones}")
    found.selectExpr("CAST(zone_id AS INT) AS zone_id", "zone_name AS zone").cache().createOrReplaceTempView("zones")
    with Path(questions).open() as asked, Path(answers).open("w") as told:
        print('"ready"', file=told, flush=True)
        for line in asked:
            rows = spark.sql(json.loads(line)).collect()
            print(json.dumps([[_plain(value) for value in row] for row in rows]), file=told, flush=True)


def main() -> None:
    """Entry point of spark-submit."""
    what, *paths = sys.argv[1:]
    builder = SparkSession.builder.appName(f"rtlake-bench-{what}")
    # The trips' times have no zone, in no engine.
    spark = builder.config("spark.sql.timestampType", "TIMESTAMP_NTZ").getOrCreate()
    begun = time.time()
    if what == "ask":
        ask(spark, *paths)
    else:
        stream = Stream(spark, json.loads(Path(paths[0]).read_text()))
        stream.run()
        told = {"session": begun, "first": stream.times[0], "last": stream.times[-1], "batches": len(stream.times)}
        Path(paths[1]).write_text(json.dumps(told))
    spark.stop()


if __name__ == "__main__":
    main()
