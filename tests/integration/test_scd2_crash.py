"""Property 16: a merge that is killed at any of its calls and run again leaves what an undisturbed one leaves.

Every call of a merge to the object store and to the catalog goes through a proxy that takes both away at a chosen call,
before it or after it (its answer is lost). By default some calls, spread over the merge, are tried;
``RTLAKE_TEST_CRASH_POINTS=all`` tries each in both ways. A driver is killed with SIGKILL besides.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest

from airflow_provider_rtlake.clients.nessie import MergeResult, NessieClient
from airflow_provider_rtlake.exceptions import ServiceUnavailable
from airflow_provider_rtlake.kit.stack import Stack
from airflow_provider_rtlake.scd2.lake import Lake, catalog_settings
from airflow_provider_rtlake.scd2.publish import Overtaken
from airflow_provider_rtlake.scd2.submit import APPLICATION, SPARK_SETTINGS, Desk, environment
from tests.fault_proxy import AFTER, BEFORE, Faults, fault_proxy
from tests.oracle import Oracle
from tests.scd2_lake import LakeTable
from tests.scd2_source import Source
from tests.unit.test_scd2_fold_random import random_transactions

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(3600)]
MAKE = Callable[..., LakeTable]
CATALOG = "faulty"
POINTS = os.environ.get("RTLAKE_TEST_CRASH_POINTS", "10")
SEED = int(os.environ.get("RTLAKE_TEST_SEED", "20261121"))
KILLS = int(os.environ.get("RTLAKE_TEST_KILLS", "1"))


@pytest.fixture(scope="module")
def faults(spark: Any, stack: Stack) -> Iterator[Faults]:
    """A catalog whose object store and Nessie can be taken away."""
    made = Faults()
    settings = catalog_settings(spark, "nessie")
    with ExitStack() as proxies:
        settings["uri"] = proxies.enter_context(fault_proxy(settings["uri"], made))
        settings["s3.endpoint"] = proxies.enter_context(fault_proxy(settings["s3.endpoint"], made))
        settings["s3.retry.num-retries"] = "0"
        spark.conf.set(f"spark.sql.catalog.{CATALOG}", "org.apache.iceberg.spark.SparkCatalog")
        for name, value in settings.items():
            spark.conf.set(f"spark.sql.catalog.{CATALOG}.{name}", value)
        yield made


class Trial:
    """A table that is merged under faults, and what it must hold."""

    def __init__(self, table: LakeTable, faults: Faults) -> None:
        self.table, self.faults = table, faults
        self.source, self.oracle = Source(), Oracle()
        self.dice = random.Random(SEED)
        self.clock = 1_000_000

    def arrive(self) -> None:
        """Two random transactions."""
        count = len(self.source.messages)
        self.clock = random_transactions(self.dice, self.source, self.oracle, self.clock, keys=12, transactions=2)
        self.table.arrive([raw for group in self.source.messages[count:] for raw in group])

    def merge(self) -> Any:
        """One merge through the proxies, by a catalog client that does not try again."""
        uri = self.table.spark.conf.get(f"spark.sql.catalog.{CATALOG}.uri")
        with NessieClient(uri, attempts=1) as nessie:
            return self.table.merge(nessie=nessie, catalog=CATALOG)


def calls_of_a_merge(trial: Trial) -> list[str]:
    """The calls of an undisturbed merge."""
    trial.arrive()
    trial.faults.arm(None)
    assert trial.merge().changed
    return list(trial.faults.calls)


def test_property_16_every_storage_and_catalog_call_of_a_merge_may_be_its_last(
    lake_table: MAKE, faults: Faults
) -> None:
    trial = Trial(lake_table(), faults)
    calls_of_a_merge(trial)
    calls = calls_of_a_merge(trial)  # not the first: that one makes the tables
    points = [(at, mode) for at in range(1, len(calls) + 1) for mode in (BEFORE, AFTER)]
    if POINTS != "all":
        offset = trial.dice.randrange(len(points))
        step = len(points) / int(POINTS)
        points = sorted({points[int(offset + number * step) % len(points)] for number in range(int(POINTS))})
    failed = 0
    for at, mode in points:
        trial.arrive()
        before = trial.table.snapshots()
        faults.arm(at, mode)
        try:
            trial.merge()
        except Exception as error:
            failed += 1
            cause = f"seed {SEED}, call {at} {mode}: {faults.calls[at - 1 :][:1]}: {type(error).__name__}: {error}"
        else:
            cause = f"seed {SEED}, call {at} {mode}: the merge got over it"
        faults.arm(None)
        after = trial.table.snapshots()
        assert after == before or all(map(int.__ne__, before, after)), f"half of a merge is on main; {cause}"
        trial.merge()
        assert trial.table.facts() == trial.oracle.facts(), cause
    assert trial.table.branches() == []
    print(f"crash points: {len(calls)} calls in a merge, {len(points)} tried, {failed} merges failed, all made good")
    assert failed > len(points) // 2
    undisturbed = lake_table()
    undisturbed.arrive([raw for group in trial.source.messages for raw in group])
    undisturbed.merge()
    assert undisturbed.everything() == trial.table.everything()


def test_property_16_a_first_merge_that_is_cut_off_and_run_again(lake_table: MAKE, faults: Faults) -> None:
    first = Trial(lake_table(), faults)
    calls = calls_of_a_merge(first)
    for at in (len(calls) // 3, len(calls) * 2 // 3, len(calls) - 1):
        trial = Trial(lake_table(), faults)
        trial.arrive()
        faults.arm(at)
        with pytest.raises(Exception, match=r".") as raised:
            trial.merge()
        faults.arm(None)
        trial.table.merge()
        assert trial.table.facts() == trial.oracle.facts(), f"seed {SEED}, call {at}: {raised.value}"


class LostAnswer:
    """Nessie's client, whose merge is applied, or not, and whose answer is lost."""

    def __init__(self, client: NessieClient, applied: bool) -> None:
        self._client, self._applied = client, applied

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def merge(self, *args: Any, **kwargs: Any) -> MergeResult:
        if self._applied:
            self._client.merge(*args, **kwargs)
        raise ServiceUnavailable("Nessie", "no answer")


