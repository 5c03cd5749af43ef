"""Flink jobs as tasks. Each can be run again without harm."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from airflow.providers.common.compat.sdk import BaseOperator, Context, conf

from airflow_provider_rtlake.clients.flink import FlinkClient, JobState
from airflow_provider_rtlake.exceptions import (
    JobFailed,
    JobNotFound,
    RtlakeError,
    StatementFailed,
    TerminalError,
    TransientError,
    UserError,
    WaitTimeout,
)
from airflow_provider_rtlake.flink_sql.job import RenderedJob, job_id_for
from airflow_provider_rtlake.flink_sql.script import script_job
from airflow_provider_rtlake.hooks.flink import FlinkHook
from airflow_provider_rtlake.hooks.sources import captured_of
from airflow_provider_rtlake.lanes.jobs import (
    Applied,
    Restore,
    apply_job,
    latest_restore,
    seen_jobs,
    stop_job,
    submit,
    take_savepoint,
)
from airflow_provider_rtlake.lanes.lanes import lanes_of, names_of, select, sources_needed
from airflow_provider_rtlake.links.flink import FlinkJobLink
from airflow_provider_rtlake.operators.errors import no_retry_of_terminal_errors
from airflow_provider_rtlake.operators.pinot import NOT_AS_DECLARED
from airflow_provider_rtlake.operators.values import run_name, truth
from airflow_provider_rtlake.pinot_config.gather import declared_types
from airflow_provider_rtlake.streams.load import load_connectors
from airflow_provider_rtlake.streams.model import Connector
from airflow_provider_rtlake.triggers.flink import FlinkJobTrigger, look_at_job


class _FlinkOperator(BaseOperator):
    """What all of them share.

    :param flink_conn_id: connection id (templated).
    :param request_timeout: seconds for one request.
    """

    template_fields: Sequence[str] = ("flink_conn_id",)
    operator_extra_links = (FlinkJobLink(),)
    ui_color = "#f5dfe4"

    def __init__(
        self,
        *,
        flink_conn_id: str = FlinkHook.default_conn_name,
        request_timeout: float = 30.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.flink_conn_id = flink_conn_id
        self.request_timeout = request_timeout
        self._started: str | None = None  # the job to cancel when the task is killed
        self._killed = False

    @cached_property
    def hook(self) -> FlinkHook:
        """The hook, made when first needed."""
        return FlinkHook(self.flink_conn_id, timeout=self.request_timeout)

    @property
    def client(self) -> FlinkClient:
        """The hook's client."""
        return self.hook.client

    def execute(self, context: Context) -> Any:
        """Do it; terminal errors fail the task without a retry.

        :param context: the task's context.
        """
        with no_retry_of_terminal_errors():
            try:
                return self.run(context)
            except RtlakeError as error:
                self.log_trace(getattr(error, "body", ""))
                raise

    def run(self, context: Context) -> Any:
        """What the operator does.

        :param context: the task's context.
        :return: what goes to XCom.
        """
        raise NotImplementedError

    def log_trace(self, trace: str) -> None:
        """Write Flink's own trace to the task's log; the error itself carries the root cause only."""
        if trace:
            self.log.error("Flink says:\n%s", trace)

    def on_kill(self) -> None:
        """Cancel the job that this task started and has not seen running."""
        self._killed = True
        if self._started:
            self.log.info("cancelling job %s", self._started)
            # A client of its own: the task may have been stopped in the middle of a request.
            with self.hook.get_conn() as client:
                client.cancel(self._started)


