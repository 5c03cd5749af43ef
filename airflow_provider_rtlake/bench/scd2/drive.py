"""Runs the sides in turn, A B C A B C …, on the same batches, and compares them."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from airflow_provider_rtlake.bench.machine import describe
from airflow_provider_rtlake.bench.scd2 import dbt_sides
from airflow_provider_rtlake.bench.scd2.data import COLLECTION, Orders
from airflow_provider_rtlake.bench.scd2.sides import Ours, Timed, Upsert, cold, straightforward
from airflow_provider_rtlake.exceptions import RtlakeError, UserError
from airflow_provider_rtlake.kit.stack import Stack
from airflow_provider_rtlake.scd2.request import MergeRequest
from airflow_provider_rtlake.scd2.submit import installed_catalog

SIDES = ("warm", "cold", "straightforward", "pyiceberg", "dbt", "dbt_spark")
_NAMESPACE = "bench_scd2"
_COMMIT_ROWS = 100_000  # rows of one commit of bronze
_EDGE = 5  # batches at each end that tell whether merges stay as quick
_MANY = 500_000  # changes from which the aims for a million count
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Wish:
    """What to measure.

    :param changes: of a batch.
    :param keys: of the table.
    :param runs: of each side, one after another in turn.
    :param sides: of :data:`SIDES`; ``warm`` is always among them.
    :param batches: merges in all of the warm side, for how flat they stay; 0 for no more than ``runs``.
    :param slope_keys: keys of a second table that only the warm side merges into; 0 for none.
    :param seed: of the workload.
    """

    changes: int = 10_000
    keys: int = 1_000_000
    runs: int = 5
    sides: tuple[str, ...] = SIDES
    batches: int = 0
    slope_keys: int = 0
    seed: int = 1


@dataclass
class Found:
    """What was measured.

    :param sides: seconds and memory of each.
    :param skipped: side → why it did not run.
    :param flat: seconds of each warm merge, in order.
    :param slope: seconds of the warm merges of the larger table.
    :param equal: whether all histories hold the same.
    """

    wish: Wish
    machine: dict[str, Any]
    sides: dict[str, Timed] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    flat: list[float] = field(default_factory=list)
    slope: list[float] = field(default_factory=list)
    equal: bool = False

    def median(self, side: str) -> float | None:
        """Seconds of a side, None where it did not run."""
        timed = self.sides.get(side)
        return statistics.median(timed.seconds) if timed and timed.seconds else None

    def ratios(self) -> dict[str, float | None]:
        """How many times as long the others take."""
        warm, cold_, plain = self.median("warm"), self.median("cold"), self.median("straightforward")
        found = {
            "r1_cold": _ratio(plain, cold_),
            "r1_warm": _ratio(plain, warm),
            "r2": _ratio(self.median("pyiceberg"), warm),
            "r3": _ratio(self.median("dbt"), warm),
            "r3_spark": _ratio(self.median("dbt_spark"), warm),
            "flat": None,
            "slope": None,
        }
        if len(self.flat) >= 2 * _EDGE:
            found["flat"] = _ratio(statistics.median(self.flat[-_EDGE:]), statistics.median(self.flat[:_EDGE]))
        if self.slope and warm:
            growth = statistics.median(self.slope) / warm - 1
            found["slope"] = round(growth / (self.wish.slope_keys / self.wish.keys - 1), 3)
        return found

    def goals(self) -> dict[str, dict[str, Any]]:
        """Each aim, what was found, and whether it was met."""
        many = self.wish.changes >= _MANY
        aims: dict[str, tuple[str, float]] = {
            "r1_cold": (">=", 3.0),
            "r2": (">=", 5.0 if many else 1.5),
            "flat": ("<=", 1.25),
            "slope": ("<=", 0.2),
        }
        if not many:
            aims |= {"r1_warm": (">=", 10.0), "r3": (">=", 1.5), "r3_spark": (">=", 5.0)}
        found = {}
        for name, value in self.ratios().items():
            if value is None or name not in aims:
                continue
            sign, aim = aims[name]
            found[name] = {
                "aim": f"{sign} {aim:g}",
                "found": value,
                "met": value >= aim if sign == ">=" else value <= aim,
            }
        rss = self.sides["warm"].memory.peak_mb
        found["peak_rss_mb"] = {"aim": "<= 1536", "found": rss, "met": rss <= 1536}
        found["equal"] = {"aim": "histories agree", "found": self.equal, "met": self.equal}
        return found

    def as_dict(self) -> dict[str, Any]:
        """Everything, for a record."""
        goals = self.goals()
        return {
            "ok": True,
            "wish": asdict(self.wish),
            "machine": self.machine,
            "sides": {
                name: {
                    "seconds": timed.seconds,
                    "median": self.median(name),
                    "spread": [min(timed.seconds), max(timed.seconds)],
                    "peak_rss_mb": timed.memory.peak_mb,
                    **({"inner": timed.inner} if timed.inner else {}),
                    **({"steps": timed.steps} if timed.steps else {}),
                }
                for name, timed in self.sides.items()
                if timed.seconds
            },
            "skipped": self.skipped,
            "flat": self.flat,
            "slope": self.slope,
            "ratios": self.ratios(),
            "goals": goals,
            "goals_met": all(goal["met"] for goal in goals.values()),
        }


def _ratio(other: float | None, own: float | None) -> float | None:
    return round(other / own, 2) if other and own else None


class Bench:
    """One measurement on a running stack.

    :param stack: where.
    :param wish: what.
    :param tell: progress, for people.
    :param keep: gets what was found as soon as the sides are compared, and again at the end.
    """

    def __init__(
        self, stack: Stack, wish: Wish, tell: Tell, keep: Callable[[Found], None] = lambda found: None
    ) -> None:
        unknown = set(wish.sides) - set(SIDES)
        if unknown:
            raise UserError(f"--sides: {', '.join(sorted(unknown))}: choose among {', '.join(SIDES)}")
        if wish.changes > wish.keys:
            raise UserError(f"--changes {wish.changes}: a batch changes each of {wish.keys} keys once at most")
        self._stack, self._wish, self._tell, self._keep = stack, wish, tell, keep
        self._name = f"{_NAMESPACE}.t{uuid.uuid4().hex[:8]}"
        machine = describe()
        self.found = Found(wish, machine.model_dump())

    def _request(self, side: str, table: str = "") -> MergeRequest:
        name = f"{self._name}{table}"
        return MergeRequest(
            history=f"{name}_{side}",
            base=f"{name}_{side}",
            bronze=f"{name}_bronze",
            collection=COLLECTION,
        )

    def run(self) -> Found:
        """Prepare, measure, compare, clean up."""
        home = self._stack.home
        (home / "run").mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="rtlake-bench-scd2-") as folder:
            ours = Ours(home)
            try:
                self._measure(ours, home, Path(folder))
                self._keep(self.found)
                if self._wish.slope_keys:
                    self._slope(ours, Path(folder))
                    self._keep(self.found)
            finally:
                self._clean(ours)
        return self.found

    def _measure(self, ours: Ours, home: Path, folder: Path) -> None:
        wish, sides = self._wish, self._sides()
        self._tell(f"a table of {wish.keys:,} keys")
        orders = Orders(wish.keys, wish.seed)
        first = _written(folder / "bronze.parquet", orders.snapshot())
        ours.ask("create", request=self._request("warm").model_dump(mode="json"), path=first)
        ours.ask("merge")
        # Not measured: a session is warm when it has merged such a batch before.
        ours.ask("load", path=_file(folder / "bronze.parquet", orders.change(wish.changes)[0]))
        ours.ask("merge")
        _file(folder / "whole.parquet", orders.whole())
        for side in sides:
            side.prepare(ours, home, folder)
        for number in range(wish.runs):
            rows, altered = orders.change(wish.changes)
            ours.ask("load", path=_file(folder / "bronze.parquet", rows))
            _file(folder / "altered.parquet", altered)
            _file(folder / "whole.parquet", orders.whole())
            del rows, altered
            self._warm(ours)
            for side in sides:
                side.run(ours)
            newest = {name: timed.seconds[-1:] for name, timed in self.found.sides.items()}
            steps = self.found.sides["warm"].steps[-1]
            self._tell(f"run {number + 1} of {wish.runs}: {json.dumps(newest)}; steps of warm: {json.dumps(steps)}")
        checks = [ours.ask("check", history=self._request("warm").history)]
        checks += [found for side in sides if (found := side.check(ours)) is not None]
        self.found.equal = all(one == checks[0] for one in checks)
        self._tell(f"histories: {json.dumps(checks)}")
        for _ in range(wish.batches - len(self.found.flat)):
            ours.ask("load", path=_file(folder / "bronze.parquet", orders.change(wish.changes)[0]))
            self.found.flat.append(ours.ask("merge")["wall"])

    def _warm(self, ours: Ours) -> None:
        timed = self.found.sides.setdefault("warm", Timed())
        with timed.memory.watch(ours.pid):
            answer = ours.ask("merge")
        timed.seconds.append(answer["wall"])
        timed.steps.append(answer["merges"][-1]["steps"])
        self.found.flat.append(answer["wall"])

    def _slope(self, ours: Ours, folder: Path) -> None:
        wish = self._wish
        self._tell(f"a table of {wish.slope_keys:,} keys")
        request = self._request("warm", "big")
        orders = Orders(wish.slope_keys, wish.seed)
        first = _written(folder / "bronze.parquet", orders.snapshot())
        ours.ask("create", request=request.model_dump(mode="json"), path=first)
        ours.ask("merge")
        for number in range(wish.runs + 1):
            ours.ask("load", path=_file(folder / "bronze.parquet", orders.change(wish.changes)[0]))
            wall = ours.ask("merge")["wall"]
            if number:  # the first batch is not measured, as on the other table: it tidies what the snapshot left
                self.found.slope.append(wall)

    def _sides(self) -> list[_Side]:
        made = []
        for name, kind in _KINDS.items():
            if name not in self._wish.sides:
                continue
            missing = dbt_sides.missing() if name.startswith("dbt") else None
            if missing:
                self.found.skipped[name] = missing
                self._tell(f"{name}: left out: {missing}")
                continue
            made.append(kind(self._request(name), self.found.sides.setdefault(name, Timed())))
        return made

    def _clean(self, ours: Ours) -> None:
        tables = []
        for side in ("warm", "cold", "straightforward"):
            for table in ("", "big"):
                history = self._request(side, table).history
                tables += [history, f"{history}_changes", f"{history}_checkpoint"]
        tables += [self._request("", table).bronze for table in ("", "big")]
        try:
            ours.ask("drop", tables=tables)
            ours.close()
        except (RtlakeError, OSError) as error:
            self._tell(f"tables of {self._name} may be left: {error}")


class _Side(ABC):
    """Another way to do a batch.

    :param request: our merge's request under the side's name.
    :param timed: gets its times.
    """

    def __init__(self, request: MergeRequest, timed: Timed) -> None:
        self.request, self.timed = request, timed

    @abstractmethod
    def prepare(self, ours: Ours, home: Path, folder: Path) -> None:
        """Bring the table as it was before the first batch."""

    @abstractmethod
    def run(self, ours: Ours) -> None:
        """Do the batch, and note the time."""

    def check(self, ours: Ours) -> dict[str, Any] | None:
        """What its history holds, None where it keeps none that can be compared."""
        return ours.ask("check", history=self.request.history)


class _Cold(_Side):
    def prepare(self, ours: Ours, home: Path, folder: Path) -> None:
        self._home, self._file = home, folder / "request.json"
        self._file.write_text(json.dumps([self.request.model_dump(mode="json")]), encoding="utf-8")
        self._merge(None)

    def run(self, ours: Ours) -> None:
        answer = self._merge(self.timed)
        self.timed.inner.append(answer["seconds"])
        self.timed.steps.append(answer["merges"][-1]["steps"])

    def _merge(self, timed: Timed | None) -> dict[str, Any]:
        answer = cold(self._home, self._file, self._file.with_suffix(".result"), timed)
        if "error" in answer:
            raise RtlakeError(f"cold merge: {answer['message']}")
        return answer


class _Straightforward(_Side):
    def prepare(self, ours: Ours, home: Path, folder: Path) -> None:
        self._home = home
        self.run(ours)
        self.timed.seconds.clear()
        self.timed.memory.peak_mb = 0

    def run(self, ours: Ours) -> None:
        catalog = self.request.catalog
        bronze, history = f"{catalog}.{self.request.bronze}", f"{catalog}.{self.request.history}"
        straightforward(self._home, bronze, history, self.timed)


class _PyIceberg(_Side):
    def prepare(self, ours: Ours, home: Path, folder: Path) -> None:
        self._altered = folder / "altered.parquet"
        self._upsert = Upsert(home, folder, installed_catalog(self.request.catalog, home), self.request.history)
        self._upsert.do("create", folder / "whole.parquet")

    def run(self, ours: Ours) -> None:
        self._upsert.do("upsert", self._altered, self.timed)

    def check(self, ours: Ours) -> dict[str, Any] | None:
        return None  # deletes never reach it


class _Dbt(_Side):
    kind: type[dbt_sides.DuckDbSnapshot | dbt_sides.SparkSnapshot] = dbt_sides.DuckDbSnapshot

    def prepare(self, ours: Ours, home: Path, folder: Path) -> None:
        self._whole = folder / "whole.parquet"
        own = folder / self.kind.__name__
        own.mkdir()
        self._snapshot = self.kind(home, own)
        self._snapshot.source(self._whole)
        self._snapshot.snapshot()

    def run(self, ours: Ours) -> None:
        self._snapshot.source(self._whole)
        self._snapshot.snapshot(self.timed)

    def check(self, ours: Ours) -> dict[str, Any] | None:
        return None  # its times are those of its runs


class _DbtSpark(_Dbt):
    kind = dbt_sides.SparkSnapshot


def _file(path: Path, *tables: pa.Table) -> str:
    return _written(path, iter(tables))


def _written(path: Path, tables: Iterator[pa.Table]) -> str:
    first = next(tables)
    with pq.ParquetWriter(path, first.schema) as writer:
        for table in chain([first], tables):
            writer.write_table(table, row_group_size=_COMMIT_ROWS)
    return str(path)


_KINDS: dict[str, type[_Side]] = {
    "cold": _Cold,
    "straightforward": _Straightforward,
    "pyiceberg": _PyIceberg,
    "dbt": _Dbt,
    "dbt_spark": _DbtSpark,
}


def stamp() -> str:
    """A record's name."""
    return time.strftime("%Y-%m-%dT%H%M%S", time.gmtime())
