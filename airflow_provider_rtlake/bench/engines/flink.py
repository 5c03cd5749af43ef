"""P01: Kafka, Flink, Iceberg. Batch and streaming run the same SQL."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import duckdb

from airflow_provider_rtlake.bench import lake, silver, taxi_flink, taxi_windows
from airflow_provider_rtlake.bench.engines.kafka_lake import KafkaLake
from airflow_provider_rtlake.bench.run import Account
from airflow_provider_rtlake.clients.flink import FlinkClient, Job
from airflow_provider_rtlake.exceptions import CheckFailed
from airflow_provider_rtlake.flink_sql.job import RenderedJob, job_id_for
from airflow_provider_rtlake.flink_sql.settings import LaneSettings
from airflow_provider_rtlake.lanes.jobs import Restore, submit, wait_for_slot

_LOOK = 0.25  # seconds between two looks at what readers see


class Flink(KafkaLake):
    """One Flink job carries the events to bronze, silver, the rejected and the dead letters."""

    @property
    def settings(self) -> LaneSettings:
        """Where the services are."""
        from airflow_provider_rtlake.commands.stream import settings_of

        return settings_of(self.stack)

    def client(self) -> FlinkClient:
        """The stack's Flink."""
        connection = self.stack.connection("rtlake_flink")
        return FlinkClient(connection.url, str(connection.extra["gateway_url"]))

    def prepare(self, account: Account) -> None:
        """See base class."""
        super().prepare(account)
        with self.client() as client, client.session() as session:
            taxi_flink.refuse_little_heap(self.events.source.events, client.task_heap())
            for statement in taxi_flink.setup(self.settings, self.namespace):
                session.execute(statement)

    def job(self) -> RenderedJob:
        """The run's job."""
        return self.rendered()

    def rendered(self, **more: Any) -> RenderedJob:
        """The taxi job over this run's topics.

        :param more: what a pipeline adds; see :func:`taxi_flink.job`.
        """
        return taxi_flink.job(
            f"bench.{self.run.run_id}",
            self.settings,
            namespace=self.namespace,
            topic=self.topic,
            dlq=self.dead_letters,
            stretch=self.stretch(),
            months=self.events.source.months,
            mode=self.run.start.mode,
            events=self.events.source.events,
            **more,
        )

    def windows(self, account: Account) -> None:
        """The windowed job, and its tables against DuckDB; windows and late rows together are all rows."""
        name, months = f"bench.{self.run.run_id}.windows", self.events.source.months
        job = taxi_windows.job(
            name, self.settings, namespace=self.namespace, topic=self.topic, stretch=self.stretch(), months=months
        )
        with self.client() as client:
            with client.session() as session:
                for statement in taxi_windows.setup(self.settings, self.namespace):
                    session.execute(statement)
            ended = self.carry_out(client, job)
        account.measures["windows_job_seconds"] = round(ended.duration_ms / 1000, 3)
        with duckdb.connect() as connection:
            lake.make_readable(connection, self.stack)
            rows = f"(SELECT *, now()::TIMESTAMP AS ingested_at FROM read_parquet('{self.events.path}')) AS events"  # noqa: S608
            connection.execute(f"CREATE VIEW judged AS {silver.judged(rows, 'duckdb', months)}")
            connection.execute("CREATE TABLE good AS SELECT * FROM judged WHERE reason IS NULL")
            late = lake.scan(self.stack, f"{self.namespace}.late")
            found = connection.execute(f"SELECT count(*) FROM {late}").fetchone()  # noqa: S608
            account.measures["late_rows"] = int(found[0]) if found else 0
            for one in taxi_windows.WINDOWS:
                wanted = taxi_windows.expected(one, "good", late)
                got = f"SELECT * FROM {lake.scan(self.stack, f'{self.namespace}.{one}')}"  # noqa: S608
                wrong = connection.execute(
                    f"SELECT count(*) FROM (({wanted} EXCEPT ALL {got}) UNION ALL ({got} EXCEPT ALL {wanted}))"  # noqa: S608
                ).fetchone()
                if wrong is None or wrong[0]:
                    raise CheckFailed(f"{one}: {wrong and wrong[0]} rows differ from DuckDB's")

    def bring_silver(self, connection: duckdb.DuckDBPyConnection) -> None:
        """See base class. DuckDB compares each row with each corrected trip, so that large tables are tidied before."""
        if self.run.start.mode == "streaming" and self.events.source.events > taxi_flink.HEAP_EVENTS:
            name = f"bench.{self.run.run_id}.tidy"
            job = taxi_flink.compaction(name, self.settings, namespace=self.namespace, compacted=["silver"])
            with self.client() as client:
                self.carry_out(client, job)
        super().bring_silver(connection)

    def compact(self, account: Account) -> None:
        """Rewrite bronze and silver into as few files as there are writers; silver must stay what it was."""
        job = taxi_flink.compaction(f"bench.{self.run.run_id}.compact", self.settings, namespace=self.namespace)
        tables = [self.tables[name] for name in taxi_flink.COMPACTED]
        with duckdb.connect() as connection, self.client() as client:
            lake.make_readable(connection, self.stack)
            before = {table: lake.Layout.of(connection, self.stack, table) for table in tables}
            wanted = self._checksum(connection)
            ended = self.carry_out(client, job)
            after = {table: lake.Layout.of(connection, self.stack, table) for table in tables}
            found = self._checksum(connection)
        account.measures["compact_job_seconds"] = round(ended.duration_ms / 1000, 3)
        for name in taxi_flink.COMPACTED:
            table = self.tables[name]
            account.measures |= {
                f"{name}_data_files_before": before[table].data_files,
                f"{name}_data_files_after": after[table].data_files,
                f"{name}_delete_files_before": before[table].delete_files,
                f"{name}_delete_files_after": after[table].delete_files,
            }
        if found != wanted:
            raise CheckFailed(f"silver had {wanted[0]} rows and checksum {wanted[1]}, after compaction {found}")
        left = {table: layout.delete_files for table, layout in after.items() if layout.delete_files}
        if left:
            raise CheckFailed(f"delete files are left after compaction: {left}")

    def _checksum(self, connection: duckdb.DuckDBPyConnection) -> tuple[int, str]:
        rows, found = connection.execute(silver.checksum(lake.scan(self.stack, self.tables["silver"]))).fetchone() or (
            0,
            "",
        )
        return int(rows), str(found)

    def carry_out(self, client: FlinkClient, job: RenderedJob, begun: Callable[[], None] = lambda: None) -> Job:
        """Run a job that ends by itself, and wait.

        :param client: of the cluster.
        :param begun: called when the cluster has the job.
        """
        job_id = job_id_for(job.name, job.fingerprint)
        wait_for_slot(client, job.name)
        submit(client, job, Restore(), job_id)
        begun()
        try:
            return client.wait_until_finished(job_id, timeout=self.patience)
        except BaseException:
            client.cancel(job_id)
            raise

    def process(self, account: Account) -> None:
        """See base class."""
        job, begin = self.job(), time.time()
        watch, done = lake.Watch(self.stack, self.tables["silver"]), threading.Event()
        looker = threading.Thread(target=_watch, args=(watch, done), daemon=True)

        def begun() -> None:
            account.measures["submit_seconds"] = round(time.time() - begin, 3)
            looker.start()

        with self.client() as client:
            try:
                ended = self.carry_out(client, job, begun)
            finally:
                done.set()
                if looker.ident:
                    looker.join()
            account.measures["job_seconds"] = round(ended.duration_ms / 1000, 3)
            account.measures |= _told_by_flink(client, ended.job_id)
        watch.look()
        if watch.first and watch.last:
            account.measures["first_row_visible_seconds"] = round(watch.first - begin, 3)
            account.measures["last_row_visible_seconds"] = round(watch.last - begin, 3)


def _told_by_flink(client: FlinkClient, job_id: str) -> dict[str, float | int]:
    """The job's own metrics: checkpoints, and how long its chains of operators worked or waited for the next one."""
    checkpoints, metrics = client.checkpoints(job_id), [one["metrics"] for one in client.vertices(job_id)]
    return {
        "checkpoints": checkpoints.completed,
        "last_checkpoint_ms": checkpoints.duration_ms or 0,
        "flink_records_sent": sum(int(one["write-records"]) for one in metrics),
        "flink_busy_seconds": round(sum(float(one["accumulated-busy-time"]) for one in metrics) / 1000, 3),
        "flink_backpressured_seconds": round(
            sum(float(one["accumulated-backpressured-time"]) for one in metrics) / 1000, 3
        ),
    }


def _watch(watch: lake.Watch, done: threading.Event) -> None:
    while not done.wait(_LOOK):
        watch.look()