class _RunsBoundedJob(_FlinkOperator):
    """Starts a job under an id of its own making and waits for it.

    The id comes from the task's run, so a second try finds the job of the first: running, it is waited for; finished,
    it is not run again; failed or cancelled, a new one is started.

    :param wait_for: ``finished``, ``running`` (every task) or ``submitted``.
    :param wait_seconds: how long it may take.
    :param poll_interval: seconds between two looks.
    :param durable: False starts a new job with each try.
    :param cancel_on_kill: cancel the job when the task is killed.
    :param deferrable: wait in the triggerer instead of in a worker.
    """

    def __init__(
        self,
        *,
        wait_for: str = "finished",
        wait_seconds: float = 3600.0,
        poll_interval: float = 2.0,
        durable: bool = True,
        cancel_on_kill: bool = True,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.wait_for = wait_for
        self.wait_seconds = wait_seconds
        self.poll_interval = poll_interval
        self.durable = durable
        self.cancel_on_kill = cancel_on_kill
        self.deferrable = deferrable

    def what(self) -> str:
        """What is run, as text: part of the job's id."""
        raise NotImplementedError

    def start(self, job_id: str) -> str:
        """Start the job and return its id.

        :param job_id: to start it under.
        """
        raise NotImplementedError

    def run(self, context: Context) -> Any:
        """Start the job, or find the one that an earlier try started, and wait.

        :param context: the task's context.
        """
        if self.wait_for not in ("finished", "running", "submitted"):
            raise UserError(f"wait_for must be finished, running or submitted, not {self.wait_for!r}")
        job_id, found = self._free_or_living_id(context)
        if found:
            self.log.info("job %s was started by an earlier try", job_id)
        self._started = job_id if self.cancel_on_kill else None
        FlinkJobLink.persist(context, self.hook.job_url(job_id))
        if not found:
            job_id = self.start(job_id)
            self.log.info("started job %s: %s", job_id, self.hook.job_url(job_id))
        if self._killed and self.cancel_on_kill:
            self.on_kill()  # the kill came while the job was being submitted, when there was nothing to cancel yet
            raise JobFailed("Flink", f"the task was killed while it submitted job {job_id}")
        if self.wait_for == "submitted":
            return {"job_id": job_id, "changed": not found}
        states = ["FINISHED"] if self.wait_for == "finished" else ["RUNNING", "FINISHED"]
        holds, reason, state = look_at_job(self.client, job_id, states)
        if holds:
            return self._done(job_id, state, changed=not found)
        if self.deferrable:
            self._defer(job_id, states, changed=not found)
        return self._wait(job_id, reason, changed=not found)

    def _free_or_living_id(self, context: Context) -> tuple[str, bool]:
        salt = "" if self.durable else f"{context['ti'].try_number}/{time.time_ns()}"
        job_id = job_id_for(run_name(context), self.what(), salt)
        while True:
            try:
                state = self.client.job(job_id).state
            except JobNotFound:
                return job_id, False
            if state not in (JobState.FAILED, JobState.CANCELED, JobState.FAILING, JobState.CANCELLING):
                return job_id, True
            job_id = job_id_for(job_id, "again")

    def _wait(self, job_id: str, reason: str, *, changed: bool) -> dict[str, Any]:
        wait = self.client.wait_until_finished if self.wait_for == "finished" else self.client.wait_until_running
        job = wait(job_id, timeout=self.wait_seconds)
        return self._done(job_id, job.state.value, changed=changed)

    def _defer(self, job_id: str, states: list[str], *, changed: bool) -> None:
        self.defer(
            trigger=FlinkJobTrigger(
                job_id=job_id,
                states=states,
                flink_conn_id=self.flink_conn_id,
                timeout=self.request_timeout,
                poll_interval=self.poll_interval,
                deadline=time.time() + self.wait_seconds,
                cancel_on_kill=self.cancel_on_kill,
            ),
            method_name="execute_complete",
            kwargs={"changed": changed},
        )

    def execute_complete(self, context: Context, event: dict[str, Any], changed: bool = True) -> dict[str, Any]:
        """Go on after the triggerer's wait.

        :param context: the task's context.
        :param event: the trigger's.
        :param changed: whether this run started the job.
        """
        with no_retry_of_terminal_errors():
            if event["status"] == "failed":
                self.log_trace(event.get("trace", ""))
                raise JobFailed("Flink", event["message"], body=event.get("trace", ""))
            if event["status"] == "timeout":
                raise WaitTimeout(f"Flink: waited {self.wait_seconds:g} s: {event['message']}")
            return self._done(event["job_id"], event["result"], changed=changed)

    def _done(self, job_id: str, state: str, *, changed: bool) -> dict[str, Any]:
        self._started = None
        return {"job_id": job_id, "state": state, "changed": changed}


class FlinkRunSqlOperator(_RunsBoundedJob):
    """Run SQL as one Flink job.

    A *bounded* job (the default) runs once for each run of the task and is waited for. A *streaming* job is kept
    running under its name: where it runs with the same statements nothing is done; where they changed it is stopped
    with a savepoint and started anew; where it does not run it is started.

    Changed statements may have other operators, and then Flink refuses the state: the task fails, the state is kept,
    and the error names its path and the choices, see ``docs/streaming.md``.

    :param sql: statements, or a file ending in ``.sql`` (templated). Exactly the last one starts a job.
    :param job_name: the job's name on the cluster (templated).
    :param properties: settings of the session (templated).
    :param streaming: keep a streaming job running instead of running a bounded one.
    :param resume: where a streaming job begins: ``latest`` (its savepoint, or the newest savepoint or checkpoint that
        the cluster remembers of it), ``none``, or the path of a savepoint or checkpoint (templated).
    :param allow_non_restored_state: start also where some of that state belongs to no operator of the statements; it is
        dropped (templated).
    :param flink_conn_id: connection id (templated).
    :return: ``job_id``, ``state`` (bounded) or ``action`` (streaming), and ``changed``.
    """

    template_fields = ("flink_conn_id", "sql", "job_name", "properties", "resume", "allow_non_restored_state")
    template_ext = (".sql",)
    template_fields_renderers = {"sql": "sql", "properties": "json"}  # noqa: RUF012 (Airflow's own form)

    def __init__(
        self,
        *,
        sql: str | Sequence[str],
        job_name: str,
        properties: Mapping[str, str] | None = None,
        streaming: bool = False,
        resume: str = "latest",
        allow_non_restored_state: bool | str = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.sql = sql
        self.job_name = job_name
        self.properties = properties
        self.streaming = streaming
        self.resume = resume
        self.allow_non_restored_state = allow_non_restored_state
        self._begin = Restore()

    @property
    def job(self) -> RenderedJob:
        """The job as it is sent."""
        script = self.sql if isinstance(self.sql, str) else ";\n".join(self.sql)
        mode = {"execution.runtime-mode": "streaming" if self.streaming else "batch"}
        return script_job(self.job_name, script, {**mode, **(self.properties or {})})

    def what(self) -> str:
        """What is run, as text."""
        return self.job.fingerprint

    def start(self, job_id: str) -> str:
        """Submit the statements.

        :param job_id: to start it under.
        """
        savepoint = self.resume if self.resume not in ("latest", "none") else None
        submit(self.client, self.job, self._restore_from(savepoint), job_id)
        return job_id

    def run(self, context: Context) -> Any:
        """Run the bounded job, or keep the streaming one running.

        :param context: the task's context.
        """
        if not self.streaming:
            return super().run(context)
        try:
            applied = apply_job(
                self.client, self.job, self._restore, timeout=self.wait_seconds, on_submit=self._submitting
            )
        except (JobFailed, StatementFailed, WaitTimeout) as error:
            if self._begin.savepoint is None:
                raise
            self.log_trace(getattr(error, "body", ""))
            kind = TransientError if isinstance(error, TransientError) else TerminalError
            raise kind(f"{error}\n{self._choices(self._begin.savepoint)}") from error
        self._started = None
        self.log.info("%s: %s (%s)", applied.name, applied.action, applied.reason)
        FlinkJobLink.persist(context, self.hook.job_url(str(applied.job_id)))
        return applied.as_dict()

    def _submitting(self, job_id: str) -> None:
        self._started = job_id if self.cancel_on_kill else None

    def _restore(self, savepoint: str | None) -> Restore:
        if self.resume == "none":
            self._begin = Restore()
        elif self.resume == "latest":
            self._begin = self._restore_from(savepoint or latest_restore(self.client, self.job_name))
        else:
            self._begin = self._restore_from(self.resume)
        return self._begin

    def _restore_from(self, savepoint: str | None) -> Restore:
        allowed = truth(self.allow_non_restored_state, "allow_non_restored_state")
        return Restore(savepoint=savepoint, drop_unclaimed=allowed)

    def _choices(self, savepoint: str) -> str:
        """What can be done where a job did not start from a state."""
        return (
            f"job {self.job_name} does not run; the state that it should have started from is kept: {savepoint}\n"
            f"- the former statements go on from it (name it with resume={savepoint!r}: the cluster forgets it)\n"
            "- where Flink refuses it because the statements have other operators now: allow_non_restored_state=True "
            "drops what no operator takes, resume='none' drops all of it; Kafka tables with 'scan.startup.mode' = "
            "'group-offsets' then go on at the offsets that the former job committed"
        )


class FlinkRunJarOperator(_RunsBoundedJob):
    """Upload a jar and run its main class as a job. The jar is uploaded once, whatever the number of runs.

    :param jar: file on the worker (templated).
    :param entry_class: main class; by default the one that the manifest names (templated).
    :param arguments: of the main class (templated).
    :param parallelism: by default the cluster's.
    :param savepoint: where to begin (templated).
    :param properties: Flink settings (templated).
    :param flink_conn_id: connection id (templated).
    :return: ``job_id``, ``state`` and ``changed``.
    """

    template_fields = ("flink_conn_id", "jar", "entry_class", "arguments", "savepoint", "properties")

    def __init__(
        self,
        *,
        jar: str,
        entry_class: str | None = None,
        arguments: Sequence[str] = (),
        parallelism: int | None = None,
        savepoint: str | None = None,
        properties: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.jar = jar
        self.entry_class = entry_class
        self.arguments = arguments
        self.parallelism = parallelism
        self.savepoint = savepoint
        self.properties = properties

    def what(self) -> str:
        """What is run, as text."""
        path = Path(self.jar)
        if not path.is_file():
            raise UserError(f"task {self.task_id}: jar {self.jar!r} is no file on the worker")
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        settings = [self.entry_class, list(self.arguments), self.parallelism, self.savepoint]
        return json.dumps([content, *settings, sorted((self.properties or {}).items())])

    def start(self, job_id: str) -> str:
        """Upload the jar where the cluster does not have it, and run it.

        :param job_id: to start it under.
        """
        path = Path(self.jar)
        present = [jar_id for jar_id, name in self.client.jars().items() if name == path.name]
        jar_id = self.client.upload_jar(path)
        for old in present:  # an older upload of the same name may be another build
            self.client.delete_jar(old)
        return self.client.run_jar(
            jar_id,
            job_id=job_id,
            entry_class=self.entry_class,
            arguments=list(self.arguments),
            parallelism=self.parallelism,
            savepoint=self.savepoint,
            properties=self.properties,
        )


class _NamesJob(_FlinkOperator):
    """Works on a job given by name or id.

    :param job_name: of the job (templated).
    :param job_id: of the job, where its name is not enough (templated).
    :param target_directory: of savepoints; by default the cluster's (templated).
    :param wait_seconds: how long it may take.
    """

    template_fields: Sequence[str] = ("flink_conn_id", "job_name", "job_id", "target_directory")

    def __init__(
        self,
        *,
        job_name: str | None = None,
        job_id: str | None = None,
        target_directory: str | None = None,
        wait_seconds: float = 300.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.job_name = job_name
        self.job_id = job_id
        self.target_directory = target_directory
        self.wait_seconds = wait_seconds

    def job_ids(self) -> list[str]:
        """The living jobs that are meant."""
        if self.job_id:
            return [self.job_id]
        if not self.job_name:
            raise UserError(f"task {self.task_id}: give job_name or job_id")
        seen = seen_jobs(self.client, self.job_name)
        return [entry.job.job_id for entry in seen if not entry.job.state.is_terminal]


class FlinkStopJobOperator(_NamesJob):
    """Stop a job with a savepoint; one that does not run is left alone.

    :param job_name: of the job (templated).
    :param job_id: of the job, where its name is not enough (templated).
    :param savepoint: False cancels it without one.
    :param target_directory: of the savepoint; by default the cluster's (templated).
    :param flink_conn_id: connection id (templated).
    :return: ``changed``, and for each job its ``savepoint``.
    """

    def __init__(self, *, savepoint: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.savepoint = savepoint

    def run(self, context: Context) -> dict[str, Any]:
        """Stop it and wait for its end.

        :param context: the task's context.
        """
        stopped: dict[str, str | None] = {}
        for job_id in self.job_ids():
            FlinkJobLink.persist(context, self.hook.job_url(job_id))
            if self.savepoint:
                stopped[job_id] = stop_job(self.client, job_id, timeout=self.wait_seconds, target=self.target_directory)
            else:
                self.client.cancel(job_id)
                self.client.wait_until_ended(job_id, timeout=self.wait_seconds)
                stopped[job_id] = None
        return {"changed": bool(stopped), "savepoints": stopped}


class FlinkTriggerSavepointOperator(_NamesJob):
    """Take a savepoint of a running job, which goes on. A second try of the same run takes no second one.

    :param job_name: of the job (templated).
    :param job_id: of the job, where its name is not enough (templated).
    :param target_directory: of the savepoint; by default the cluster's (templated).
    :param flink_conn_id: connection id (templated).
    :return: job id → path of its savepoint.
    """

    def run(self, context: Context) -> dict[str, str]:
        """Take it and wait for it.

        :param context: the task's context.
        """
        ids = self.job_ids()
        if not ids:
            raise JobNotFound("Flink", f"no job named {self.job_name!r} runs")
        result = {}
        for job_id in ids:
            FlinkJobLink.persist(context, self.hook.job_url(job_id))
            trigger = job_id_for(run_name(context), job_id)
            result[job_id] = take_savepoint(
                self.client, job_id, trigger, target=self.target_directory, timeout=self.wait_seconds
            )
        return result


class FlinkApplyLanesOperator(_FlinkOperator):
    """Let the jobs of every declared table run as declared. A second run changes nothing.

    :param folder: folder of the declarations, ``connectors/*.yaml`` (templated).
    :param tables: only these, as declared (templated).
    :param tables_folder: folder of ``pinot_tables/*.yaml``: the real-time lane sends what its tables are declared
        to hold; by default the one beside ``folder``, if there is one (templated).
    :param lane: only ``bronze`` (with the transactions) or ``realtime``; both where it is None (templated).
    :param prune: stop jobs of lanes that are no longer declared (templated).
    :param accept_gap: go on although Kafka lost messages that bronze never read (templated).
    :param dry_run: only return the plan (templated).
    :param pinot_task_id: the ``PinotApplyTablesOperator`` that ran before. The lanes of tables that it could not bring
        about stay as they are, the others are applied, and then this task fails too; give it a trigger rule that lets
        it run after that failure. None asks nobody.
    :param wait_seconds: for each job's stop and start.
    :param kafka_conn_id: connection id of the brokers (templated).
    :param nessie_conn_id: connection id of the catalog (templated).
    :param s3_conn_id: connection id of the object store (templated).
    :param flink_conn_id: connection id (templated).
    :return: ``changed``, and what became of each lane.
    """

    template_fields = (
        "flink_conn_id",
        "kafka_conn_id",
        "nessie_conn_id",
        "s3_conn_id",
        "folder",
        "tables_folder",
        "tables",
        "lane",
        "prune",
        "accept_gap",
        "only_plan",
    )

    def __init__(
        self,
        *,
        folder: str = "connectors",
        tables_folder: str | None = None,
        tables: Sequence[str] = (),
        lane: str | None = None,
        prune: bool | str = False,
        accept_gap: bool | str = False,
        dry_run: bool | str = False,
        pinot_task_id: str | None = None,
        wait_seconds: float = 300.0,
        kafka_conn_id: str = "rtlake_kafka",
        nessie_conn_id: str = "rtlake_nessie",
        s3_conn_id: str = "rtlake_s3",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.folder = folder
        self.tables_folder = tables_folder
        self.tables = tables
        self.lane = lane
        self.prune = prune
        self.accept_gap = accept_gap
        self.only_plan = dry_run
        self.pinot_task_id = pinot_task_id
        self.wait_seconds = wait_seconds
        self.kafka_conn_id = kafka_conn_id
        self.nessie_conn_id = nessie_conn_id
        self.s3_conn_id = s3_conn_id

    def run(self, context: Context) -> dict[str, Any]:
        """Compare each lane, change the difference, wait until its tasks run.

        :param context: the task's context.
        """
        if self.lane not in (None, "bronze", "realtime"):
            raise UserError(f"lane must be bronze or realtime, not {self.lane!r}")
        kinds = {"bronze": ["bronze", "transactions"], "realtime": ["realtime"]}.get(str(self.lane), [])
        connectors = load_connectors(self.folder)
        waiting = self._without_pinot_table(context)
        asked = select(names_of(connectors), list(self.tables), kinds)
        schemas = {stream.source: schema for stream, schema in captured_of(connectors, sources_needed(asked))}
        settings = self.hook.lane_settings(
            kafka_conn_id=self.kafka_conn_id, nessie_conn_id=self.nessie_conn_id, s3_conn_id=self.s3_conn_id
        )
        lanes = lanes_of(connectors, schemas, settings, declared=self._declared_types())
        runner = self.hook.lane_runner(settings, kafka_conn_id=self.kafka_conn_id)
        plan_only, accept_gap = truth(self.only_plan, "dry_run"), truth(self.accept_gap, "accept_gap")
        prune = truth(self.prune, "prune")
        made = [] if plan_only else runner.make_topics(connectors)
        for text in made:
            self.log.info("%s", text)

        def told(applied: Applied) -> None:
            self.log.info("%s: %s (%s)", applied.name, applied.action, applied.reason)
            if applied.job_id:
                FlinkJobLink.persist(context, self.hook.job_url(applied.job_id))

        kept = {source for source, names in _pinot_tables(connectors).items() if names & waiting}
        wanted = select(lanes, list(self.tables), kinds)
        chosen = [lane for lane in wanted if lane.kind != "realtime" or lane.source not in kept]
        done = runner.apply_all(chosen, dry_run=plan_only, accept_gap=accept_gap, timeout=self.wait_seconds, told=told)
        pruned = [job.name for job in runner.prune(connectors, dry_run=plan_only)] if prune else []
        for name in pruned:
            self.log.info("%s: not declared, stopped", name)
        if waiting:
            raise TerminalError(
                f"the Pinot tables {', '.join(sorted(waiting))} are not as declared, see task {self.pinot_task_id}; "
                f"lanes that stay as they are until then: {', '.join(sorted(kept)) or 'none'}; all others were applied"
            )
        changed = bool(made or pruned) or any(applied.changed for applied in done)
        return {"changed": changed, "lanes": [applied.as_dict() for applied in done], "pruned": pruned}

    def _declared_types(self) -> dict[str, dict[str, str]]:
        beside = Path(self.folder).parent / "pinot_tables"
        if not self.tables_folder and not beside.is_dir():  # nobody said that there are any
            return {}
        return declared_types(Path(self.tables_folder or beside))

    def _without_pinot_table(self, context: Context) -> set[str]:
        """Pinot tables that the task before could not bring about."""
        if self.pinot_task_id is None:
            return set()
        told = context["ti"].xcom_pull(task_ids=self.pinot_task_id, key=NOT_AS_DECLARED)
        if told is None:
            raise TerminalError(f"task {self.pinot_task_id} did not come to its end; clear it, and this one with it")
        return set(told)


def _pinot_tables(connectors: Sequence[Connector]) -> dict[str, set[str]]:
    """The names of the Pinot tables that each captured table's real-time lane feeds."""
    streams = [stream for connector in connectors for stream in connector.streams]
    return {stream.source: {str(stream.pinot_current), str(stream.pinot_history)} for stream in streams}
