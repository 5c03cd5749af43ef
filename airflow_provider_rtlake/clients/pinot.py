"""Apache Pinot: the controller's REST API and SQL on the broker."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import quote

from typing_extensions import Self

from airflow_provider_rtlake.clients.rest import RestClient
from airflow_provider_rtlake.exceptions import (
    NotFound,
    QueryFailed,
    RequestRefused,
    ServiceError,
    ServiceUnavailable,
    UserError,
)
from airflow_provider_rtlake.pinot_config.version import PinotVersion

Json = dict[str, Any]
# The broker's own codes for: server stopping or full, timeouts, segments or servers missing for now, too many requests
_TRANSIENT_QUERY_ERRORS = frozenset({210, 211, 240, 245, 250, 305, 400, 425, 427, 429})


def _part(name: str) -> str:
    return quote(name, safe="")


def _real_time(table: str) -> str:
    return f"{table}_REALTIME"


@dataclass(frozen=True)
class ConsumingSegment:
    """One segment that a server fills from a topic's partition.

    :param name: segment.
    :param partition: the topic's partition.
    :param server: who fills it; None where no server does.
    :param state: ``CONSUMING``, ``NOT_CONSUMING`` or ``ABSENT`` (no server answers for it).
    :param offset: next offset to read, None where unknown.
    """

    name: str
    partition: int
    server: str | None
    state: str
    offset: int | None = None

    @property
    def consuming(self) -> bool:
        """Whether a server reads."""
        return self.state == "CONSUMING"


@dataclass(frozen=True)
class Ingestion:
    """How a table's ingestion is doing.

    :param table: its name.
    :param segments: those that should be consuming.
    :param state: the controller's word, ``HEALTHY`` or ``UNHEALTHY``; empty where it has none.
    :param errors: what the servers complained about.
    :param paused: whether consumption was paused on purpose.
    """

    table: str
    segments: tuple[ConsumingSegment, ...]
    state: str
    errors: tuple[str, ...]
    paused: bool = False

    def healthy(self, partitions: int | None = None) -> bool:
        """Whether every partition is consumed and no server complains.

        :param partitions: how many partitions there must be; None takes those that there are, at least one.
        """
        consumed = {segment.partition for segment in self.segments if segment.consuming}
        wanted = {segment.partition for segment in self.segments}
        enough = len(consumed) >= (partitions or 1) and wanted <= consumed
        return enough and not self.paused and self.state in ("", "HEALTHY")

    def reason(self) -> str:
        """Why it is not healthy, in the server's words where there are any."""
        if self.paused:
            return "consumption is paused"
        if self.errors:
            return "; ".join(self.errors)
        if not self.segments:
            return "no consuming segment yet"
        idle = [f"{segment.name}: {segment.state}" for segment in self.segments if not segment.consuming]
        return "; ".join(idle) or f"the controller says {self.state or 'nothing'}"


class _PinotRole:
    """What the REST servers of a Pinot cluster have in common.

    :param rest: client of the server's base URL.
    """

    service: str

    def __init__(self, rest: RestClient) -> None:
        self.rest = rest

    @classmethod
    def connect(cls, base_url: str, **kwargs: Any) -> Self:
        """The server at a URL.

        :param base_url: scheme, host and port.
        :param kwargs: as for :class:`RestClient`.
        """
        return cls(RestClient(cls.service, base_url, **kwargs))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self.rest.close()

    def health(self) -> bool:
        """Whether the server says that it is well.

        :raises ServiceUnavailable: it does not answer.
        """
        return str(self.rest.get("/health")).strip() == "OK"


