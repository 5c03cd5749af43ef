"""The straightforward Spark job, as many a tutorial has it: what the merge is measured against.

Reads all of the staging table, compares hashes inside the batch, closes deleted keys by one MERGE and altered keys by
another, appends the new versions, and notes the position. It is right for this workload: each batch has one change of
a key, nothing comes late, and nobody reads while it writes.
"""

# ruff: noqa: S608 - every name in a statement is the bench's own

from __future__ import annotations

import sys
import time


def main(bronze: str, history: str) -> None:
    """Merge everything that is new.

    :param bronze: staging table, ``catalog.namespace.name``.
    :param history: history table; its checkpoints are beside it.
    """
    from pyspark.sql import SparkSession, Window
    from pyspark.sql import functions as F

    begin = time.monotonic()
    spark = SparkSession.builder.appName("bench straightforward scd2").getOrCreate()
    started = time.monotonic()
    row = "id bigint, customer int, amount decimal(10,2), state string, note string, changed_at bigint"
    schema = f"before struct<{row}>, after struct<{row}>, source struct<lsn: bigint, ts_us: bigint>, op string"
    names = [one.split()[0] for one in row.split(", ")]
    checkpoint = f"{history}_checkpoint"
    spark.sql(f"CREATE TABLE IF NOT EXISTS {checkpoint} (lsn bigint) USING iceberg")
    spark.sql(
        f"CREATE TABLE IF NOT EXISTS {history} ({row}, effective_start_ts timestamp, effective_end_ts timestamp, "
        "is_current boolean, is_deleted boolean, record_hash string) USING iceberg TBLPROPERTIES "
        "('format-version'='2', 'write.merge.mode'='merge-on-read', 'write.update.mode'='merge-on-read')"
    )
    reached = spark.table(checkpoint).agg(F.max("lsn")).collect()[0][0] or 0

    change = spark.table(bronze).select(F.from_json("payload", schema).alias("p")).select("p.*")
    image = F.coalesce("after", "before")
    rows = change.where(F.col("source.lsn") > reached).select(
        *(image[name].alias(name) for name in names),
        (F.col("op") == "d").alias("gone"),
        F.col("source.lsn").alias("lsn"),
        F.timestamp_micros("source.ts_us").alias("ts"),
    )
    text = F.concat_ws("|", *(F.coalesce(F.col(name).cast("string"), F.lit("")) for name in names[1:]))
    order = Window.partitionBy("id").orderBy("lsn")
    rows = rows.withColumn("hash", F.sha2(text, 256)).withColumn("before", F.lag("hash").over(order))
    rows = rows.where("before IS NULL OR before <> hash OR gone")
    rows = rows.withColumn("next", F.lead("ts").over(order)).cache()
    rows.createOrReplaceTempView("arrived")
    newest = rows.agg(F.max("lsn")).collect()[0][0]
    if newest is None:
        return
    spark.sql(
        f"MERGE INTO {history} h USING (SELECT id, ts FROM arrived WHERE gone) d ON h.id = d.id AND h.is_current "
        "WHEN MATCHED THEN UPDATE SET effective_end_ts = d.ts, is_current = false, is_deleted = true"
    )
    known = spark.sql(
        f"SELECT h.id, h.record_hash FROM {history} h WHERE h.is_current AND h.id IN (SELECT id FROM arrived)"
    )
    fresh = (
        rows.where("NOT gone")
        .join(known, (rows["id"] == known["id"]) & (rows["hash"] == known["record_hash"]), "left_anti")
        .cache()
    )
    fresh.createOrReplaceTempView("fresh")
    fresh.count()
    spark.sql(
        f"MERGE INTO {history} h USING (SELECT id, min(ts) AS ts FROM fresh GROUP BY id) u "
        "ON h.id = u.id AND h.is_current "
        "WHEN MATCHED THEN UPDATE SET effective_end_ts = u.ts, is_current = false"
    )
    spark.sql(f"INSERT INTO {history} SELECT {', '.join(names)}, ts, next, next IS NULL, false, hash FROM fresh")
    spark.sql(f"INSERT INTO {checkpoint} VALUES ({newest})")
    print(f"= session {started - begin:.2f} s, merge {time.monotonic() - started:.2f} s", flush=True)
    spark.stop()


if __name__ == "__main__":
    main(*sys.argv[1:3])
