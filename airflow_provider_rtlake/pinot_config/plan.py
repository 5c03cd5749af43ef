"""Compares what is declared with what Pinot and Kafka have. Pure.

Only what a declaration speaks of is compared: defaults that the server fills in and settings that somebody
made by hand are neither differences nor lost.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from airflow_provider_rtlake.pinot_config.render import Json, Rendered, Topic

_OWNED = {
    "segmentsConfig": (
        "timeColumnName",
        "schemaName",
        "replication",
        "replicasPerPartition",
        "retentionTimeUnit",
        "retentionTimeValue",
    ),
    "tenants": ("broker", "server"),
    "tableIndexConfig": (
        "loadMode",
        "nullHandlingEnabled",
        "noDictionaryColumns",
        "invertedIndexColumns",
        "rangeIndexColumns",
    ),
    "routing": ("instanceSelectorType",),
    "upsertConfig": ("mode", "comparisonColumn", "comparisonColumns", "enableSnapshot", "deleteRecordColumn"),
}
_STREAM = "tableIndexConfig.streamConfigs"
_UNORDERED = frozenset({"noDictionaryColumns", "invertedIndexColumns", "rangeIndexColumns"})
# What a server says when a table has no upsert: the same as nothing.
_NOTHING = {"upsertConfig.mode": "NONE"}
# Changed in place these would leave a table half of each.
_REBUILD = frozenset(
    {
        "segmentsConfig.timeColumnName",
        "upsertConfig.mode",
        "upsertConfig.comparisonColumn",
        "upsertConfig.comparisonColumns",
        f"{_STREAM}.stream.kafka.topic.name",
        "tableIndexConfig.nullHandlingEnabled",
    }
)
_RELOAD = frozenset(
    {
        "tableIndexConfig.invertedIndexColumns",
        "tableIndexConfig.rangeIndexColumns",
        "tableIndexConfig.noDictionaryColumns",
        "tableIndexConfig.loadMode",
    }
)
_FIELD_KINDS = {
    "dimensionFieldSpecs": "dimension",
    "metricFieldSpecs": "metric",
    "dateTimeFieldSpecs": "dateTime",
}
_DEFAULT_LENGTH = 512


@dataclass(frozen=True)
class Difference:
    """One thing that is not as declared.

    :param path: where, such as ``schema.columns.price`` or ``table.upsertConfig.mode``.
    :param was: what the server has; None for nothing.
    :param becomes: what is declared; None for nothing.
    :param rebuild: the table must be rebuilt for it.
    """

    path: str
    was: Any
    becomes: Any
    rebuild: bool = False

    def line(self) -> str:
        """One line of a diff."""
        if self.was is None:
            return f"+ {self.path}: {self.becomes}"
        if self.becomes is None:
            return f"- {self.path}: {self.was}"
        return f"~ {self.path}: {self.was} -> {self.becomes}"


@dataclass(frozen=True)
class Actual:
    """What the servers have for a table.

    :param schema: of Pinot; None where there is none.
    :param table: configuration; None where there is none.
    :param topic: in Kafka, with the settings that are declared; None where there is none.
    """

    schema: Json | None = None
    table: Json | None = None
    topic: Topic | None = None


@dataclass(frozen=True)
class Plan:
    """What it takes to bring a table to its declaration.

    :param rendered: the declaration.
    :param actual: what there is.
    :param topic: differences of the topic.
    :param schema: differences of the schema.
    :param table: differences of the table's configuration.
    """

    rendered: Rendered
    actual: Actual
    topic: tuple[Difference, ...]
    schema: tuple[Difference, ...]
    table: tuple[Difference, ...]

    @property
    def differences(self) -> tuple[Difference, ...]:
        """All of them."""
        return self.topic + self.schema + self.table

    @property
    def changed(self) -> bool:
        """Whether anything differs."""
        return bool(self.differences)

    @property
    def rebuild(self) -> tuple[Difference, ...]:
        """Those that need a rebuild."""
        return tuple(difference for difference in self.differences if difference.rebuild)

    @property
    def reload(self) -> bool:
        """Whether segments that exist must be loaded anew."""
        if self.actual.table is None:
            return False
        indexes = any(difference.path.removeprefix("table.") in _RELOAD for difference in self.table)
        return indexes or bool(self.schema)

    @property
    def action(self) -> str:
        """One word: ``create``, ``update``, ``rebuild`` or ``none``."""
        if self.actual.table is None:
            return "create"
        if self.rebuild:
            return "rebuild"
        return "update" if self.changed else "none"

    def lines(self) -> list[str]:
        """The diff, one line a difference."""
        return [difference.line() for difference in self.differences]

    def as_dict(self) -> dict[str, Any]:
        """For JSON output."""
        return {
            "table": self.rendered.name,
            "topic": self.rendered.topic.name,
            "action": self.action,
            "changed": self.changed,
            "diff": self.lines(),
        }


def make_plan(rendered: Rendered, actual: Actual) -> Plan:
    """Compare a declaration with what there is.

    :param rendered: the declaration.
    :param actual: what there is.
    """
    return Plan(
        rendered,
        actual,
        tuple(_topic(rendered.topic, actual.topic)),
        tuple(_schema(rendered.schema, actual.schema)),
        tuple(_table(rendered.table, actual.table)),
    )


def merged_table(wanted: Json, actual: Json) -> Json:
    """The configuration to send: what there is, with everything that is declared in place.

    :param wanted: rendered configuration.
    :param actual: the server's.
    """
    result = copy.deepcopy(actual)
    result["tableName"], result["tableType"] = wanted["tableName"], wanted["tableType"]
    for section, keys in _OWNED.items():
        have, want = dict(result.get(section) or {}), wanted.get(section, {})
        for key in keys:
            if key in want:
                have[key] = want[key]
            else:
                have.pop(key, None)
        if section == "tableIndexConfig":
            have["streamConfigs"] = want["streamConfigs"]
        if section in ("routing", "upsertConfig") and section not in wanted:
            result.pop(section, None)
        else:
            result[section] = have
    return result


def _table(wanted: Json, actual: Json | None) -> list[Difference]:
    if actual is None:
        return [Difference("table", None, f"{wanted['tableName']} on {_stream(wanted)['stream.kafka.topic.name']}")]
    was, becomes = _owned(actual), _owned(wanted)
    return [
        Difference(f"table.{path}", was.get(path), becomes.get(path), path in _REBUILD)
        for path in sorted(was.keys() | becomes.keys())
        if was.get(path) != becomes.get(path)
    ]


def _owned(config: Json) -> dict[str, str]:
    """What a declaration speaks of, flat, each value as text."""
    result: dict[str, str] = {}
    for section, keys in _OWNED.items():
        values = config.get(section) or {}
        for key in keys:
            value = values.get(key)
            path = f"{section}.{key}"
            if value not in (None, [], "", False) and value != _NOTHING.get(path):
                result[path] = _plain(key, value)
    # A server may leave out what equals the table's replication.
    replication = result.get("segmentsConfig.replication") or result.get("segmentsConfig.replicasPerPartition") or "1"
    for key in ("replication", "replicasPerPartition"):
        result.setdefault(f"segmentsConfig.{key}", replication)
    return result | {f"{_STREAM}.{key}": str(value) for key, value in _stream(config).items()}


def _stream(config: Json) -> Mapping[str, Any]:
    found = (config.get("tableIndexConfig") or {}).get("streamConfigs")
    if found:
        return dict(found)
    ingestion = ((config.get("ingestionConfig") or {}).get("streamIngestionConfig") or {}).get("streamConfigMaps")
    return dict(ingestion[0]) if ingestion else {}


def _plain(key: str, value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(sorted(value) if key in _UNORDERED else value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def _schema(wanted: Json, actual: Json | None) -> list[Difference]:
    if actual is None:
        return [Difference("schema", None, wanted["schemaName"])]
    was, becomes = _fields(actual), _fields(wanted)
    result = []
    for name in [*becomes, *(name for name in was if name not in becomes)]:
        old, new = was.get(name), becomes.get(name)
        if old != new:
            rebuild = old is not None and (new is None or old[:2] != new[:2])
            result.append(Difference(f"schema.columns.{name}", _shown(old), _shown(new), rebuild))
    keys = [", ".join(schema.get("primaryKeyColumns") or ()) for schema in (actual, wanted)]
    if keys[0] != keys[1]:
        result.append(Difference("schema.primaryKeyColumns", keys[0] or None, keys[1] or None, rebuild=True))
    return result


_Field = tuple[str, str, tuple[tuple[str, str], ...]]


def _fields(schema: Json) -> dict[str, _Field]:
    """Column name → (data type, kind, further settings that are not a default)."""
    result: dict[str, _Field] = {}
    for section, kind in _FIELD_KINDS.items():
        for spec in schema.get(section) or ():
            more = {key: str(spec[key]) for key in ("format", "granularity", "defaultNullValue") if key in spec}
            if spec.get("maxLength", _DEFAULT_LENGTH) != _DEFAULT_LENGTH:
                more["maxLength"] = str(spec["maxLength"])
            if "defaultNullValue" in spec:
                more["defaultNullValue"] = _number(spec["dataType"], spec["defaultNullValue"])
            result[spec["name"]] = (spec["dataType"], kind, tuple(sorted(more.items())))
    return result


def _number(type_: str, value: Any) -> str:
    if type_ in ("DOUBLE", "FLOAT"):
        return repr(float(value))
    if type_ == "BOOLEAN":
        return str(str(value).lower() in ("true", "1"))
    return str(value)


def _shown(field: _Field | None) -> str | None:
    if field is None:
        return None
    more = "".join(f", {key} {value}" for key, value in field[2])
    return f"{field[0]} {field[1]}{more}"


def _topic(wanted: Topic, actual: Topic | None) -> list[Difference]:
    if actual is None:
        return [
            Difference(
                "topic",
                None,
                f"{wanted.name}, {wanted.partitions} partitions, {wanted.config['cleanup.policy']}",
            )
        ]
    result = []
    # More partitions than declared, or other copies, are somebody's choice and do no harm here.
    if actual.partitions < wanted.partitions:
        result.append(
            Difference(
                "topic.partitions",
                actual.partitions,
                wanted.partitions,
                rebuild="compact" in wanted.config["cleanup.policy"],
            )
        )
    for key, value in wanted.config.items():
        was = actual.config.get(key)
        if _policy(was) != _policy(value):
            result.append(Difference(f"topic.{key}", was, value))
    return result


def _policy(value: str | None) -> str | None:
    return None if value is None else ",".join(sorted(part.strip() for part in value.split(",")))