class PinotController(_PinotRole):
    """The controller of a Pinot cluster.

    :param rest: client of the controller's base URL.
    """

    service = "Pinot controller"

    @cached_property
    def version(self) -> PinotVersion:
        """The controller's version, read once.

        :raises UserError: it tells none that can be read.
        """
        answer = self.rest.get("/version")
        parts = answer if isinstance(answer, dict) else {}
        for key in ("pinot-controller", "pinot-spi", "pinot-core", *parts):
            try:
                return PinotVersion.parse(str(parts.get(key, "")))
            except ValueError:
                continue
        raise UserError(f"the Pinot controller at {self.rest.base_url} tells no version: {answer!r}")

    def schemas(self) -> list[str]:
        """Names of all schemas."""
        return list(self.rest.get("/schemas"))

    def schema(self, name: str) -> Json | None:
        """A schema, or None where there is none.

        :param name: schema.
        """
        return self._optional(f"/schemas/{_part(name)}")

    def create_schema(self, schema: Json) -> None:
        """Add a schema, or put it in the place of the one of the same name.

        :param schema: body.
        """
        self.rest.post("/schemas", json=schema, retry=True)

    def update_schema(self, schema: Json) -> None:
        """Change a schema compatibly: columns may be added.

        :param schema: body.
        """
        self.rest.put(f"/schemas/{_part(schema['schemaName'])}", json=schema)

    def delete_schema(self, name: str) -> bool:
        """Delete a schema; True if it was there.

        :param name: schema.
        """
        return self._delete(f"/schemas/{_part(name)}")

    def tables(self) -> list[str]:
        """Names of all tables, without their type."""
        return list(self.rest.get("/tables")["tables"])

    def table(self, name: str) -> Json | None:
        """Configuration of a real-time table, or None where there is none.

        :param name: table, without its type.
        """
        answer = self._optional(f"/tables/{_part(name)}", params={"type": "realtime"})
        found = None if answer is None else answer.get("REALTIME")
        return found if isinstance(found, dict) else None

    def validate_table(self, config: Json, schema: Json) -> None:
        """Let the server check a table with its schema without keeping them.

        :param config: body of ``POST /tables``.
        :param schema: body of ``POST /schemas``.
        :raises RequestRefused: with the server's reason.
        """
        body = {"tableName": config["tableName"], "schema": schema, "realtime": config}
        self.rest.post("/tableConfigs/validate", json=body, retry=True)

    def create_table(self, config: Json) -> None:
        """Create a table. Sent once: the answer may be lost after the table was made.

        :param config: body of ``POST /tables``.
        :raises RequestRefused: the server refuses it, or ignores a part of it.
        """
        self._complain_about_ignored(self.rest.post("/tables", json=config, timeout=120.0), config)

    def update_table(self, config: Json) -> None:
        """Put a configuration in the place of a table's own.

        :param config: body of ``PUT /tables/…``.
        """
        name = config["tableName"].removesuffix("_REALTIME")
        self._complain_about_ignored(self.rest.put(f"/tables/{_part(name)}", json=config), config)

    def delete_table(self, name: str) -> bool:
        """Delete a real-time table with its segments; True if it was there.

        :param name: table.
        """
        params = {"type": "realtime"}
        if self.version >= (0, 11):
            params["retention"] = "0d"  # or its segments stay on disk for a week
        return self._delete(f"/tables/{_part(name)}", params=params)

    def segments(self, name: str) -> list[str]:
        """Names of a table's segments.

        :param name: table.
        """
        answer = self.rest.get(f"/segments/{_part(name)}", params={"type": "REALTIME"})
        return [segment for part in answer for segment in part.get("REALTIME", ())]

    def view(self, name: str) -> dict[str, dict[str, str]]:
        """What the servers say they hold: segment → server → state, such as ``ONLINE``.

        :param name: table.
        """
        answer = self.rest.get(f"/tables/{_part(name)}/externalview", params={"tableType": "realtime"})
        return (answer or {}).get("REALTIME") or {}

    def consuming(self, name: str) -> tuple[ConsumingSegment, ...]:
        """The segments that should be consuming.

        :param name: table.
        """
        answer = self.rest.get(f"/tables/{_part(name)}/consumingSegmentsInfo")
        found = (answer or {}).get("_segmentToConsumingInfoMap") or {}
        return tuple(segment for key, servers in sorted(found.items()) for segment in _consuming(key, servers))

    def ingestion(self, name: str) -> Ingestion:
        """How a table's ingestion is doing.

        :param name: table.
        :raises NotFound: there is no such table.
        """
        if self.table(name) is None:
            raise NotFound("Pinot controller", f"there is no table {name}", status=404)
        try:
            segments = self.consuming(name)
        except RequestRefused as error:
            # A table that was made this moment has no ideal state yet.
            return Ingestion(name, (), "UNHEALTHY", (str(error),))
        state, errors = self._debug(name)
        return Ingestion(name, segments, state, errors, self.paused(name))

    def _debug(self, name: str) -> tuple[str, tuple[str, ...]]:
        try:
            answer = self.rest.get(f"/debug/tables/{_part(name)}", params={"type": "REALTIME", "verbosity": 1})
        except RequestRefused:
            return "", ()
        state, errors = "", []
        for part in answer if isinstance(answer, list) else []:
            status = part.get("ingestionStatus") or {}
            state = status.get("ingestionState") or state
            errors += [status["errorMessage"]] if status.get("errorMessage") else []
            errors += list(_segment_errors(part))
        return state, tuple(dict.fromkeys(errors))

    def paused(self, name: str) -> bool:
        """Whether consumption was paused on purpose; servers before 0.11 cannot.

        :param name: table.
        """
        if self.version < (0, 11):
            return False
        answer = self.rest.get(f"/tables/{_part(name)}/pauseStatus")
        return bool(answer.get("pauseFlag")) if isinstance(answer, dict) else False

    def pause(self, name: str) -> None:
        """Close the consuming segments and read no further.

        :param name: table.
        :raises UserError: the server cannot.
        """
        self._need((0, 11), "pausing a table's ingestion")
        self.rest.post(f"/tables/{_part(name)}/pauseConsumption", retry=True)

    def resume(self, name: str) -> None:
        """Read on.

        :param name: table.
        :raises UserError: the server cannot.
        """
        self._need((0, 11), "resuming a table's ingestion")
        self.rest.post(f"/tables/{_part(name)}/resumeConsumption", retry=True)

    def reload_segments(self, name: str) -> dict[str, str]:
        """Let the servers load all segments anew, with the present schema and indexes.

        :param name: table.
        :return: the server's word, and the job's id where it tells one.
        """
        answer = self.rest.post(
            f"/segments/{_part(_real_time(name))}/reload", params={"forceDownload": "false"}, retry=True
        )
        return {"status": str(answer.get("status", answer) if isinstance(answer, dict) else answer)}

    def _need(self, version: tuple[int, int], what: str) -> None:
        if self.version < version:
            mine, needed = ".".join(map(str, self.version)), ".".join(map(str, version))
            raise UserError(f"{what} needs Pinot {needed} or later, the server is {mine}")

    def _optional(self, path: str, **kwargs: Any) -> Json | None:
        try:
            answer = self.rest.get(path, **kwargs)
        except NotFound:
            return None
        return answer if isinstance(answer, dict) else None

    def _delete(self, path: str, **kwargs: Any) -> bool:
        try:
            self.rest.delete(path, **kwargs)
        except NotFound:
            return False
        return True

    def _complain_about_ignored(self, answer: Any, config: Json) -> None:
        """Pinot takes a configuration and drops the keys that it does not know: that must not pass unseen."""
        ignored = answer.get("unrecognizedProperties") if isinstance(answer, dict) else None
        if ignored:
            raise RequestRefused(
                "Pinot controller",
                f"table {config['tableName']}: the server ignores {', '.join(sorted(ignored))}",
            )


