"""Which Trino types can be compared, and how values of two catalogs are brought to one form."""

from __future__ import annotations

import re
from collections.abc import Callable

_NUMBERS = ("tinyint", "smallint", "integer", "bigint", "decimal", "real", "double")
_TEXTS = ("varchar", "char")
_NESTED = ("array", "map", "row")

Expression = str


def base(type_: str) -> str:
    """A type without its parameters: ``timestamp(6) with time zone`` → ``timestamp with time zone``.

    :param type_: as ``information_schema`` spells it.
    """
    if type_.split("(", 1)[0] in _NESTED:
        return type_.split("(", 1)[0]
    return re.sub(r"\([^)]*\)", "", type_).strip()


def as_text(expression: Expression, type_: str) -> Expression:
    """A value of any type as text, to be shown to a reader or compared with a text.

    :param expression: an SQL expression of that type.
    :param type_: its type.
    """
    kind = base(type_)
    if kind == "varchar":
        return expression
    if kind == "char":
        return f"rtrim(CAST({expression} AS varchar))"
    if kind == "varbinary":
        return f"to_base64({expression})"
    if kind == "json":
        return f"json_format({expression})"
    if kind in _NESTED:
        return f"json_format(CAST({expression} AS json))"
    return f"CAST({expression} AS varchar)"


def _utc(expression: Expression, type_: str) -> Expression:
    if base(type_) == "timestamp with time zone":
        return f"CAST({expression} AT TIME ZONE 'UTC' AS timestamp(6))"
    return expression


def _json(expression: Expression, type_: str) -> Expression:
    if base(type_) in _TEXTS:
        return f"json_format(json_parse({expression}))"
    return as_text(expression, type_)


def _trimmed(expression: Expression, type_: str) -> Expression:
    return f"rtrim({as_text(expression, type_)})"


def comparable(
    left: Expression, left_type: str, right: Expression, right_type: str
) -> tuple[Expression, Expression] | None:
    """Two expressions that are equal exactly when the two columns' values are; None where nothing can tell.

    :param left: an SQL expression.
    :param left_type: its type.
    :param right: an SQL expression of the other side.
    :param right_type: its type.
    """
    kinds = {base(left_type), base(right_type)}
    change = _change(kinds)
    if change is None:
        return None
    return change(left, left_type), change(right, right_type)


def _change(kinds: set[str]) -> Callable[[Expression, str], Expression] | None:
    if "json" in kinds and kinds <= {"json", *_TEXTS, *_NESTED}:
        return _json
    if "char" in kinds and kinds <= set(_TEXTS):
        return _trimmed
    if kinds <= set(_NUMBERS) or len(kinds) == 1:
        return lambda expression, _: expression
    if kinds == {"timestamp", "timestamp with time zone"}:
        return _utc
    if kinds & set(_NESTED) and kinds & set(_TEXTS):
        return _json
    # One side keeps as text what the other has a type for: uuid, addresses, exact numbers, binary, times.
    if "varchar" in kinds:
        return as_text
    return None
