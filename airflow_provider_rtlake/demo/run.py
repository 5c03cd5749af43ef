"""The demo: input goes in, Airflow deploys and runs the pipelines, and every hop is compared."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from airflow_provider_rtlake.demo import inputs
from airflow_provider_rtlake.demo.access import Access
from airflow_provider_rtlake.demo.airflow import Airflow
from airflow_provider_rtlake.demo.answers import Answer, Questions
from airflow_provider_rtlake.demo.freshness import Meter, Samples
from airflow_provider_rtlake.demo.hops import LANES, TableCheck, TableHops, captured, settle
from airflow_provider_rtlake.demo.steps import Steps
from airflow_provider_rtlake.exceptions import ServiceError
from airflow_provider_rtlake.kit.health import Health, check_all
from airflow_provider_rtlake.kit.stack import Stack
from airflow_provider_rtlake.streams.load import load_connectors
from airflow_provider_rtlake.streams.model import Stream

SALES = "public.source_sales"
ADMIN = "airflow_admin"  # name of the secret
_HISTORIES = "scd2_"  # begins the name of every DAG that merges
_DEPLOY_SECONDS = 420.0
_RUN_SECONDS = 600.0


@dataclass
class Report:
    """What the demo found.

    :param hops: each table at every hop.
    :param freshness: lane → delays.
    :param answers: the users' questions.
    :param services: service → health and memory.
    :param seconds: step → seconds.
    """

    hops: list[TableHops] = field(default_factory=list)
    freshness: dict[str, Samples] = field(default_factory=dict)
    answers: list[Answer] = field(default_factory=list)
    services: dict[str, Health] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def problems(self) -> list[str]:
        """Everything that is not as it should be, one line each."""
        found = [f"{hops.table}: {problem}" for hops in self.hops for problem in hops.problems]
        found += [f"{one.question}: {one.problem}" for one in self.answers if one.problem]
        found += [f"{name}: {state.detail}" for name, state in self.services.items() if not state.healthy]
        return found

    def as_dict(self, total: float) -> dict[str, Any]:
        """The line that ``--json`` ends with.

        :param total: seconds of the whole call.
        """
        rows = {f"{_short(hops.table)}.{hop}": count for hops in self.hops for hop, count in hops.rows.items()}
        return {
            "ok": not self.problems,
            "seconds": round(total, 1),
            "hops": rows,
            "equal": bool(self.hops) and all(hops.equal for hops in self.hops),
            "freshness_ms": {lane: samples.summary() for lane, samples in self.freshness.items()},
            "services": {
                name: {"healthy": state.healthy, "rss_mb": state.rss_mb} for name, state in self.services.items()
            },
            "steps": self.seconds,
            "problems": self.problems,
        }


def _short(table: str) -> str:
    return table.removeprefix("public.")


class Demo:
    """One call of ``rtlake demo``, after the services are up.

    :param stack: the running stack.
    :param connectors: folder of the declarations that Airflow deploys.
    :param given: the input.
    :param steps: told what happens.
    """

    def __init__(self, stack: Stack, connectors: Path, given: inputs.Input, steps: Steps) -> None:
        self._stack = stack
        self._folder = connectors
        self._given = given
        self._steps = steps
        self._access = Access(stack)
        self._airflow = Airflow(stack.service("airflow-api-server").url, "admin", stack.secret(ADMIN))
        self.report = Report(seconds=steps.seconds)

    def run(self) -> Report:
        """All steps, in order.

        :raises RtlakeError: a step could not be done; what does not agree is in the report instead.
        """
        try:
            with self._steps.step("Airflow: DAGs are read"):
                self._airflow.wait_for_dag("lakehouse_deploy")
            # What is measured runs alone; and no merge takes the processors from lanes that still warm up.
            with self._airflow.quiet([*self._airflow.dags("lakehouse_"), *self._airflow.dags(_HISTORIES)]):
                self._all()
        except psycopg.Error as error:
            raise ServiceError("PostgreSQL", str(error).strip()) from error
        finally:
            self._access.close()
            self._airflow.close()
        return self.report

    def _all(self) -> None:
        self._rows_and_deployment()
        found = captured(self._access, load_connectors(self._folder))
        checks = [TableCheck(self._access, stream, schema) for stream, schema in found]
        sales = next((stream for stream, _ in found if stream.source == SALES), None)
        self._changes(checks)
        if sales is not None:
            self._freshness(sales)
        self._histories(sales)
        with self._steps.step("dbt gold models and Airflow's checks"):
            self._airflow.run(["lakehouse_gold", "lakehouse_checks"], limit=_RUN_SECONDS, watch=self._watch)
        self._compare(checks, sales)

    def _watch(self, dag: str, what: str) -> None:
        self._steps.say(f"{dag} {what}")

    def _rows_and_deployment(self) -> None:
        with self._steps.step("Input: sales and taxi trips"), self._access.source() as conn:
            inputs.prepare(conn)
            done = inputs.bring_rows(conn, self._given, lambda rows: self._steps.say(f"{rows:,} trips"))
            self._steps.say(_brought(done, "rows"))
        with self._steps.step("Deployment by Airflow: connectors, Flink jobs, Pinot tables"):
            self._airflow.run(["lakehouse_deploy"], limit=_DEPLOY_SECONDS, watch=self._watch)

    def _changes(self, checks: list[TableCheck]) -> None:
        with self._steps.step("Input: inserts, updates, deletes, corrections"), self._access.source() as conn:
            done = inputs.bring_changes(conn, self._given, lambda count: self._steps.say(f"{count:,} changes"))
            self._steps.say(_brought(done, "changes"))
        with self._steps.step("Both lanes catch up"):
            settle(checks, lanes=("bronze", "realtime"), watch=self._steps.say)

    def _freshness(self, sales: Stream) -> None:
        with self._steps.step("Freshness at 200 changes a second"):
            meter = Meter(self._access, sales)
            self.report.freshness["pinot"] = meter.measure("pinot")
            self.report.freshness["bronze"] = meter.measure("bronze", probes=10, every=1.0)

    def _histories(self, sales: Stream | None) -> None:
        dags = self._airflow.dags(_HISTORIES)

        def publish() -> None:
            self._airflow.run(dags, limit=_RUN_SECONDS, watch=self._watch)

        with self._steps.step("SCD2 histories by Spark"):
            if sales is None or sales.history_table is None:
                publish()
            else:
                self.report.freshness["history"] = Meter(self._access, sales).until_history(publish)

    def _compare(self, checks: list[TableCheck], sales: Stream | None) -> None:
        with self._steps.step("Every hop compared, row by row"):
            self.report.hops = settle(checks, lanes=LANES, watch=self._steps.say)
        if sales is not None:
            with self._steps.step("The users' questions"):
                self.report.answers = Questions(self._access, sales).all()
        with self._steps.step("Health and memory of every service"):
            self.report.services = check_all(self._stack)


def _brought(done: dict[str, int], what: str) -> str:
    new = ", ".join(f"{count:,} {table} {what}" for table, count in done.items() if count)
    return new or f"all {what} were there"
