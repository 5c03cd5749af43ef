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
    if kind.startswith("time") and "stamp" not in kind:
        # A history keeps a time as text, and six digits after the point only where they are not all zero.
        return f"replace(CAST({expression} AS varchar), '.000000', '')"
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


def canonical(type_: str, other: str) -> Callable[[Expression], Expression] | None:
    """How a value becomes a text that equals the other side's text exactly when the values are equal.

    Where both sides are asked in different queries, so that no SQL can compare them. None where nothing
    can tell.

    :param type_: Trino type of the value.
    :param other: Trino type of what it is compared with.
    """
    kinds = {base(type_), base(other)}
    change = _change(kinds)
    if change is None:
        return None
    if kinds & {"real", "double"}:
        return lambda expression: f"CAST(CAST({expression} AS double) AS varchar)"
    if "decimal" in kinds and kinds <= set(_NUMBERS):
        scale = max(_scale(type_), _scale(other))
        return lambda expression: f"CAST(CAST({expression} AS decimal(38, {scale})) AS varchar)"
    if kinds <= set(_NUMBERS):
        return lambda expression: f"CAST({expression} AS varchar)"
    if kinds == {"timestamp"}:
        return lambda expression: f"CAST(CAST({expression} AS timestamp(6)) AS varchar)"
    if "timestamp with time zone" in kinds and kinds <= {"timestamp", "timestamp with time zone"}:
        return lambda expression: f"CAST({_utc(expression, type_)} AS varchar)"
    return lambda expression: as_text(change(expression, type_), _changed_type(kinds, type_))


def _changed_type(kinds: set[str], type_: str) -> str:
    """The type of what :func:`_change` makes."""
    return type_ if len(kinds) == 1 and "char" not in kinds and "json" not in kinds else "varchar"


def _scale(type_: str) -> int:
    match = re.fullmatch(r"decimal\(\d+,\s*(\d+)\)", type_)
    return int(match.group(1)) if match else 0
