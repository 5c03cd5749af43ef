"""Erases a key everywhere: lakehouse (by Spark), Kafka; then looks into topics, Pinot's topics and backups too."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from psycopg import sql

from airflow_provider_rtlake.clients.flink import pauses
from airflow_provider_rtlake.clients.kafka import KafkaClient
from airflow_provider_rtlake.exceptions import UserError
from airflow_provider_rtlake.lanes.topics import committed
from airflow_provider_rtlake.scd2.change import canonical_key
from airflow_provider_rtlake.scd2.erase import EraseRequest
from airflow_provider_rtlake.scd2.needles import Needles
from airflow_provider_rtlake.scd2.request import request_for
from airflow_provider_rtlake.scd2.submit import JobDied, environment
from airflow_provider_rtlake.streams.model import Stream
from airflow_provider_rtlake.streams.source_access import SourceAccess

APPLICATION = str(Path(__file__).parent / "entry" / "erase.py")
_TAIL = 4000
_CONFIRMED_WITHIN = 60.0  # seconds
_READ_WITHIN = 60.0  # seconds


@dataclass(frozen=True)
class Places:
    """Where a table's rows are.

    :param stream: the declared table.
    :param kafka: the brokers.
    :param source: how the source's server is reached; the database is the one that the declaration names, if it does.
    :param home: RTLAKE_HOME.
    """

    stream: Stream
    kafka: KafkaClient
    source: SourceAccess
    home: Path


def erase_everywhere(places: Places, keys: Sequence[str]) -> dict[str, Any]:
    """Erase keys and search for what remains.

    :param places: where.
    :param keys: JSON objects.
    :return: ``rows``, ``files``, ``offsets``, ``searched``, ``remains``.
    :raises UserError: a key is no JSON object, or its row is at the source still.
    """
    asked = [_canonical(key) for key in keys]
    with places.source.for_connector(places.stream.connector).connect() as connection:
        _refuse_living(connection, places.stream, asked)
        late = _await_confirmation(connection, places.stream.connector.slot_name)
    request = EraseRequest(merge=request_for(places.stream), keys=tuple(asked))
    report = submit(request, places.home)
    if late:
        report["remains"]["connector"] = late
    for topic, offsets in report["offsets"].items():
        # Bronze has no tombstones, but they have the key: that of a row's delete comes right behind it.
        behind = {int(one): places.kafka.behind_tombstones(topic, int(one), offset) for one, offset in offsets.items()}
        late = await_realtime(places, topic, behind)
        if late:
            report["remains"]["real-time lane"] = late
            behind = {}
        places.kafka.delete_records(topic, behind)
        report["offsets"][topic] = {str(one): offset for one, offset in behind.items()}
    needles = Needles.of([*report.pop("message_keys"), *asked], report.pop("values"))
    _search_topics(places, needles, report)
    _name_backups(places.home, report)
    return report


def _canonical(key: str) -> str:
    try:
        if isinstance(json.loads(key), dict):
            return canonical_key(key)
    except ValueError:
        pass
    raise UserError(f'{key} is no key: write a JSON object of the key columns, such as {{"id":7}}')


def _refuse_living(connection: Any, stream: Stream, keys: Iterable[str]) -> None:
    """A row that is there would come back with its next change."""
    table = sql.Identifier(stream.schema_name, stream.table_name)
    for key in keys:
        members = json.loads(key)
        told = sql.SQL(" AND ").join(
            sql.SQL("{}::text = {}").format(sql.Identifier(name), sql.Literal(str(value)))
            for name, value in members.items()
        )
        query = sql.SQL("SELECT 1 FROM {} WHERE {} LIMIT 1").format(table, told)
        if connection.execute(query).fetchone():
            raise UserError(f"{stream.source}: the row {key} is at the source: delete it there first")


def _await_confirmation(connection: Any, slot: str) -> str | None:
    """Wait until the slot has passed everything that the source has said of the keys: then no restarted connector
    delivers it again, and Flink's jobs, which do not read the list, meet nothing of it.

    :return: what is to be said where the slot does not get there, None where it did.
    """
    now = connection.execute("SELECT pg_current_wal_lsn()::text AS now").fetchone()["now"]
    query = "SELECT confirmed_flush_lsn >= %s::pg_lsn AS passed FROM pg_replication_slots WHERE slot_name = %s"
    for _ in pauses(_CONFIRMED_WITHIN):
        found = connection.execute(query, [now, slot]).fetchone()
        if found is None or found["passed"]:
            return None
    return (
        f"replication slot {slot} has not passed {now} within {_CONFIRMED_WITHIN:.0f} s: what the connector delivers "
        "again may hold the keys; let it run, then erase once more"
    )


def await_realtime(places: Places, topic: str, offsets: Mapping[int, int], limit: float = _READ_WITHIN) -> str | None:
    """Wait until the real-time lane has read what is to be deleted: other rows' changes lie before it too.

    :param offsets: partition → first offset that stays.
    :param limit: seconds.
    :return: what is to be said where the lane does not get there, None where it did, or never ran.
    """
    group, behind = places.stream.realtime_group, {}
    for _ in pauses(limit):
        done = committed(places.kafka, group, topic, offsets)
        behind = {number: offset for number, offset in done.items() if offset < offsets[number]}
        if not behind:
            return None
    told = ", ".join(f"partition {number} at {offset} of {offsets[number]}" for number, offset in behind.items())
    return (
        f"not truncated, because {places.stream.realtime_job} has not read so far within {limit:.0f} s ({told}): "
        "let it run, then erase once more"
    )


def submit(request: EraseRequest, home: Path | None) -> dict[str, Any]:
    """Run the Spark job; its report.

    :param request: what to erase.
    :param home: RTLAKE_HOME.
    :raises UserError: the erasure is refused.
    :raises JobDied: the job left no report.
    """
    with TemporaryDirectory(prefix="rtlake-erase-") as folder:
        asked, told = Path(folder) / "request.json", Path(folder) / "result.json"
        asked.touch(mode=0o600)
        asked.write_text(request.model_dump_json(), encoding="utf-8")
        # The program is found on the PATH of `env`.
        done = subprocess.run(
            ["spark-submit", APPLICATION, "--request", str(asked), "--result", str(told)],
            env={**os.environ, **environment(home)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if not told.exists():
            raise JobDied(
                f"the erasure's Spark job ended without a report ({done.returncode}):\n{done.stdout[-_TAIL:]}"
            )
        report: dict[str, Any] = json.loads(told.read_text(encoding="utf-8"))
    if "error" in report:
        raise UserError(report["error"])
    return report


def _search_topics(places: Places, needles: Needles, report: dict[str, Any]) -> None:
    stream = places.stream
    names = (stream.topic, stream.dead_letter_topic, stream.current_topic, stream.history_topic)
    present = places.kafka.topics()
    for topic in names:
        if topic is None or topic not in present:
            continue
        messages = found = 0
        for key, value, headers in places.kafka.read_all(topic):
            messages += 1
            content = b"\n".join([key or b"", value or b"", *(text.encode() for text in headers.values())])
            found += needles.in_bytes(content) > 0
        report["searched"][f"topic {topic}"] = messages
        if found:
            report["remains"][f"topic {topic}"] = f"{found} messages; {_what_to_do(stream, topic)}"


def _what_to_do(stream: Stream, topic: str) -> str:
    if topic == stream.dead_letter_topic:
        return "rtlake stream dead-letters dismiss, then delete its records"
    if topic in (stream.current_topic, stream.history_topic):
        tables = " ".join(name for name in (stream.pinot_current, stream.pinot_history) if name)
        return (
            f"Pinot's tables hold them too: rtlake stream stop {stream.source} --lane realtime; "
            f"rtlake pinot delete {tables} --topics --yes; rtlake pinot apply; rtlake stream apply --lane realtime; "
            f"rtlake stream backfill {stream.source}"
        )
    return "a later message of the key: run the erasure again"


def _name_backups(home: Path, report: dict[str, Any]) -> None:
    folder = home / "backups"
    found = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    report["searched"]["backups"] = len(found)
    if found:
        report["remains"]["backups"] = f"{', '.join(found)}: made before, not opened: remove or let expire"
