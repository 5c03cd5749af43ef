"""Any text as a part of a Flink SQL statement."""

from __future__ import annotations

from collections.abc import Mapping


def literal(text: str) -> str:
    """A string literal.

    :param text: anything.
    """
    return "'" + text.replace("'", "''") + "'"


def identifier(name: str) -> str:
    """A quoted identifier.

    :param name: anything.
    """
    return "`" + name.replace("`", "``") + "`"


def table(name: str, catalog: str | None = None) -> str:
    """A quoted table name.

    :param name: ``namespace.name``, split at the first dot.
    :param catalog: put in front.
    """
    parts = name.split(".", 1)
    return ".".join(identifier(part) for part in ([catalog] if catalog else []) + parts)


def options(values: Mapping[str, str]) -> str:
    """The inside of a WITH clause.

    :param values: option → value, in the order to write them.
    """
    return ",\n  ".join(f"{literal(key)} = {literal(value)}" for key, value in values.items())
