"""Deploys connectors: compares what is declared with what is there, changes the difference, waits until it runs."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from airflow_provider_rtlake.clients.kafka import KafkaClient, Topic
from airflow_provider_rtlake.clients.kafka_connect import ConnectorStatus, KafkaConnectClient
from airflow_provider_rtlake.exceptions import (
    ConnectorFailed,
    DeclarationError,
    NotFound,
    UserError,
    WaitTimeout,
)
from airflow_provider_rtlake.streams.connect_config import (
    HEARTBEAT_PREFIX,
    Epoch,
    epoch_of,
    placeholder_of,
    render_config,
)
from airflow_provider_rtlake.streams.connect_plan import Plan, action_of, diff_config, plan_undeclared
from airflow_provider_rtlake.streams.dates import changed_dates
from airflow_provider_rtlake.streams.epochs import Decision, Observed, decide, read_epochs, record_epoch
from airflow_provider_rtlake.streams.load import Declarations
from airflow_provider_rtlake.streams.model import Connector, Stream
from airflow_provider_rtlake.streams.snapshots import ask_for_snapshot, read_progress, whole_snapshot
from airflow_provider_rtlake.streams.source import SourceTable, read_tables
from airflow_provider_rtlake.streams.source_access import SourceAccess
from airflow_provider_rtlake.streams.source_deploy import (
    SourceChange,
    apply_source,
    drop_publication,
    drop_slot,
    has_publication,
    plan_source,
    read_slot,
    unpublished,
    without_identity,
)

_WEEK_MS = str(7 * 24 * 3600 * 1000)
_DAY_MS = str(24 * 3600 * 1000)
_POLL_SECONDS = 0.5
_NUDGE_SECONDS = 2.0
_HEARD_SECONDS = 20.0  # in which an asked snapshot has begun, unless its signal was lost
_PREFIX_OF_KEYS = (  # a setting that the plugin refuses → the declaration's key that it comes from
    ("database.", "database.connection"),
    ("slot.name", "slot"),
    ("publication.name", "publication"),
    ("topic.prefix", "topic_prefix"),
    ("table.include.list", "tables"),
    ("column.exclude.list", "tables"),
    ("message.key.columns", "tables"),
    ("heartbeat.interval.ms", "heartbeat_ms"),
    ("topic.creation.default.partitions", "partitions"),
    ("name", "connector"),
)


@dataclass(frozen=True)
class Prepared:
    """A connector with everything that is known before anything is touched."""

    connector: Connector
    access: SourceAccess
    tables: dict[str, SourceTable]
    observed: Observed
    decision: Decision
    desired: dict[str, str]
    source_changes: list[SourceChange]
    plan: Plan


@dataclass(frozen=True)
class Applied:
    """What a deployment did for one connector.

    :param plan: what differed.
    :param changed: whether anything was done.
    :param status: the connector's state at the end; None where it was deleted.
    :param epoch: that it runs in, as in the header of its records.
    :param snapshots: tables that were read anew.
    :param restarted: whether failed tasks were restarted.
    """

    plan: Plan
    changed: bool
    status: ConnectorStatus | None
    epoch: str = ""
    snapshots: tuple[str, ...] = ()
    restarted: bool = False

    def as_dict(self) -> dict[str, Any]:
        """For JSON and XCom; holds no secret."""
        return {
            **self.plan.as_dict(),
            "changed": self.changed,
            "status": None if self.status is None else self.status.summary,
            "epoch": self.epoch,
            "snapshots": list(self.snapshots),
            "restarted": self.restarted,
        }


def declared_topics(connector: Connector) -> list[Topic]:
    """The topics that Debezium and the lanes write for a connector.

    Without a retention of their own the transaction markers would be gone before a merge that was down for long asks
    for them, so they stay as long as the changes.

    :param connector: the declaration.
    """
    kept = {"cleanup.policy": "delete", "retention.ms": _WEEK_MS}
    for_good = {"cleanup.policy": "delete", "retention.ms": "-1"}
    return [
        *(Topic(stream.topic, connector.partitions, kept) for stream in connector.streams),
        Topic(connector.transaction_topic, 1, kept),
        Topic(connector.dead_letter_topic, 1, for_good),  # an open letter must not expire unseen
        Topic(connector.notification_topic, 1, for_good),
        Topic(connector.signal_topic, 1, {"cleanup.policy": "delete", "retention.ms": _DAY_MS}),
        Topic(connector.heartbeat_topic, 1, {"cleanup.policy": "compact"}),
    ]


class ConnectorDeployment:
    """Plans, deploys and deletes connectors.

    :param connect: Kafka Connect.
    :param kafka: the cluster that Connect writes to.
    :param access: connection id → how that source is reached, with Debezium's role.
    :param bootstrap_servers: Kafka brokers as seen from Connect's workers; by default as seen from here.
    :param limit: seconds that a connector may take to run.
    :param snapshot_limit: seconds to wait for the snapshot of tables that were added to a running connector.
    :param say: told each step, in words.
    """

    def __init__(
        self,
        connect: KafkaConnectClient,
        kafka: KafkaClient,
        access: Callable[[str], SourceAccess],
        *,
        bootstrap_servers: str | None = None,
        limit: float = 120.0,
        snapshot_limit: float = 600.0,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.connect = connect
        self.kafka = kafka
        self.access = access
        self.bootstrap_servers = bootstrap_servers or kafka.bootstrap_servers
        self.limit = limit
        self.snapshot_limit = snapshot_limit
        self.say = say

    # --- plan

    def plan(self, declarations: Declarations, *, prune: bool = False) -> list[Plan]:
        """What :meth:`apply` would do; touches nothing.

        :param declarations: every declared connector.
        :param prune: whether connectors that no declaration names would be deleted.
        :raises DeclarationError: a declaration does not fit its source, or the plugin refuses it.
        """
        return [one.plan for one in self.prepare(declarations)] + self._undeclared(declarations, prune=prune)

    def prepare(self, declarations: Declarations) -> list[Prepared]:
        """Compare every declaration with source, Connect and Kafka, and let the plugin check it.

        :param declarations: every declared connector.
        :raises DeclarationError: with every problem of every declaration.
        """
        epochs = read_epochs(self.kafka)
        problems: list[str] = []
        prepared = []
        for connector in declarations.connectors:
            one = self._prepare(declarations, connector, epochs.get(connector.connector, 0), problems)
            if one is not None:
                prepared.append(one)
        if problems:
            raise DeclarationError(problems)
        return prepared

    def _prepare(
        self, declarations: Declarations, connector: Connector, recorded: int, problems: list[str]
    ) -> Prepared | None:
        name = connector.connector
        access = self.access(connector.database.connection).for_connector(connector)
        with access.connect() as connection:
            tables, wrong = read_tables(connection, connector.streams)
            problems.extend(declarations.problem(connector, *problem) for problem in wrong)
            if wrong:
                return None
            slot = read_slot(connection, connector.slot_name)
            publication = has_publication(connection, connector.publication)
            left_out = unpublished(connection, connector)
            changes = plan_source(connection, connector, tables, access.replication_user)
        config = self.connect.config(name)
        observed = Observed(
            config=config,
            has_offsets=config is not None and bool(self.connect.offsets(name)),
            trace=self._trace(name) if config is not None else "",
            slot=slot,
            recorded=recorded,
            publication=publication,
            returned=self._returned(left_out) if config is not None else (),
        )
        tied = {
            "slot.name": connector.slot_name,
            "database.dbname": access.dbname,
            "topic.prefix": connector.topic_prefix,
            "publication.name": connector.publication,
        }
        decision = decide(observed, tied, name)
        if decision.new:
            with access.connect() as connection:
                changed = list(changed_dates(connection, connector.streams, tables))
            problems.extend(declarations.problem(connector, *problem) for problem in changed)
        desired = render_config(
            connector,
            tables,
            access,
            epoch=decision.epoch,
            placeholder=placeholder_of(config or {}) or f"unavailable-{secrets.token_hex(16)}",
            bootstrap_servers=self.bootstrap_servers,
        )
        problems.extend(self._validate(declarations, connector, desired))
        settings = diff_config(config, desired)
        plan = Plan(
            name,
            action_of(config, settings),
            settings=settings,
            source=tuple(change.what for change in changes),
            topics=tuple(self.kafka.plan(declared_topics(connector))),
            epoch=decision.reason,
        )
        return Prepared(connector, access, tables, observed, decision, desired, changes, plan)

    def _returned(self, left_out: Sequence[Stream]) -> tuple[str, ...]:
        """The unpublished tables that an epoch has read before, whichever: their histories may hold rows that are gone.

        Only the snapshot that a new epoch begins with tells the merge of them; one between two transactions does not.
        """
        return tuple(stream.source for stream in left_out if whole_snapshot(self.kafka, stream) is not None)

    def _trace(self, name: str) -> str:
        status = self.connect.status(name)
        return status.failure if status is not None else ""

    def _validate(self, declarations: Declarations, connector: Connector, desired: dict[str, str]) -> list[str]:
        try:
            answer = self.connect.validation(desired)
        except NotFound as missing:
            raise UserError(
                "Kafka Connect has no Debezium connector for PostgreSQL; put it into plugin.path and restart it"
            ) from missing
        found = []
        for key, errors in answer.items():
            for error in errors:
                path = _key_of(connector, key)
                found.append(declarations.problem(connector, path, f"Debezium refuses {key}: {error}", "correct it"))
        for key in connector.config:
            if key not in answer and not key.startswith(("producer.override.", "topic.creation.", "driver.")):
                found.append(
                    declarations.problem(
                        connector,
                        ("config", key),
                        "Debezium knows no such setting",
                        "see the list of settings in Debezium's documentation, or remove the line",
                    )
                )
        return found

    def _undeclared(self, declarations: Declarations, *, prune: bool) -> list[Plan]:
        declared = [connector.connector for connector in declarations.connectors]
        return plan_undeclared(self.connect.connectors(), declared, prune=prune)

    # --- apply

    def apply(self, declarations: Declarations, *, prune: bool = False) -> list[Applied]:
        """Bring every declared connector into being, and wait until each of them runs.

        :param declarations: every declared connector.
        :param prune: delete connectors that no declaration names.
        :raises DeclarationError: a declaration does not fit; nothing was touched.
        :raises ConnectorFailed: a connector or task fails again after a restart; the message carries the trace.
        :raises WaitTimeout: a connector does not run in time.
        """
        done = [self._apply(one) for one in self.prepare(declarations)]
        for plan in self._undeclared(declarations, prune=prune):
            if plan.action == "delete":
                self._delete_undeclared(declarations, plan.connector)
            done.append(Applied(plan, plan.action == "delete", None))
        return done

    def _apply(self, one: Prepared) -> Applied:
        name = one.connector.connector
        if one.decision.new:  # noted before its reason may be gone: that the publication was, or a table in it
            record_epoch(self.kafka, name, one.decision)
        topics = self.kafka.ensure(declared_topics(one.connector))
        with one.access.connect() as connection:
            source = apply_source(connection, one.source_changes)
        for text in (*topics, *source):
            self.say(f"{name}: {text}")
        if one.decision.new:
            self._begin_epoch(one)
        elif one.plan.action == "update":
            self.say(f"{name}: configuration updated ({len(one.plan.settings)} settings)")
            self.connect.update(name, one.desired)
        resumed = not one.decision.new and self._resume(name)
        status, restarted = self._wait_running(name)
        snapshots = self._read_added_tables(one)
        return Applied(
            one.plan,
            changed=bool(
                topics or source or one.decision.new or one.plan.settings or snapshots or restarted or resumed
            ),
            status=status,
            epoch=one.decision.epoch.text,
            snapshots=tuple(snapshots),
            restarted=restarted,
        )

    def _begin_epoch(self, one: Prepared) -> None:
        """Stop, forget the offsets, drop the slot, go on: what follows is a complete snapshot with the new number.

        Killed at any point and called again it ends in the same state, because the number was noted before anything
        else and the configuration, which carries it, is written last.
        """
        name = one.connector.connector
        self.say(f"{name}: epoch {one.decision.epoch.number}: {one.decision.reason}")
        if one.observed.config is None:
            self.connect.create(name, one.desired, stopped=True)
        else:
            self.connect.stop(name)
        self._forget(name)
        slots = {
            one.connector.slot_name,
            (one.observed.config or {}).get("slot.name", one.connector.slot_name),
        }
        with one.access.connect() as connection:
            for slot in sorted(slots):
                if drop_slot(connection, slot):
                    self.say(f"{name}: replication slot {slot} dropped")
        self.connect.update(name, one.desired)
        self.connect.resume(name)

    def _forget(self, name: str) -> None:
        """Wait until no task runs, then delete the offsets."""
        self.connect.wait(
            name,
            lambda status: status is not None and status.state == "STOPPED" and not status.tasks,
            what="stopped",
            limit=self.limit,
            fail_on_failed=False,
        )
        self.connect.delete_offsets(name)

    def _resume(self, name: str) -> bool:
        status = self.connect.status(name)
        if status is None or status.state not in ("STOPPED", "PAUSED"):
            return False
        self.connect.resume(name)
        return True

    def _wait_running(self, name: str) -> tuple[ConnectorStatus, bool]:
        """Wait for the connector and every task; what has failed is restarted once."""
        restarted = False
        try:
            status = self.connect.wait(
                name,
                lambda status: status is not None and status.running,
                what="running with every task",
                limit=self.limit,
            )
        except ConnectorFailed as error:
            self.say(f"{name}: restart of what has failed ({str(error).splitlines()[0]})")
            status = self.connect.restart_and_wait(name, only_failed=True, limit=self.limit)
            restarted = True
        if status is None:
            raise WaitTimeout(f"connector {name} is unknown to Connect")
        return status, restarted

    def _read_added_tables(self, one: Prepared) -> list[str]:
        """Let Debezium read the tables that were added to a connector whose first snapshot is over."""
        connector, epoch = one.connector, one.decision.epoch
        progress = read_progress(self.kafka, connector, epoch)
        missing = progress.missing(connector.streams)
        if one.decision.new or not progress.initial_done or not missing:
            return []
        self._wait_streaming(one)
        names = [stream.source for stream in missing]
        self.say(f"{connector.connector}: snapshot of {', '.join(names)}")
        ask_for_snapshot(self.kafka, connector, missing)
        deadline, nudged, asked = time.monotonic() + self.snapshot_limit, 0.0, time.monotonic()
        begun = progress.started
        while missing:
            if progress.started == begun and time.monotonic() > asked + _HEARD_SECONDS:
                # A task that was being stopped took the signal, and with it into its end.
                self.say(f"{connector.connector}: no snapshot has begun; asking again")
                ask_for_snapshot(self.kafka, connector, missing)
                asked = time.monotonic()
            if time.monotonic() > nudged + _NUDGE_SECONDS:
                nudged = time.monotonic()
                self._nudge(one)
            status = self.connect.status(connector.connector)
            if status is not None and status.failed:
                raise ConnectorFailed("Kafka Connect", f"connector {connector.connector}: {status.failure}")
            if time.monotonic() > deadline:
                raise WaitTimeout(
                    f"connector {connector.connector}: no snapshot of {', '.join(s.source for s in missing)} after"
                    f" {self.snapshot_limit:.0f} s"
                )
            time.sleep(_POLL_SECONDS)  # between two looks at the notifications
            progress = read_progress(self.kafka, connector, epoch)
            missing = progress.missing(missing)
        return names

    def _nudge(self, one: Prepared) -> None:
        """A task that was restarted looks for the next transaction, and sees no signal until it has found it."""
        with one.access.connect() as connection:
            connection.execute("SELECT pg_logical_emit_message(true, %s, '')", (HEARTBEAT_PREFIX,))

    def _wait_streaming(self, one: Prepared) -> None:
        """A signal that comes before the task streams can be lost."""
        deadline = time.monotonic() + self.limit
        with one.access.connect() as connection:
            while not read_slot(connection, one.connector.slot_name).active:
                if time.monotonic() > deadline:
                    raise WaitTimeout(
                        f"connector {one.connector.connector}: its slot is not read after {self.limit:.0f} s"
                    )
                time.sleep(_POLL_SECONDS)  # between two looks at the slot

    # --- delete

    def delete_named(self, declarations: Declarations, name: str, *, publication: bool = True) -> dict[str, Any]:
        """Delete a connector whether or not a declaration still names it.

        :param declarations: every declared connector.
        :param name: of the connector.
        :param publication: delete its publication, too.
        :return: as of :meth:`delete`.
        :raises UserError: it is neither declared nor in Kafka Connect.
        """
        declared = {connector.connector: connector for connector in declarations.connectors}
        if name in declared:
            return self.delete(declared[name], publication=publication)
        present = self.connect.connectors()
        if name not in present:
            names = ", ".join(sorted({*declared, *present}))
            raise UserError(f"no declaration names the connector {name!r}, nor does Kafka Connect; there are: {names}")
        return self._delete_undeclared(declarations, name, publication=publication)

    def delete(self, connector: Connector, *, publication: bool = True) -> dict[str, Any]:
        """Delete a connector with its offsets and replication slot. Topics and what was made from them stay.

        :param connector: the declaration.
        :param publication: delete its publication, too.
        :return: what was there, and ``changed``.
        """
        name = connector.connector
        config = self.connect.config(name)
        if config is not None:
            self._remove(name, config)
        access = self.access(connector.database.connection).for_connector(connector)
        slots = sorted({connector.slot_name, (config or {}).get("slot.name", connector.slot_name)})
        with access.connect() as connection:
            dropped = [slot for slot in slots if drop_slot(connection, slot)]
            unpublished = publication and drop_publication(connection, connector.publication)
        return {
            "connector": name,
            "deleted": config is not None,
            "slots": dropped,
            "publication": unpublished,
            "changed": config is not None or bool(dropped) or unpublished,
        }

    def _delete_undeclared(self, declarations: Declarations, name: str, *, publication: bool = True) -> dict[str, Any]:
        """Delete a connector of which only its configuration is known.

        Its slot and publication go where it was made by this project, is on a declared source's server, and no
        declaration has taken them over.
        """
        config = self.connect.config(name) or {}
        self._remove(name, config)
        self.say(f"{name}: deleted, no declaration names it")
        dropped, unpublished = [], False
        slot, published = config.get("slot.name", ""), config.get("publication.name", "")
        access = self._access_of(declarations, config) if epoch_of(config) is not None else None
        if access is None:
            self.say(f"{name}: its replication slot {slot} was left: drop it if nobody needs it")
        else:
            with access.connect() as connection:
                if all(slot != one.slot_name for one in declarations.connectors) and drop_slot(connection, slot):
                    dropped.append(slot)
                if publication and all(published != one.publication for one in declarations.connectors):
                    unpublished = drop_publication(connection, published)
        return {"connector": name, "deleted": True, "slots": dropped, "publication": unpublished, "changed": True}

    def _access_of(self, declarations: Declarations, config: Mapping[str, str]) -> SourceAccess | None:
        """The way to a running connector's database; None where no declaration reads from its server."""
        for connector in declarations.connectors:
            access = self.access(connector.database.connection)
            if (access.host, str(access.port)) == (config.get("database.hostname"), config.get("database.port")):
                return replace(access, dbname=config["database.dbname"])
        return None

    def _remove(self, name: str, config: Mapping[str, str]) -> None:
        """Take a connector and its offsets out of Kafka Connect; its epoch's number is kept for one of its name."""
        running = epoch_of(config)
        if running is not None and running.number > read_epochs(self.kafka).get(name, 0):
            record_epoch(self.kafka, name, Decision(running, "deleted"))
        self.connect.stop(name)
        self._forget(name)
        self.connect.delete(name)

    # --- status

    def status(self, connectors: Sequence[Connector]) -> list[dict[str, Any]]:
        """State of connectors, their tasks, slots and snapshots.

        :param connectors: the declarations.
        """
        return [self._status(connector) for connector in connectors]

    def _status(self, connector: Connector) -> dict[str, Any]:
        name = connector.connector
        status, config = self.connect.status(name), self.connect.config(name)
        epoch: Epoch | None = epoch_of(config) if config else None
        access = self.access(connector.database.connection).for_connector(connector)
        with access.connect() as connection:
            slot = read_slot(connection, connector.slot_name)
            tables, _ = read_tables(connection, connector.streams)
            lacking = without_identity(connection, connector, tables)
        progress = read_progress(self.kafka, connector, epoch) if epoch else None
        return {
            "connector": name,
            "state": "ABSENT" if status is None else status.state,
            "tasks": [] if status is None else [{"id": task.id, "state": task.state} for task in status.tasks],
            "running": status is not None and status.running and slot.active,
            "error": "" if status is None else status.failure,
            "epoch": "" if epoch is None else epoch.text,
            "slot": {
                "name": connector.slot_name,
                "exists": slot.exists,
                "active": slot.active,
                "lost": slot.lost,
                "lag_bytes": slot.lag_bytes,
            },
            "snapshot_rows": {} if progress is None else progress.rows,
            "identity_missing": lacking,
            "snapshot_missing": []
            if progress is None
            else [stream.source for stream in progress.missing(connector.streams)],
        }


def _key_of(connector: Connector, setting: str) -> tuple[str | int, ...]:
    """The declaration's key that a setting comes from."""
    if setting in connector.config:
        return ("config", setting)
    return next((tuple(key.split(".")) for prefix, key in _PREFIX_OF_KEYS if setting.startswith(prefix)), ())
