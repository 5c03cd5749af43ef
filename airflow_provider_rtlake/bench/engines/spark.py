"""P02: Kafka, Spark Structured Streaming, Iceberg."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from airflow_provider_rtlake.bench import queries, silver
from airflow_provider_rtlake.bench.engines.base import Asker
from airflow_provider_rtlake.bench.engines.kafka_lake import WAIT, KafkaLake
from airflow_provider_rtlake.bench.run import Account
from airflow_provider_rtlake.exceptions import JobFailed
from airflow_provider_rtlake.scd2.submit import environment

APPLICATION = Path(__file__).parents[1] / "spark_app.py"
_TAIL = 3000  # characters of a failed job's output that an error keeps


class Spark(KafkaLake):
    """One Spark application reads the stretch as a stream; another one answers the questions."""

    _server: subprocess.Popen[str] | None = None

    def process(self, account: Account) -> None:
        """See base class."""
        stretch, begin = self.stretch(), time.time()
        request = {
            "bootstrap": self.stack.kafka_bootstrap,
            "topic": self.topic,
            "dead_letters": self.dead_letters,
            "starts": {self.topic: {str(k): v for k, v in stretch.starts.items()}},
            "tables": self.tables,
            "judged": silver.judged("typed_events", "spark", self.events.source.months),
            "latest": silver.latest("judged"),
            "checkpoint": str(self.run.folder / "spark-checkpoint"),
        }
        result = self._submit("stream", request)
        account.measures |= {
            "session_seconds": round(result["session"] - begin, 3),
            "first_row_visible_seconds": round(result["first"] - begin, 3),
            "last_row_visible_seconds": round(result["last"] - begin, 3),
            "micro_batches": int(result["batches"]),
        }

    def _submit(self, what: str, request: dict[str, Any]) -> dict[str, Any]:
        asked, answered = self.run.folder / f"spark-{what}.json", self.run.folder / f"spark-{what}-result.json"
        asked.write_text(json.dumps(request))
        done = subprocess.run(
            ["spark-submit", str(APPLICATION), what, str(asked), str(answered)],
            env={**os.environ, **environment(self.stack.home)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=WAIT,
        )
        (self.run.folder / f"spark-{what}.log").write_text(done.stdout)
        if done.returncode != 0 or not answered.exists():
            raise JobFailed("Spark", f"the application ended with {done.returncode}:\n{done.stdout[-_TAIL:]}")
        found: dict[str, Any] = json.loads(answered.read_text())
        return found

    def askers(self) -> list[Asker]:
        """See base class."""
        return [*super().askers(), Asker("Spark SQL", self.ask_spark, "on Iceberg, in a session that is already open")]

    def ask_spark(self, name: str) -> Sequence[Sequence[Any]]:
        """A question to Spark, on the lake."""
        if self._server is None:
            self._server = self._serve()
        assert self._server.stdin and self._server.stdout  # noqa: S101 - both are pipes
        trips = f"nessie.{self.tables['silver']}"
        asked = queries.text(name, dialect="spark", trips=trips, zones="zones")
        self._server.stdin.write(json.dumps(asked) + "\n")
        self._server.stdin.flush()
        line = self._server.stdout.readline()
        if not line:
            raise JobFailed("Spark", f"the session ended; see {self.run.folder / 'spark-ask.log'}")
        rows: list[list[Any]] = json.loads(line)
        return rows

    def _serve(self) -> subprocess.Popen[str]:
        from airflow_provider_rtlake.bench.source import zones_file

        with (self.run.folder / "spark-ask.log").open("w") as log:
            server = subprocess.Popen(
                ["spark-submit", str(APPLICATION), "ask", str(zones_file())],
                env={**os.environ, **environment(self.stack.home)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert server.stdout  # noqa: S101 - a pipe
        if server.stdout.readline().strip() != '"ready"':
            raise JobFailed("Spark", f"no session; see {self.run.folder / 'spark-ask.log'}")
        return server

    def clean(self) -> None:
        """See base class."""
        if self._server is not None and self._server.stdin:
            self._server.stdin.close()
            self._server.wait(60)
            self._server = None
