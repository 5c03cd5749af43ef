"""The demo's input, brought in once: a second call finds it noted in the source database."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa

from airflow_provider_rtlake.demo import sales, taxi
from airflow_provider_rtlake.demo.sales import Progress

_DDL = """
CREATE SCHEMA IF NOT EXISTS rtlake_demo;
CREATE TABLE IF NOT EXISTS rtlake_demo.inputs (
    name text, fingerprint text, amount bigint NOT NULL, at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (name, fingerprint)
)
"""
_CORRECTED = 0.05  # share of the trips


@dataclass(frozen=True)
class Input:
    """What the demo brings in.

    :param rows: of each table, before the changes.
    :param changes: to the sales, after the deployment.
    :param source: taxi files or their folder; ``RTLAKE_TLC_DIR`` without, and without that made-up trips.
    :param seed: of everything that is made up.
    """

    rows: int = 10_000
    changes: int = 10_000
    source: Path | None = None
    seed: int = 1

    def files(self) -> list[Path]:
        """Taxi files; see :func:`.taxi.find_files`."""
        return taxi.find_files(self.source)


def prepare(conn: psycopg.Connection[Any]) -> None:
    """Make the tables where they are missing.

    :param conn: an autocommit connection as the owner of the source database.
    """
    conn.execute(_DDL)
    sales.create(conn)
    taxi.create(conn)


def bring_rows(conn: psycopg.Connection[Any], given: Input, progress: Progress | None = None) -> dict[str, int]:
    """Rows of both tables, as they are before anything captures them.

    :returns: rows brought in now, by table; 0 where they were there.
    """
    files = given.files()
    marks = {
        "sales rows": f"{given.rows}:{given.seed}",
        "taxi rows": taxi.fingerprint(files, given.rows, given.seed),
    }
    done = {"sales": 0, "taxi": 0}
    if not _noted(conn, "sales rows", marks["sales rows"]):
        found = sales.read(conn)
        maker = sales.Generator(found, seed=given.seed)
        done["sales"] = sales.copy_in(conn, maker.fresh_rows(given.rows))
        _note(conn, "sales rows", marks["sales rows"], done["sales"])
    if not _noted(conn, "taxi rows", marks["taxi rows"]):
        done["taxi"] = taxi.copy_in(conn, _trips(files, given), progress=progress)
        _note(conn, "taxi rows", marks["taxi rows"], done["taxi"])
    return done


def bring_changes(conn: psycopg.Connection[Any], given: Input, progress: Progress | None = None) -> dict[str, int]:
    """Changes of both tables, while they are captured.

    :returns: changes committed now, by table; 0 where they were there.
    """
    mark, done = f"{given.rows}:{given.changes}:{given.seed}", {"sales": 0, "taxi": 0}
    if not _noted(conn, "sales changes", mark):
        done["sales"] = sales.run(conn, changes=given.changes, seed=given.seed, progress=progress).changes
        _note(conn, "sales changes", mark, done["sales"])
    taxi_mark = taxi.fingerprint(given.files(), given.rows, given.seed)
    if not _noted(conn, "taxi changes", taxi_mark):
        done["taxi"] = taxi.correct(conn, share=_CORRECTED, seed=given.seed)
        _note(conn, "taxi changes", taxi_mark, done["taxi"])
    return done


def _trips(files: list[Path], given: Input) -> Iterator[pa.Table]:
    return taxi.batches(files, given.rows) if files else iter([taxi.synthetic(given.rows, given.seed)])


def _noted(conn: psycopg.Connection[Any], name: str, fingerprint: str) -> bool:
    query = "SELECT 1 FROM rtlake_demo.inputs WHERE name = %s AND fingerprint = %s"
    return conn.execute(query, [name, fingerprint]).fetchone() is not None


def _note(conn: psycopg.Connection[Any], name: str, fingerprint: str, amount: int) -> None:
    conn.execute(
        "INSERT INTO rtlake_demo.inputs (name, fingerprint, amount) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
        [name, fingerprint, amount],
    )
