"""Connectors as tasks. Each can be run again without harm."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseOperator, Context

from airflow_provider_rtlake.clients.kafka_connect import ConnectorStatus, KafkaConnectClient
from airflow_provider_rtlake.exceptions import NotFound
from airflow_provider_rtlake.hooks.kafka import kafka_client
from airflow_provider_rtlake.hooks.kafka_connect import KafkaConnectHook
from airflow_provider_rtlake.links.kafka_connect import KafkaConnectStatusLink
from airflow_provider_rtlake.operators.errors import no_retry_of_terminal_errors
from airflow_provider_rtlake.operators.values import truth
from airflow_provider_rtlake.streams.load import load_declarations

if TYPE_CHECKING:
    from airflow_provider_rtlake.streams.connect_apply import ConnectorDeployment


class _KafkaConnectOperator(BaseOperator):
    """What all of them share.

    :param kafka_connect_conn_id: connection id (templated).
    :param request_timeout: seconds for one request. Connect itself gives up after 90.
    """

    template_fields: Sequence[str] = ("kafka_connect_conn_id",)
    operator_extra_links = (KafkaConnectStatusLink(),)
    ui_color = "#d9e7f5"

    def __init__(
        self,
        *,
        kafka_connect_conn_id: str = KafkaConnectHook.default_conn_name,
        request_timeout: float = 95.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.kafka_connect_conn_id = kafka_connect_conn_id
        self.request_timeout = request_timeout

    @cached_property
    def hook(self) -> KafkaConnectHook:
        """The hook, made when first needed."""
        return KafkaConnectHook(self.kafka_connect_conn_id, timeout=self.request_timeout)

    @property
    def client(self) -> KafkaConnectClient:
        """The hook's client."""
        return self.hook.client

    def execute(self, context: Context) -> dict[str, Any]:
        """Do it; terminal errors fail the task without a retry.

        :param context: the task's context.
        """
        with no_retry_of_terminal_errors():
            return self.run(context)

    def run(self, context: Context) -> dict[str, Any]:
        """What the operator does.

        :param context: the task's context.
        :return: what goes to XCom.
        """
        raise NotImplementedError

    def on_kill(self) -> None:
        """Let go of the connections; what was begun is finished by the next run, which compares anew."""
        if "hook" in self.__dict__ and "client" in self.hook.__dict__:
            self.client.close()


