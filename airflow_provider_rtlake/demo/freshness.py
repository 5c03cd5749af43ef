"""How long a committed change takes until a reader sees it, in each lane, while the source is under load.

A probe is an update that alters nothing: it takes the whole way like any other change, and leaves every table
as it was. The load is made of the same. What is measured includes the reader's own query, and the pauses
between two of them: a reader sees no sooner.
"""

# ruff: noqa: S608 - every name in a query went through quoted(), every text through literal()

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import sql

from airflow_provider_rtlake.demo.access import Access, literal, table_name
from airflow_provider_rtlake.demo.kafka_count import watermarks
from airflow_provider_rtlake.demo.sales import identifier
from airflow_provider_rtlake.exceptions import NotFound, RtlakeError, UserError, WaitTimeout
from airflow_provider_rtlake.streams.model import Stream
from airflow_provider_rtlake.streams.naming import quote_identifier as quoted

_PAUSE = {"pinot": 0.005, "bronze": 0.3, "history": 0.3}  # seconds between two looks at a lane
_BARS = " ▁▂▃▄▅▆▇█"


@dataclass
class Samples:
    """Delays of one lane.

    :param seconds: one for each probe that was seen.
    :param missed: probes that were not seen in time.
    """

    seconds: list[float] = field(default_factory=list)
    missed: int = 0

    def quantile(self, share: float) -> float | None:
        """The delay in milliseconds that the given share of probes did not exceed (nearest rank)."""
        if not self.seconds:
            return None
        ordered = sorted(self.seconds)
        rank = max(1, -(-len(ordered) * round(share * 1000) // 1000))
        return round(ordered[rank - 1] * 1000, 1)

    def summary(self) -> dict[str, float | int | None]:
        """p50 and p99 in milliseconds, number of samples, and of probes that were never seen."""
        return {
            "p50": self.quantile(0.5),
            "p99": self.quantile(0.99),
            "samples": len(self.seconds),
            "missed": self.missed,
        }

    def histogram(self, width: int = 24) -> str:
        """One line of bars from the smallest to the largest delay."""
        if not self.seconds:
            return ""
        low, high = min(self.seconds), max(self.seconds)
        counts = [0] * width
        for one in self.seconds:
            counts[min(width - 1, int((one - low) / (high - low or 1) * width))] += 1
        most = max(counts)
        return "".join(_BARS[-(-count * (len(_BARS) - 1) // most)] for count in counts)


@dataclass
class _Probe:
    key: int
    committed: float | None = None
    seen: set[str] = field(default_factory=set)


class _Flight:
    """Probes under way, shared by the thread that sends them and those that look for them."""

    def __init__(self, keys: Sequence[int]) -> None:
        self.probes = {key: _Probe(key) for key in keys}
        self.lock = threading.Lock()
        self.sent = threading.Event()

    def open(self, lane: str) -> list[int]:
        """Keys sent and not yet seen in a lane."""
        with self.lock:
            return [one.key for one in self.probes.values() if one.committed is not None and lane not in one.seen]

    def finished(self, lane: str) -> bool:
        return self.sent.is_set() and not self.open(lane)

    def see(self, lane: str, key: int, samples: Samples) -> None:
        now = time.monotonic()
        with self.lock:
            probe = self.probes[key]
            if lane in probe.seen or probe.committed is None:
                return
            probe.seen.add(lane)
            samples.seconds.append(now - probe.committed)


Look = Callable[[list[int]], list[int]]  # keys not yet seen → those that are visible now


class Meter:
    """Measures the lanes of one table, whose key is one integer column.

    :param access: doors to the databases; each thread opens its own.
    :param stream: the table.
    :param key: its key column.
    """

    def __init__(self, access: Access, stream: Stream, key: str = "id") -> None:
        self._access = access
        self._stream = stream
        self._key = key

    def measure(
        self, lane: str, *, probes: int = 60, every: float = 0.2, rate: float = 200.0, limit: float = 120.0
    ) -> Samples:
        """Send probes at a steady pace under load, and look for each in one lane.

        Lanes are measured one after another: a reader's queries take the same processors as the lanes.

        :param lane: ``pinot`` or ``bronze``.
        :param probes: how many.
        :param every: seconds between two.
        :param rate: changes a second of the load beside them; 0 for none.
        :param limit: seconds to wait for the last one.
        :raises UserError: the table holds too few rows.
        """
        keys, load_keys = self._keys(probes)
        flight, samples, stop = _Flight(keys), Samples(), threading.Event()
        look = self._pinot_look(keys) if lane == "pinot" else self._bronze_look()
        errors: list[BaseException] = []
        threads = [threading.Thread(target=_guard, args=(errors, stop, self._watch, flight, lane, look, samples, stop))]
        if rate > 0:
            threads.append(threading.Thread(target=_guard, args=(errors, stop, self._load, load_keys, rate, stop)))
        for thread in threads:
            thread.start()
        try:
            self._send(flight, every, stop)
            threads[0].join(timeout=limit)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        if errors:
            raise errors[0]
        samples.missed = probes - len(samples.seconds)
        return samples

    def until_history(self, publish: Callable[[], None], *, limit: float = 60.0) -> Samples:
        """From the commit of one change to the history on main that includes it.

        :param publish: starts whatever publishes the history; called once, after the commit.
        :param limit: seconds that it may take after ``publish`` has returned.
        :raises WaitTimeout: not even Pinot shows the change.
        """
        samples, key = Samples(), self._keys(1)[0][0]
        before = self._positions([key])[key]
        with self._source() as conn:
            self._touch(conn, key)
            begin = time.monotonic()
        while (wanted := self._positions([key])[key]) == before:
            if time.monotonic() - begin > limit:
                raise WaitTimeout(f"Pinot {self._stream.pinot_current} did not show a change in {limit:.0f} s")
        stop, errors = threading.Event(), list[BaseException]()

        def look() -> None:
            while not stop.is_set():
                if self._history_position() >= wanted:
                    samples.seconds.append(time.monotonic() - begin)
                    return
                stop.wait(_PAUSE["history"])

        watcher = threading.Thread(target=_guard, args=(errors, stop, look))
        watcher.start()
        try:
            publish()
            watcher.join(timeout=limit)
        finally:
            stop.set()
            watcher.join()
        if errors:
            raise errors[0]
        samples.missed = 1 - len(samples.seconds)
        return samples

    def _history_position(self) -> str:
        """How far the history on main is; empty while there is none."""
        name = table_name(f"{self._stream.history_base}_checkpoint")
        try:
            return str(self._access.trino(f"SELECT coalesce(max(position), '') FROM {name}")[0][0])
        except NotFound:
            return ""

    def _positions(self, keys: Sequence[int], access: Access | None = None) -> dict[int, str]:
        """Position of the newest change of each row in Pinot."""
        table, key = quoted(str(self._stream.pinot_current)), quoted(self._key)
        chosen = ", ".join(map(str, keys))
        rows = (access or self._access).pinot(
            f"SELECT {key}, position FROM {table} WHERE {key} IN ({chosen}) LIMIT {len(keys)}"
        )
        return {int(found): str(position) for found, position in rows}

    def _source(self) -> Any:
        database = self._stream.connector.database
        return self._access.source(database.connection, database.name)

    def _keys(self, probes: int) -> tuple[list[int], list[int]]:
        """Keys to probe, and other keys for the load."""
        query = sql.SQL("SELECT {0} FROM {1} ORDER BY {0} LIMIT %s").format(
            sql.Identifier(self._key), identifier(self._stream.source)
        )
        with self._source() as conn:
            keys = [row[0] for row in conn.execute(query, [probes + 1000])]
        if len(keys) < probes + 1:
            raise UserError(f"{self._stream.source} holds {len(keys)} rows: too few for {probes} probes and a load")
        return keys[:probes], keys[probes:]

    def _touch(self, conn: psycopg.Connection[Any], key: int) -> None:
        name = sql.Identifier(self._key)
        conn.execute(
            sql.SQL("UPDATE {0} SET {1} = {1} WHERE {1} = %s").format(identifier(self._stream.source), name),
            [key],
        )

    def _send(self, flight: _Flight, every: float, stop: threading.Event) -> None:
        begin = time.monotonic()
        with self._source() as conn:
            for number, probe in enumerate(flight.probes.values()):
                stop.wait(max(0.0, begin + number * every - time.monotonic()))
                self._touch(conn, probe.key)
                with flight.lock:
                    probe.committed = time.monotonic()
        flight.sent.set()

    def _load(self, keys: Sequence[int], rate: float, stop: threading.Event) -> None:
        done, begin = 0, time.monotonic()
        with self._source() as conn:
            while not stop.is_set():
                due = int((time.monotonic() - begin) * rate) - done
                if due <= 0:
                    stop.wait(1 / rate)
                    continue
                with conn.pipeline():
                    for number in range(due):
                        self._touch(conn, keys[(done + number) % len(keys)])
                done += due

    def _watch(self, flight: _Flight, lane: str, look: Look, samples: Samples, stop: threading.Event) -> None:
        while not stop.is_set() and not flight.finished(lane):
            waiting = flight.open(lane)
            for key in look(waiting) if waiting else ():
                flight.see(lane, key, samples)
            stop.wait(_PAUSE[lane])

    def _pinot_look(self, keys: Sequence[int]) -> Look:
        """A probe is visible when its row's position is another than before."""
        access = Access(self._access.stack)
        before = self._positions(keys, access)

        def look(waiting: list[int]) -> list[int]:
            return [one for one, place in self._positions(waiting, access).items() if place != before.get(one)]

        return look

    def _bronze_look(self) -> Look:
        """A probe is visible when bronze has a message of its key after those that the topic held before."""
        access, name = Access(self._access.stack), table_name(self._stream.bronze_table)
        consumer = access.consumer()
        try:
            ends = watermarks(consumer, self._stream.topic).high
        finally:
            consumer.close()
        if not ends:
            raise NotFound("Kafka", f"no topic {self._stream.topic}: rtlake connectors apply")
        newer = " OR ".join(
            f"(topic_partition = {partition} AND topic_offset >= {end})" for partition, end in ends.items()
        )
        # Trino leaves files out by the first condition, not by the second; the lane's files are many and small.
        newer = f"topic_offset >= {min(ends.values())} AND ({newer})"

        def look(waiting: list[int]) -> list[int]:
            texts = {json.dumps({self._key: key}, separators=(",", ":")): key for key in waiting}
            found = access.trino(
                f"SELECT DISTINCT message_key FROM {name} WHERE {newer}"
                f" AND message_key IN ({', '.join(map(literal, texts))})"
            )
            return [texts[row[0]] for row in found]

        return look


def _guard(errors: list[BaseException], stop: threading.Event, work: Callable[..., None], *arguments: Any) -> None:
    try:
        work(*arguments)
    except (RtlakeError, psycopg.Error) as error:
        errors.append(error)
        stop.set()
