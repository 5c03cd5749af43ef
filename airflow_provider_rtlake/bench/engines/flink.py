"""P01: Kafka, Flink, Iceberg. Batch and streaming run the same SQL."""

from __future__ import annotations

import threading
import time
from typing import Any

import duckdb

from airflow_provider_rtlake.bench import lake, silver, taxi_flink, taxi_windows
from airflow_provider_rtlake.bench.engines.kafka_lake import WAIT, KafkaLake
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

    def carry_out(self, client: FlinkClient, job: RenderedJob) -> Job:
        """Run a job that ends by itself, and wait.

        :param client: of the cluster.
        """
        job_id = job_id_for(job.name, job.fingerprint)
        wait_for_slot(client, job.name)
        submit(client, job, Restore(), job_id)
        try:
            return client.wait_until_finished(job_id, timeout=WAIT)
        except BaseException:
            client.cancel(job_id)
            raise

    def process(self, account: Account) -> None:
        """See base class."""
        job, begin = self.job(), time.time()
        job_id = job_id_for(job.name, job.fingerprint)
        watch, done = lake.Watch(self.stack, self.tables["silver"]), threading.Event()
        looker = threading.Thread(target=_watch, args=(watch, done), daemon=True)
        with self.client() as client:
            wait_for_slot(client, job.name)
            submit(client, job, Restore(), job_id)
            account.measures["submit_seconds"] = round(time.time() - begin, 3)
            looker.start()
            try:
                ended = client.wait_until_finished(job_id, timeout=WAIT)
            except BaseException:
                client.cancel(job_id)
                raise
            finally:
                done.set()
                looker.join()
            account.measures["job_seconds"] = round(ended.duration_ms / 1000, 3)
            account.measures["checkpoints"] = client.checkpoints(job_id).completed
        watch.look()
        if watch.first and watch.last:
            account.measures["first_row_visible_seconds"] = round(watch.first - begin, 3)
            account.measures["last_row_visible_seconds"] = round(watch.last - begin, 3)


def _watch(watch: lake.Watch, done: threading.Event) -> None:
    while not done.wait(_LOOK):
        watch.look()
