"""P02: Kafka, Spark Structured Streaming, Iceberg."""

from __future__ import annotations

import json
import os
import select
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from airflow_provider_rtlake.bench import queries, silver
from airflow_provider_rtlake.bench.engines.base import Asker
from airflow_provider_rtlake.bench.engines.kafka_lake import KafkaLake
from airflow_provider_rtlake.bench.run import Account
from airflow_provider_rtlake.exceptions import JobFailed
from airflow_provider_rtlake.scd2.submit import environment

APPLICATION = Path(__file__).parents[1] / "spark_app.py"
_ANSWER = 300.0  # seconds for one answer
_TAIL = 3000  # characters of a failed job's output that an error keeps


class Spark(KafkaLake):
    """One Spark application reads the stretch as a stream; another one answers the questions."""

    _session: _Session | None = None

    def process(self, account: Account) -> None:
        """See base class."""
        stretch, begin = self.stretch(), time.time()
        request = {
            "bootstrap": self.stack.kafka_bootstrap,
            "topic": self.topic,
            "dead_letters": self.dead_letters,
            "starts": {self.topic: {str(k): v for k, v in stretch.starts.items()}},
            "ends": {str(k): v for k, v in stretch.ends.items()},
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
            timeout=self.patience,
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
        if self._session is None:
            self._session = _Session(self.run.folder, self.stack.home)
        trips = f"nessie.{self.tables['silver']}"
        return self._session.ask(queries.text(name, dialect="spark", trips=trips, zones="zones"))

    def close(self) -> None:
        """See base class."""
        if self._session is not None:
            self._session.close()
            self._session = None


class _Session:
    """An application that answers queries. spark-submit hands standard input on to nobody, so two named pipes do."""

    def __init__(self, folder: Path, home: Path) -> None:
        from airflow_provider_rtlake.bench.source import zones_file

        self._log = folder / "spark-ask.log"
        pipes = [folder / "spark-questions", folder / "spark-answers"]
        for pipe in pipes:
            pipe.unlink(missing_ok=True)
            os.mkfifo(pipe, 0o600)
        # Opened for both directions: nobody has to be at the other end yet.
        self._questions, self._answers = (os.open(pipe, os.O_RDWR) for pipe in pipes)
        self._rest = b""
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                ["spark-submit", str(APPLICATION), "ask", str(zones_file()), *map(str, pipes)],
                env={**os.environ, **environment(home)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._line()

    def ask(self, query: str) -> list[list[Any]]:
        """Rows of a query."""
        os.write(self._questions, (json.dumps(query) + "\n").encode())
        rows: list[list[Any]] = json.loads(self._line())
        return rows

    def _line(self) -> bytes:
        end = time.monotonic() + _ANSWER
        while b"\n" not in self._rest:
            ready, _, _ = select.select([self._answers], [], [], 0.5)
            if ready:
                self._rest += os.read(self._answers, 1 << 16)
            elif self._process.poll() is not None or time.monotonic() > end:
                raise JobFailed("Spark", f"no answer; the end of its log:\n{self._log.read_text()[-_TAIL:]}")
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def close(self) -> None:
        """End the application."""
        os.close(self._questions)
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
        os.close(self._answers)