def test_property_16_after_a_lost_answer_the_checkpoint_on_main_decides(lake_table: MAKE) -> None:
    source, table = Source(), lake_table()
    table.arrive(source.begin(10).insert(1, a="x").commit())
    table.merge()
    table.arrive(source.begin(20).update(1, a="y").commit())
    with pytest.raises(ServiceUnavailable):
        table.merge(nessie=LostAnswer(table.nessie, applied=False))
    assert [row.a for row in table.rows()] == ["x"]
    assert table.merge(nessie=LostAnswer(table.nessie, applied=True)).changed
    assert [row.a for row in table.rows()] == ["x", "y"]
    assert not table.merge().changed


def test_property_16_maintenance_beside_a_merge_loses_nothing(lake_table: MAKE) -> None:
    source, table = Source(), lake_table()
    for moment in range(3):
        tx = source.begin(moment)
        table.arrive((tx.update(1, a=str(moment)) if moment else tx.insert(1, a="0").insert(2, a="p")).commit())
        table.merge()
    table.arrive(source.begin(20).update(1, a="y").commit())

    def compact(step: str) -> None:
        if step == "publish":
            main = Lake(table.spark, table.request.catalog, "main")
            main.sql(
                f"CALL {main.name}.system.rewrite_data_files(table => '{table.request.history}', "
                "options => map('rewrite-all', 'true'))"
            )

    with pytest.raises(Overtaken, match="maintenance"):
        table.merge(crash=compact)
    assert [row.a for row in table.rows() if row.scd2_key == '{"id":1}'] == ["0", "1", "2"]
    table.merge()
    assert [row.a for row in table.rows() if row.scd2_key == '{"id":1}'] == ["0", "1", "2", "y"]


def test_property_16_a_driver_killed_at_a_random_time(lake_table: MAKE, stack: Stack, tmp_path: Path) -> None:
    trial = Trial(lake_table(), Faults())
    trial.arrive()
    trial.table.merge()
    for number in range(KILLS):
        trial.arrive()
        folder = tmp_path / str(number)
        folder.mkdir()
        settings = [part for name, value in SPARK_SETTINGS.items() for part in ("--conf", f"{name}={value}")]
        command = ["spark-submit", *settings, APPLICATION, *Desk(folder).arguments([trial.table.request])]
        variables = {**os.environ, **environment(stack.home)}
        variables.pop("SPARK_HOME", None)
        with subprocess.Popen(
            command, env=variables, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
        ) as process:
            # The merge's own work begins with its branch, or a moment before or after: wait for that, then a little.
            limit = trial.dice.uniform(0, 1.5)
            _wait_for_branch(trial.table, process, limit)
            for child in psutil.Process(process.pid).children(recursive=True):
                child.send_signal(signal.SIGKILL)
            process.kill()
        trial.table.merge()
        assert trial.table.facts() == trial.oracle.facts(), f"seed {SEED}, kill {number} after {limit:.3f} s"


def _wait_for_branch(table: LakeTable, process: subprocess.Popen[bytes], more: float) -> None:
    for _ in range(1200):
        if process.poll() is not None:
            return
        if table.branches():
            break
        try:
            process.wait(0.05)
        except subprocess.TimeoutExpired:
            continue
    try:
        process.wait(more)
    except subprocess.TimeoutExpired:
        return