def _consuming(name: str, servers: Any) -> Iterator[ConsumingSegment]:
    parts = name.rsplit("__", 3)  # table, partition, number, time
    partition = int(parts[1]) if len(parts) == 4 else 0
    if not servers:
        yield ConsumingSegment(name, partition, None, "ABSENT")
    for server in servers or ():
        offset = (server.get("partitionToOffsetMap") or {}).get(str(partition))
        yield ConsumingSegment(
            name,
            partition,
            server.get("serverName"),
            str(server.get("consumerState")),
            int(str(offset)) if str(offset).isdigit() else None,
        )


def _segment_errors(part: Mapping[str, Any]) -> Iterator[str]:
    for segment in part.get("segmentDebugInfos") or ():
        for server, state in (segment.get("serverState") or {}).items():
            error = state.get("errorInfo") or {}
            if error.get("errorMessage"):
                yield f"{segment.get('segmentName')} on {server}: {error['errorMessage']}"


@dataclass(frozen=True)
class QueryResult:
    """What a query answered.

    :param columns: names.
    :param types: Pinot's types.
    :param rows: values.
    :param milliseconds: time that the broker took.
    :param complete: every server that holds a part of the table answered.
    """

    columns: tuple[str, ...]
    types: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    milliseconds: int
    complete: bool

    def dicts(self) -> list[dict[str, Any]]:
        """The rows as column → value."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


class PinotBroker(_PinotRole):
    """SQL on a Pinot broker.

    :param rest: client of the broker's base URL.
    """

    service = "Pinot broker"

    def query(
        self, sql: str, *, options: Mapping[str, str | int | bool] | None = None, timeout: float | None = None
    ) -> QueryResult:
        """Run a query.

        :param sql: Pinot SQL. Without LIMIT Pinot answers ten rows.
        :param options: query options, such as ``skipUpsert``.
        :param timeout: seconds, for the servers and for this client.
        :raises QueryFailed: the broker or a server refused or failed it.
        :raises ServiceUnavailable: no answer, or a server that is starting, stopping or overloaded.
        """
        chosen = dict(options or {})
        kwargs: dict[str, Any] = {}
        if timeout is not None:
            chosen["timeoutMs"] = max(1, int(timeout * 1000))
            kwargs["timeout"] = timeout + 2.0  # the broker's own limit comes first and says more
        body = {"sql": sql}
        if chosen:
            body["queryOptions"] = ";".join(f"{key}={_option(value)}" for key, value in chosen.items())
        return _result(self.rest.post("/query/sql", json=body, retry=True, **kwargs), sql)


def _option(value: str | int | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _result(answer: Any, sql: str) -> QueryResult:
    if not isinstance(answer, dict):
        raise QueryFailed("Pinot broker", f"unexpected answer {str(answer)[:200]!r} to {sql}")
    exceptions = answer.get("exceptions") or ()
    if exceptions:
        errors = "; ".join(_first_lines(str(error.get("message"))) for error in exceptions)
        kind: type[ServiceError] = QueryFailed
        if all(error.get("errorCode") in _TRANSIENT_QUERY_ERRORS for error in exceptions):
            kind = ServiceUnavailable
        raise kind("Pinot broker", f"{errors}; query: {sql}", body=str(answer)[:4000])
    table = answer.get("resultTable") or {"dataSchema": {}, "rows": []}
    schema = table.get("dataSchema") or {}
    return QueryResult(
        tuple(schema.get("columnNames", ())),
        tuple(schema.get("columnDataTypes", ())),
        tuple(tuple(row) for row in table.get("rows", ())),
        int(answer.get("timeUsedMs", 0)),
        answer.get("numServersQueried") == answer.get("numServersResponded"),
    )


def _first_lines(message: str, lines: int = 3) -> str:
    """The reason without the stack trace."""
    kept = [line.strip() for line in message.splitlines() if not line.lstrip().startswith("at ")]
    return " ".join(kept[:lines])
