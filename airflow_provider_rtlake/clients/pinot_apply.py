"""Brings Pinot tables and their topics to what is declared, and takes them away. No Airflow."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from airflow_provider_rtlake.clients.pinot import Ingestion, PinotController
from airflow_provider_rtlake.exceptions import (
    NotFound,
    RtlakeError,
    ServiceError,
    TableIncompatible,
    TerminalError,
    TransientError,
    WaitTimeout,
)
from airflow_provider_rtlake.pinot_config.model import PinotTable
from airflow_provider_rtlake.pinot_config.plan import Actual, Plan, make_plan, merged_table
from airflow_provider_rtlake.pinot_config.render import Rendered, Topic, render

_PAUSE = 0.3  # seconds between two looks at a condition


class TopicAdmin(Protocol):
    """What is asked of Kafka."""

    def describe(self, name: str) -> Topic | None:
        """A topic with the settings made on it, or None."""

    def ensure(self, topic: Topic) -> list[str]:
        """Create a topic, give it more partitions, correct its settings; what was done, in words."""

    def delete(self, name: str) -> bool:
        """Delete a topic; True if it was there."""


@dataclass(frozen=True)
class Applied:
    """What was done for a table.

    :param plan: what was planned.
    :param changed: whether anything was.
    :param rebuilt: the table was deleted and made anew: it lacks what its topic no longer holds.
    :param ingestion: how it ended; None where nobody waited.
    """

    plan: Plan
    changed: bool
    rebuilt: bool = False
    ingestion: Ingestion | None = None

    @property
    def hint(self) -> str | None:
        """What remains to be done by hand."""
        if not self.rebuilt:
            return None
        topic = self.plan.rendered.topic.name
        return (
            f"{self.plan.rendered.name} was rebuilt from the topic {topic}, which may lack older messages;"
            " `rtlake stream backfill TABLE` refills it from bronze"
        )

    def as_dict(self) -> dict[str, Any]:
        """As plain values, for XCom and ``--json``."""
        return self.plan.as_dict() | {"rebuilt": self.rebuilt}


@dataclass(frozen=True)
class Outcome:
    """What became of several tables.

    :param applied: those that are as declared now.
    :param problems: declared name of each other one → why it is not.
    """

    applied: tuple[Applied, ...]
    problems: Mapping[str, RtlakeError]

    def raise_problems(self) -> None:
        """Do nothing where every table is as declared.

        :raises TransientError: with all problems, of which some may pass.
        :raises TerminalError: with all problems; none will pass by itself.
        """
        if not self.problems:
            return
        kind = TransientError if any(isinstance(e, TransientError) for e in self.problems.values()) else TerminalError
        count = len(self.problems)
        lines = [f"{name}: {error}" for name, error in self.problems.items()]
        raise kind("\n".join([f"{count} of {count + len(self.applied)} Pinot tables are not as declared:", *lines]))


class PinotDeployment:
    """Tables of one Pinot cluster and their topics.

    :param controller: the cluster's controller.
    :param topics: the Kafka cluster that feeds it.
    :param bootstrap_servers: as the Pinot servers reach it, for tables that declare none.
    :param log: told what is done.
    """

    def __init__(
        self,
        controller: PinotController,
        topics: TopicAdmin,
        *,
        bootstrap_servers: str | None = None,
        log: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.controller = controller
        self.topics = topics
        self.bootstrap_servers = bootstrap_servers
        self.log = log

    def render(self, table: PinotTable) -> Rendered:
        """A declaration as this cluster's version wants it.

        :param table: the declaration.
        """
        return render(table, bootstrap_servers=self.bootstrap_servers, version=self.controller.version)

    def plan(self, table: PinotTable) -> Plan:
        """What it would take; changes nothing.

        :param table: the declaration.
        """
        rendered = self.render(table)
        name = rendered.name
        topic = self.topics.describe(rendered.topic.name)
        return make_plan(rendered, Actual(self.controller.schema(name), self.controller.table(name), topic))

    def apply(self, table: PinotTable, *, rebuild: bool = False, wait: float | None = 120.0) -> Applied:
        """Bring a table to its declaration; a second call changes nothing.

        :param table: the declaration.
        :param rebuild: delete the table and make it anew where its declaration cannot be reached otherwise.
        :param wait: seconds until every partition must be consumed; None does not wait.
        :raises TableIncompatible: only a rebuild can do it, and it was not asked for.
        :raises WaitTimeout: ingestion did not begin in time; the message holds the server's reason.
        """
        return self._bring(self.plan(table), rebuild, wait)

    def apply_all(self, tables: Iterable[PinotTable], *, rebuild: bool = False, wait: float | None = 120.0) -> Outcome:
        """Bring several tables to their declarations. One that cannot be does not keep the others from it.

        All are looked at before the first one is changed.

        :param tables: the declarations.
        :param rebuild: see :meth:`apply`.
        :param wait: see :meth:`apply`.
        :raises ServiceUnavailable: Pinot or Kafka does not answer; nothing was changed.
        """
        plans: dict[str, Plan] = {}
        applied: list[Applied] = []
        problems: dict[str, RtlakeError] = {}
        for table in tables:
            try:
                plans[table.table] = self.plan(table)
            except TerminalError as error:
                problems[table.table] = error
        for name, plan in plans.items():
            try:
                applied.append(self._bring(plan, rebuild, wait))
            except RtlakeError as error:
                problems[name] = error
        return Outcome(tuple(applied), problems)

    def _bring(self, plan: Plan, rebuild: bool, wait: float | None) -> Applied:
        for line in plan.lines():
            self.log(f"{plan.rendered.name}: {line}")
        rebuilt = self._allow_rebuild(plan, rebuild)
        if plan.changed:
            self.controller.validate_table(plan.rendered.table, plan.rendered.schema)
            self._topic(plan)
            if rebuilt:
                self._drop(plan.rendered.name, wait or 120.0)
                plan_now = make_plan(plan.rendered, Actual(None, None, plan.rendered.topic))
                self._pinot(plan_now, wait)
            else:
                self._pinot(plan, wait)
        ingestion = None if wait is None else self.wait_consuming(plan.rendered, wait)
        return Applied(plan, plan.changed, rebuilt, ingestion)

    def _allow_rebuild(self, plan: Plan, asked: bool) -> bool:
        if plan.action != "rebuild":
            return False
        if not asked:
            reasons = "\n".join(f"  {difference.line()}" for difference in plan.rebuild)
            raise TableIncompatible(
                f"Pinot table {plan.rendered.name} cannot be changed in place:\n{reasons}\n"
                f"take the change back, or rebuild it: `rtlake pinot apply {plan.rendered.name} --rebuild`,"
                " then `rtlake stream backfill TABLE`"
            )
        return True

    def _topic(self, plan: Plan) -> None:
        if plan.topic:
            for line in self.topics.ensure(plan.rendered.topic):
                self.log(line)

    def _pinot(self, plan: Plan, wait: float | None) -> None:
        rendered, actual = plan.rendered, plan.actual
        if actual.schema is None:
            self.log(f"schema {rendered.name}: create")
            self.controller.create_schema(rendered.schema)
        elif plan.schema:
            self.log(f"schema {rendered.name}: update")
            self.controller.update_schema(rendered.schema)
        if actual.table is None:
            self._create(rendered)
        elif plan.table:
            self.log(f"table {rendered.name}: update")
            self.controller.update_table(merged_table(rendered.table, actual.table))
        if plan.reload:
            self.renew_segments(rendered, wait or 120.0, renew_consuming=bool(plan.schema))

    def _create(self, rendered: Rendered) -> None:
        self.log(f"table {rendered.name}: create")
        try:
            self.controller.create_table(rendered.table)
        except ServiceError:
            # The answer may have been lost after the table was made.
            if self.controller.table(rendered.name) is None:
                raise

    def renew_segments(self, rendered: Rendered, wait: float, *, renew_consuming: bool = True) -> None:
        """Let every segment take up a changed schema or index.

        :param rendered: the table.
        :param wait: seconds.
        :param renew_consuming: close the consuming segments too: they keep the schema that they began with.
        """
        name = rendered.name
        self.log(f"table {name}: reload segments")
        self.controller.reload_segments(name)
        if not renew_consuming or self.controller.version < (0, 11):
            return
        self.log(f"table {name}: close the consuming segments, which still have the old schema")
        self.controller.pause(name)
        try:
            self._until(lambda: not self._any_consuming(name), wait, f"Pinot table {name} to close its segments")
        finally:
            self.controller.resume(name)

    def _any_consuming(self, name: str) -> bool:
        states = self.controller.view(name).values()
        return any(state == "CONSUMING" for servers in states for state in servers.values())

    def wait_consuming(self, rendered: Rendered, wait: float) -> Ingestion:
        """Wait until every partition of the topic is consumed.

        :param rendered: the table.
        :param wait: seconds.
        :raises WaitTimeout: with the server's reason.
        """
        found: list[Ingestion] = []

        def healthy() -> bool:
            found[:] = [self.controller.ingestion(rendered.name)]
            return found[0].healthy(rendered.topic.partitions)

        self._until(
            healthy,
            wait,
            f"Pinot table {rendered.name} to consume {rendered.topic.name}",
            lambda: found[0].reason(),
        )
        return found[0]

    def delete(self, name: str, *, topic: str | None = None, wait: float = 120.0) -> bool:
        """Take a table, its schema and, where named, its topic away; True if anything was there.

        :param name: table.
        :param topic: topic to delete too.
        :param wait: seconds until the servers have let go of the segments.
        """
        gone = self._drop(name, wait)
        if topic is not None and self.topics.delete(topic):
            self.log(f"topic {topic}: deleted")
            gone = True
        return gone

    def _drop(self, name: str, wait: float) -> bool:
        changed = self.controller.delete_table(name)
        if changed:
            self.log(f"table {name}: deleted")
            # A new table of that name would find the old one's segments while they are still there.
            self._until(lambda: self._gone(name), wait, f"Pinot table {name} to be gone from the servers")
        if self.controller.delete_schema(name):
            self.log(f"schema {name}: deleted")
            changed = True
        return changed

    def _gone(self, name: str) -> bool:
        try:
            return not self.controller.view(name)
        except (NotFound, ServiceError):
            return True

    @staticmethod
    def _until(
        condition: Callable[[], bool],
        wait: float,
        what: str,
        reason: Callable[[], str] = lambda: "it is not done yet",
    ) -> None:
        end = time.monotonic() + wait
        while not condition():
            if time.monotonic() >= end:
                raise WaitTimeout(f"waited {wait:.0f} s for {what}: {reason()}")
            time.sleep(_PAUSE)
