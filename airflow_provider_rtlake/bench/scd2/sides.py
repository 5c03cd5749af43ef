"""The sides that are measured: each does the same batch in its own way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from airflow_provider_rtlake.exceptions import TransientError
from airflow_provider_rtlake.scd2.submit import SPARK_SETTINGS, environment, session_environment

_HERE = Path(__file__).parent
_TAIL = 3000


@dataclass
class Memory:
    """Peak memory of a process and all below it.

    :param peak_mb: resident, in MiB.
    """

    peak_mb: int = 0

    @contextmanager
    def watch(self, pid: int, every: float = 0.2) -> Iterator[None]:
        """Look at it until the block ends."""
        done = threading.Event()

        def look() -> None:
            while not done.wait(every):
                self.peak_mb = max(self.peak_mb, _resident(pid) >> 20)

        thread = threading.Thread(target=look, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


def _resident(pid: int) -> int:
    total = 0
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
    except psutil.Error:
        return 0
    for one in family:
        try:
            total += one.memory_info().rss
        except psutil.Error:
            continue
    return total


@dataclass
class Timed:
    """What one side took.

    :param seconds: of each run, the process's start included where it starts one.
    :param inner: of each run, as the side itself measured it.
    """

    seconds: list[float] = field(default_factory=list)
    inner: list[float] = field(default_factory=list)
    memory: Memory = field(default_factory=Memory)
    steps: list[dict[str, Any]] = field(default_factory=list)


def run(command: Sequence[str], variables: dict[str, str], timed: Timed | None = None) -> str:
    """Run a process to its end; its output.

    :param timed: gets its time and memory.
    :raises TransientError: it failed; the message ends with its output.
    """
    begin = time.monotonic()
    process = subprocess.Popen(
        command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    memory = timed.memory if timed else Memory()
    with memory.watch(process.pid):
        output, _ = process.communicate()
    if process.returncode:
        raise TransientError(f"{' '.join(command[:4])} … failed ({process.returncode}):\n{output[-_TAIL:]}")
    if timed is not None:
        timed.seconds.append(round(time.monotonic() - begin, 3))
    return output


class Ours:
    """A process with a warm session: loads bronze and merges.

    :param home: RTLAKE_HOME.
    """

    def __init__(self, home: Path) -> None:
        variables = session_environment(home)
        python = variables.get("PYSPARK_DRIVER_PYTHON", sys.executable)
        self._log = (home / "run" / "bench-scd2.log").open("w")
        self._process = subprocess.Popen(
            [python, "-m", "airflow_provider_rtlake.bench.scd2.worker"],
            env=variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        self._answer()

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """One command of :mod:`.worker`.

        :raises TransientError: the process ended, or a merge failed.
        """
        if self._process.stdin is None:
            raise TransientError("the merge's process has no input")
        self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self._process.stdin.flush()
        answer = self._answer()
        if "error" in answer:
            raise TransientError(f"{do}: {answer['error']}: {answer.get('message')}")
        return answer

    def _answer(self) -> dict[str, Any]:
        told = []
        for line in self._process.stdout or ():
            if line.startswith("= "):
                return dict(json.loads(line[2:]))
            told.append(line)
        raise TransientError(f"the merge's process ended; {self._log.name} says why: {''.join(told[-5:])}")

    def close(self) -> None:
        """End it."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait(60)
        self._log.close()


def straightforward(home: Path, bronze: str, history: str, timed: Timed | None) -> None:
    """The plain Spark job over what is new.

    :param timed: gets its time and memory.
    """
    variables = {**os.environ, **environment(home)}
    command = ["spark-submit", "--driver-memory", "2g", str(_HERE / "straightforward.py"), bronze, history]
    run(command, variables, timed)


def cold(home: Path, request: Path, result: Path, timed: Timed | None) -> dict[str, Any]:
    """Our merge by spark-submit, as the operator starts it.

    :param request: file of requests.
    """
    from airflow_provider_rtlake.scd2.submit import APPLICATION

    variables = {**os.environ, **environment(home)}
    settings = [part for name, value in SPARK_SETTINGS.items() for part in ("--conf", f"{name}={value}")]
    result.unlink(missing_ok=True)
    run(["spark-submit", *settings, APPLICATION, "--request", str(request), "--result", str(result)], variables, timed)
    (answer,) = json.loads(result.read_text(encoding="utf-8"))
    return dict(answer)


class Upsert:
    """PyIceberg on a SQL catalog (SQLite) in the same object store.

    :param home: RTLAKE_HOME.
    :param folder: for the catalog.
    :param catalog: settings of the lakehouse's catalog.
    """

    table = "bench.orders"

    def __init__(self, home: Path, folder: Path, catalog: dict[str, str], name: str) -> None:
        self._variables = session_environment(home)
        self._python = self._variables.get("PYSPARK_DRIVER_PYTHON", sys.executable)
        self._settings = json.dumps(
            {
                "uri": f"sqlite:///{folder / 'catalog.db'}",
                "warehouse": f"{catalog['warehouse'].rstrip('/')}/bench/{name}",
                "s3.endpoint": catalog.get("s3.endpoint", ""),
                "s3.region": catalog.get("client.region", "us-east-1"),
            }
        )

    def do(self, what: str, path: Path, timed: Timed | None = None) -> dict[str, Any]:
        """``create``, ``upsert`` or ``check``."""
        script = str(_HERE / "upsert.py")
        output = run([self._python, script, what, self._settings, self.table, str(path)], self._variables, timed)
        answer = dict(json.loads(next(line for line in output.splitlines() if line.startswith("= "))[2:]))
        if timed is not None:
            timed.inner.append(answer["seconds"])
        return answer