class _Deploying(_KafkaConnectOperator):
    """Those that also need the declarations, Kafka and the sources.

    :param folder: folder of the declarations, ``connectors/*.yaml`` (templated).
    :param kafka_conn_id: connection id of the Kafka cluster (templated).
    :param wait_seconds: until a connector must run with every task.
    :param dry_run: only return the plan (templated).
    :param kafka_connect_conn_id: connection id (templated).
    """

    template_fields: Sequence[str] = ("kafka_connect_conn_id", "kafka_conn_id", "folder", "only_plan")

    def __init__(
        self,
        *,
        folder: str = "connectors",
        kafka_conn_id: str = "rtlake_kafka",
        wait_seconds: float = 120.0,
        dry_run: bool | str = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.folder = folder
        self.kafka_conn_id = kafka_conn_id
        self.wait_seconds = wait_seconds
        self.only_plan = dry_run

    @cached_property
    def deployment(self) -> ConnectorDeployment:
        """What does the work."""
        # Not at the top: DAG files that name an operator need not wait for PostgreSQL's client.
        from airflow_provider_rtlake.streams.connect_apply import ConnectorDeployment

        return ConnectorDeployment(
            self.client,
            kafka_client(self.kafka_conn_id),
            self.hook.source_access,
            bootstrap_servers=self.hook.extra.get("bootstrap_servers") or None,
            limit=self.wait_seconds,
            say=lambda text: self.log.info("%s", text),
        )


class KafkaConnectApplyConnectorsOperator(_Deploying):
    """Bring every declared connector into being, and wait until each runs. A second run changes nothing.

    Topics, publication, rights and replica identity are part of it; so is the snapshot of tables that were added to a
    running connector, and the complete new one where the replication slot was lost.

    :param folder: folder of the declarations, ``connectors/*.yaml`` (templated).
    :param prune: delete connectors that no declaration names (templated).
    :param dry_run: only return the plan (templated).
    :param wait_seconds: until a connector must run with every task.
    :param kafka_connect_conn_id: connection id (templated).
    :param kafka_conn_id: connection id of the Kafka cluster (templated).
    :return: ``changed``, and for each connector its action, differences (secrets hidden), state and epoch.
    """

    template_fields = (*_Deploying.template_fields, "prune")

    def __init__(self, *, prune: bool | str = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.prune = prune

    def run(self, context: Context) -> dict[str, Any]:
        """Compare, change the difference, wait.

        :param context: the task's context.
        """
        declarations = load_declarations(self.folder)
        prune = truth(self.prune, "prune")
        names = [connector.connector for connector in declarations.connectors]
        KafkaConnectStatusLink.persist(context, self.hook.url, names[0] if len(names) == 1 else "")
        if truth(self.only_plan, "dry_run"):
            plans = [plan.as_dict() for plan in self.deployment.plan(declarations, prune=prune)]
            return {"changed": False, "plan": plans}
        applied = self.deployment.apply(declarations, prune=prune)
        for one in applied:
            state = one.status.summary if one.status is not None else one.plan.action
            self.log.info("%s: %s%s", one.plan.connector, state, " (changed)" if one.changed else "")
        return {
            "changed": any(one.changed for one in applied),
            "connectors": [one.as_dict() for one in applied],
        }


class KafkaConnectDeleteConnectorOperator(_Deploying):
    """Delete a connector with its offsets, replication slot and publication. Topics and tables stay.

    :param connector: its name (templated).
    :param folder: folder of the declarations; the source's server of an undeclared connector is looked up in them, too
        (templated).
    :param keep_publication: leave the publication.
    :param dry_run: only say whether it is there (templated).
    :param kafka_connect_conn_id: connection id (templated).
    :param kafka_conn_id: connection id of the Kafka cluster (templated).
    :return: ``changed``, ``deleted``, and the replication slots that were dropped.
    """

    template_fields = ("kafka_connect_conn_id", "kafka_conn_id", "folder", "only_plan", "connector")

    def __init__(self, *, connector: str, keep_publication: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.connector = connector
        self.keep_publication = keep_publication

    def run(self, context: Context) -> dict[str, Any]:
        """Delete it where it is there.

        :param context: the task's context.
        """
        if truth(self.only_plan, "dry_run"):
            return {"changed": False, "present": self.client.config(self.connector) is not None}
        declarations = load_declarations(self.folder)
        return self.deployment.delete_named(declarations, self.connector, publication=not self.keep_publication)


class _OnOneConnector(_KafkaConnectOperator):
    """Those that ask Kafka Connect alone.

    :param connector: its name (templated).
    :param wait_seconds: until it must have the state that is asked for.
    :param dry_run: only say what would be done (templated).
    :param kafka_connect_conn_id: connection id (templated).
    """

    template_fields = ("kafka_connect_conn_id", "connector", "only_plan")

    def __init__(
        self, *, connector: str, wait_seconds: float = 120.0, dry_run: bool | str = False, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.connector = connector
        self.wait_seconds = wait_seconds
        self.only_plan = dry_run

    def needed(self, status: ConnectorStatus) -> bool:
        """Whether there is anything to do.

        :param status: of the connector.
        """
        raise NotImplementedError

    def change(self) -> ConnectorStatus | None:
        """Do it, and wait."""
        raise NotImplementedError

    def run(self, context: Context) -> dict[str, Any]:
        """Look, and do it where it is needed.

        :param context: the task's context.
        """
        KafkaConnectStatusLink.persist(context, self.hook.url, self.connector)
        status = self.client.status(self.connector)
        if status is None:
            raise NotFound("Kafka Connect", f"there is no connector {self.connector!r}", status=404)
        needed = self.needed(status)
        change = needed and not truth(self.only_plan, "dry_run")
        if change:
            status = self.change() or status
        return {
            "connector": self.connector,
            "changed": change,
            "needed": needed,
            "status": status.summary,
        }

    def wait(self, state: str) -> ConnectorStatus | None:
        """Wait until the connector and its tasks have a state.

        :param state: RUNNING or PAUSED.
        """
        return self.client.wait(
            self.connector,
            lambda status: (
                status is not None
                and status.state == state
                and bool(status.tasks)
                and all(task.state == state for task in status.tasks)
            ),
            what=state,
            limit=self.wait_seconds,
        )


class KafkaConnectRestartOperator(_OnOneConnector):
    """Restart a connector with its tasks, and wait until they run.

    :param connector: its name (templated).
    :param only_failed: restart only what has failed; nothing where nothing has.
    :param wait_seconds: until it must run.
    :param dry_run: only say what would be done (templated).
    :param kafka_connect_conn_id: connection id (templated).
    :return: ``changed`` and the state.
    """

    def __init__(self, *, only_failed: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.only_failed = only_failed

    def needed(self, status: ConnectorStatus) -> bool:
        """See the base class.

        :param status: of the connector.
        """
        return status.failed or not self.only_failed

    def change(self) -> ConnectorStatus | None:
        """See the base class."""
        return self.client.restart_and_wait(self.connector, only_failed=self.only_failed, limit=self.wait_seconds)


class KafkaConnectPauseOperator(_OnOneConnector):
    """Let a connector pause: it keeps its replication slot, for which the source keeps its log.

    :param connector: its name (templated).
    :param wait_seconds: until it must have paused.
    :param dry_run: only say what would be done (templated).
    :param kafka_connect_conn_id: connection id (templated).
    :return: ``changed`` and the state.
    """

    def needed(self, status: ConnectorStatus) -> bool:
        """See the base class.

        :param status: of the connector.
        """
        return status.state != "PAUSED"

    def change(self) -> ConnectorStatus | None:
        """See the base class."""
        self.client.pause(self.connector)
        return self.wait("PAUSED")


class KafkaConnectResumeOperator(_OnOneConnector):
    """Let a paused or stopped connector go on, and wait until it runs.

    :param connector: its name (templated).
    :param wait_seconds: until it must run.
    :param dry_run: only say what would be done (templated).
    :param kafka_connect_conn_id: connection id (templated).
    :return: ``changed`` and the state.
    """

    def needed(self, status: ConnectorStatus) -> bool:
        """See the base class.

        :param status: of the connector.
        """
        return status.state in ("PAUSED", "STOPPED")

    def change(self) -> ConnectorStatus | None:
        """See the base class."""
        self.client.resume(self.connector)
        return self.wait("RUNNING")
