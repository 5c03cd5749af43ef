"""The warm merge: a server that follows tables, and answers tasks; killed with -9 in the middle of its work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from airflow_provider_rtlake.demo.access import Access, table_name
from airflow_provider_rtlake.kit.stack import Stack
from airflow_provider_rtlake.scd2.request import request_for
from airflow_provider_rtlake.scd2.serve import Asking, socket_path
from tests.declared import Declared, quoted

PROJECT = Path(__file__).parents[2]
PROBES = int(os.environ.get("RTLAKE_TEST_PROBES", "6"))


@contextmanager
def serving(stack: Stack, *options: str) -> Iterator[subprocess.Popen[str]]:
    """The merge server, as a supervisor runs it."""
    environment = {**os.environ, "RTLAKE_HOME": str(stack.home), "PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-m", "airflow_provider_rtlake.cli", "scd2", "serve", *options]
    process = subprocess.Popen(
        command, env=environment, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    lines: list[str] = []
    ready = threading.Event()

    def read() -> None:
        for line in process.stdout or ():
            lines.append(line)
            if "listening at" in line:
                ready.set()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        if not ready.wait(180):
            raise AssertionError("".join(lines[-40:]))
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(60)
        reader.join(30)
        if process.stdout is not None:
            process.stdout.close()
        print("".join(lines[-60:]))


def history(access: Access, declared: Declared, source: str) -> list[Any]:
    table = table_name(str(declared.streams[source].history_table))
    return access.trino(f"SELECT id, v, is_current FROM {table} ORDER BY id, effective_start_ts")


def seen(access: Access, declared: Declared, source: str, text: str, limit: float) -> bool:
    table = table_name(str(declared.streams[source].history_table))
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        try:
            if access.trino(f"SELECT 1 FROM {table} WHERE v = '{text}' AND is_current"):
                return True
        except Exception as error:  # the table is not there before the first merge
            if "does not exist" not in str(error):
                raise
        time.sleep(0.05)
    return False


@pytest.mark.timeout(900)
def test_freshness_of_a_followed_table_and_a_kill_in_between(
    declare: Callable[..., Declared], access: Access, stack: Stack, pg: Any, rtlake: Callable[..., str]
) -> None:
    source = "public.it_fresh"
    declared = declare(
        {source: "CREATE TABLE {table} (id bigint PRIMARY KEY, v text)"}, {source: {"realtime": False}}, deploy=False
    )
    stream = declared.streams[source]
    pg.execute(f"INSERT INTO {quoted(stream)} SELECT n, 'begin' FROM generate_series(1, 1000) n".encode())
    rtlake("connectors", "apply", *declared.where)
    rtlake("stream", "apply", "--lane", "bronze", "--lane", "transactions", *declared.where)
    options = ["--follow", "--connectors", str(declared.folder)]
    delays = []
    with serving(stack, *options) as server:
        assert seen(access, declared, source, "begin", 240)
        for number in range(PROBES):
            pg.execute(f"UPDATE {quoted(stream)} SET v = 'probe {number}' WHERE id = {number + 1}".encode())
            begin = time.monotonic()
            assert seen(access, declared, source, f"probe {number}", 60), number
            delays.append(time.monotonic() - begin)
        print(f"freshness, seconds: p50 {median(delays):.2f}, max {max(delays):.2f}: {[round(d, 2) for d in delays]}")
        pg.execute(f"UPDATE {quoted(stream)} SET v = 'killed' WHERE id <= 300".encode())
        time.sleep(1.0)
        server.kill()
    with serving(stack, *options):
        assert seen(access, declared, source, "killed", 120)
        answer = Asking(socket_path(stack.home)).results([request_for(stream)])
        assert answer[0]["changed"] in (True, False)
        assert "error" not in answer[0]
    rows = history(access, declared, source)
    assert len([row for row in rows if row[2]]) == 1000
    assert len(rows) == 1000 + PROBES + 300
