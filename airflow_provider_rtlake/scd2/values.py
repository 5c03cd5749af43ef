"""What a column's type in a message is in the history, and how its values are read.

The message's own Connect schema decides, with the PostgreSQL type that Debezium propagates into the schema's parameters
(``column.propagate.source.type``). A value is kept in a plain Python form that survives the way into Iceberg and back:

=================  ==========================================================================
Iceberg type       Python form
=================  ==========================================================================
boolean            bool
int, long          int
float, double      float; every NaN is the one object :data:`NAN`
decimal(p,s)       Decimal with exactly s digits after the point
date               days since 1970-01-01
timestamp(tz)      microseconds since 1970-01-01 (UTC)
string             str
binary             bytes
list<...>          list of the above
=================  ==========================================================================
"""

from __future__ import annotations

import base64
import json
import math
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Context, Decimal, Inexact
from typing import Any

from airflow_provider_rtlake.exceptions import TerminalError

NAN = float("nan")
DAY_US = 86_400_000_000
# PostgreSQL's infinite dates and timestamps have no counterpart in Iceberg: they become the ends of the calendar that
# every engine can show. One rule for date, timestamp and timestamptz.
MAX_DATE, MIN_DATE = 2_932_896, -719_162  # 9999-12-31 and 0001-01-01
MAX_TIMESTAMP, MIN_TIMESTAMP = (MAX_DATE + 1) * DAY_US - 1, MIN_DATE * DAY_US
# What Debezium 3.7 sends: from the stream, and from a snapshot, where java.sql.Date overflows 32 bits of days (a day
# more or less where Connect does not run in UTC). PostgreSQL's own dates reach from -2,440,588 to 2,145,042,905.
_DATE_INFINITY = frozenset({2_146_033_979, -622_191_235, -622_191_234, -622_191_233})
_DATE_MINUS_INFINITY = frozenset({-2_147_472_691, -625_821_273, -625_821_272, -625_821_271})
_SPECIAL_NUMBERS = frozenset(
    {"NAN", "POSITIVE_INFINITY", "NEGATIVE_INFINITY", "NaN", "Infinity", "-Infinity", "INFINITY", "-INFINITY"}
)
_ISO = re.compile(
    r"([+-]?\d{4,})-(\d\d)-(\d\d)(?:[T ](\d\d):(\d\d)(?::(\d\d)(?:\.(\d{1,9}))?)?)?(Z|[+-]\d\d(?::?\d\d(?::?\d\d)?)?)?"
)

_EXACT = Context(prec=80, traps=[Inexact])

# Texts that stand for "nothing" in a column that cannot be null: 0, 0.00, midnight, the epoch, uuid of zeros
_ZERO = re.compile(r"[-+]?[0:.\-]*(e[-+]?\d+)?Z?|1970-01-01(T[0:.]+)?Z?|[0:.]+\+00(:00)?|P[0YMDTHS.]+", re.IGNORECASE)

Reader = Callable[[Any], Any]


def _is_null(value: Any) -> bool:
    return value is None


class ValueRefused(TerminalError):
    """A value that the source may well hold has no exact form in its column's type: its column has to become text.

    A value that the source cannot have sent, because it is not of the type that its own message names, is a ValueError.
    """


def refused(what: str) -> ValueRefused:
    """The error of such a value, with its remedy.

    :param what: the value and what it is not.
    """
    return ValueRefused(
        f"{what}; list the column under history: accept_loss to keep it as text. Its type changes by that, and bronze "
        "keeps the value: where the history is there already, rebuild it then (rtlake scd2 rebuild TABLE)"
    )


@dataclass(frozen=True)
class ColumnType:
    """A column as one message's schema describes it.

    :param name: column name, after ``renamed_from`` was applied.
    :param iceberg: Iceberg type, such as ``decimal(10,2)`` or ``list<int>``.
    :param read: turns the JSON value (never None) into the Python form; raises :class:`ValueRefused`, and ValueError
        for what is not of the column's type.
    :param postgres: type as the source names it, for messages.
    :param field: name in the message.
    :param blank: what stands in a before-image for a value that was not sent: null, or the default (Debezium makes up
        0, false or an empty text where it has none) of a column that cannot be null.
    """

    name: str
    iceberg: str
    read: Reader
    postgres: str
    field: str
    blank: Callable[[Any], bool] = _is_null


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("it is no boolean")
    return value


def _whole(bits: int) -> Callable[[Any], int]:
    """Reads whole numbers of so many bits: a fraction is not cut off, and what is too large would fail when written."""
    limit = 2 ** (bits - 1)

    def read(value: Any) -> int:
        number = int(value)
        if isinstance(value, float) or not -limit <= number < limit:
            raise ValueError(f"it is no whole number of {bits} bits")
        return number

    return read


_DAYS = _whole(32)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _double(value: Any) -> float:
    if isinstance(value, str):
        value = {"NaN": NAN, "NAN": NAN, "Infinity": math.inf, "-Infinity": -math.inf}.get(value, value)
    number = float(value)
    return NAN if number != number else number


def _single(value: Any) -> float:
    # The history keeps 32 bits: round here, or the value would differ from itself when read back.
    number = _double(value)
    return number if number != number or math.isinf(number) else float(struct.unpack("f", struct.pack("f", number))[0])


def _binary(value: Any) -> bytes:
    return base64.b64decode(value, validate=True)


def _bits(value: Any) -> bytes:
    return base64.b64decode(value, validate=True)


def _date(value: Any) -> int:
    days = _DAYS(value)
    if days in _DATE_INFINITY:
        return MAX_DATE
    return MIN_DATE if days in _DATE_MINUS_INFINITY else days


# The JDBC driver's infinities, which come in milliseconds where the column has no more than three digits of a second.
_MILLIS_INFINITY, _MILLIS_MINUS_INFINITY = 9_223_372_036_825_200_000, -9_223_372_036_832_400_000
_LEAST = -2_440_588 * DAY_US  # PostgreSQL's first day, 4713 BC
# "-infinity" in an array of timestamptz comes as a year far behind PostgreSQL's last one.
_BEYOND = 290_000_000


def _scaled_timestamp(numerator: int, denominator: int) -> Reader:
    def read(value: Any) -> int:
        raw = int(value)
        if raw >= (_MILLIS_INFINITY if numerator > 1 else 2**63 - 1):
            return MAX_TIMESTAMP
        if raw <= (_MILLIS_MINUS_INFINITY if numerator > 1 else -(2**63)):
            return MIN_TIMESTAMP
        return _fitting(raw * numerator // denominator, value)

    return read


def _fitting(micros: int, value: Any) -> int:
    """Microseconds, where 64 bits hold them: up to the year 294247. Debezium lets PostgreSQL's last years, to 294276,
    run over: they would be times before PostgreSQL's first one."""
    if not _LEAST <= micros < 2**63:
        raise refused(f"{value} is a time that microseconds in 64 bits cannot hold")
    return micros


def days_from_civil(year: int, month: int, day: int) -> int:
    """Days since 1970-01-01 in the proleptic Gregorian calendar, for any year.

    :param year: astronomical: 0 is 1 BC.
    """
    year -= month <= 2
    era, of_era = divmod(year, 400)
    of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    return era * 146_097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719_468


def timestamp_text(value: Any) -> int:
    """Microseconds UTC of an ISO text, or of an infinity.

    :raises ValueError: the text is no timestamp.
    :raises ValueRefused: 64 bits cannot hold it.
    """
    if value in ("infinity", "Infinity"):
        return MAX_TIMESTAMP
    if value in ("-infinity", "-Infinity"):
        return MIN_TIMESTAMP
    match = _ISO.fullmatch(str(value))
    if match is None:
        raise ValueError("it is no timestamp")
    year, month, day, hour, minute, second, fraction, zone = match.groups()
    if int(year) > _BEYOND:
        return MIN_TIMESTAMP
    micros = int((fraction or "0").ljust(6, "0")[:6])
    seconds = (
        days_from_civil(int(year), int(month), int(day)) * 86_400
        + int(hour or 0) * 3600
        + int(minute or 0) * 60
        + int(second or 0)
    )
    return _fitting((seconds - _zone_seconds(zone)) * 1_000_000 + micros, value)


def _zone_seconds(zone: str | None) -> int:
    if zone is None or zone == "Z":
        return 0
    digits = zone[1:].replace(":", "").ljust(6, "0")
    seconds = int(digits[:2]) * 3600 + int(digits[2:4]) * 60 + int(digits[4:6])
    return -seconds if zone.startswith("-") else seconds


def _clock(micros_per_unit: int) -> Reader:
    def read(value: Any) -> str:
        total, micros = divmod(int(value) * micros_per_unit, 1_000_000)
        text = f"{total // 3600:02d}:{total // 60 % 60:02d}:{total % 60:02d}"
        return f"{text}.{micros:06d}" if micros else text

    return read


def _decimal(precision: int, scale: int) -> Reader:
    quantum, limit = Decimal(1).scaleb(-scale), Decimal(1).scaleb(precision - scale)

    def read(value: Any) -> Decimal:
        if value in _SPECIAL_NUMBERS:
            raise refused(f"{value} is no decimal")
        number = Decimal(value)
        if abs(number) >= limit:
            raise refused(f"{value} has more than {precision - scale} digits before the point")
        if -int(number.as_tuple().exponent) == scale:
            return number
        try:
            return number.quantize(quantum, context=_EXACT)
        except Inexact:
            raise refused(f"{value} has more than {scale} digits after the point") from None

    return read


def _number_text(value: Any) -> str:
    if value in _SPECIAL_NUMBERS:
        raise refused(f"{value} is no number")
    return str(value)


_SPELLING = {"NAN": "NaN", "POSITIVE_INFINITY": "Infinity", "NEGATIVE_INFINITY": "-Infinity"}


def _declared_text(value: Any) -> str:
    return _SPELLING.get(value, value) if isinstance(value, str) else _text(value)


# Semantic names of Debezium and Connect. A name that is not here follows its plain type, or text.
_SEMANTIC: dict[str, tuple[str, Reader]] = {
    "io.debezium.time.Date": ("date", _date),
    "org.apache.kafka.connect.data.Date": ("date", _date),
    "io.debezium.time.Time": ("string", _clock(1000)),
    "org.apache.kafka.connect.data.Time": ("string", _clock(1000)),
    "io.debezium.time.MicroTime": ("string", _clock(1)),
    "io.debezium.time.Timestamp": ("timestamp", _scaled_timestamp(1000, 1)),
    "org.apache.kafka.connect.data.Timestamp": ("timestamp", _scaled_timestamp(1000, 1)),
    "io.debezium.time.MicroTimestamp": ("timestamp", _scaled_timestamp(1, 1)),
    "io.debezium.time.NanoTimestamp": ("timestamp", _scaled_timestamp(1, 1000)),
    "io.debezium.time.ZonedTimestamp": ("timestamptz", timestamp_text),
    "io.debezium.data.Bits": ("binary", _bits),
}
_PLAIN: dict[str, tuple[str, Reader]] = {
    "boolean": ("boolean", _boolean),
    "int8": ("int", _whole(32)),
    "int16": ("int", _whole(32)),
    "int32": ("int", _whole(32)),
    "int64": ("long", _whole(64)),
    "float": ("float", _single),
    "float32": ("float", _single),
    "double": ("double", _double),
    "float64": ("double", _double),
    "string": ("string", _text),
    "bytes": ("binary", _binary),
}


def _guarded(read: Reader, name: str) -> Reader:
    def guarded(value: Any) -> Any:
        try:
            return read(value)
        except ValueRefused as error:
            raise ValueRefused(f"column {name}: {error}") from None
        except (TypeError, ValueError, ArithmeticError) as error:  # base64's own error is a ValueError
            raise ValueError(f"column {name}: {value!r} cannot be read: {error}") from error

    return guarded


def _numeric(parameters: dict[str, str]) -> tuple[str, Reader]:
    length, scale = (
        parameters.get("__debezium.source.column.length"),
        parameters.get("__debezium.source.column.scale"),
    )
    precision, digits = int(length or 0), int(scale or 0)
    if 0 < precision <= 38 and 0 <= digits <= precision:
        return f"decimal({precision},{digits})", _decimal(precision, digits)
    return "string", _number_text


def _element(schema: dict[str, Any]) -> tuple[str, Reader]:
    items = schema.get("items") or {}
    kind, read = _resolve(items)
    # Lists of lists lose dimensions in Debezium anyway, and bytes inside lists are rare: both stay exact JSON text.
    if kind.startswith("list<") or kind == "binary" or items.get("type") in ("struct", "map"):
        return "string", _text
    return f"list<{kind}>", _list_of(read)


def _list_of(read: Reader) -> Reader:
    def read_list(value: Any) -> list[Any]:
        if not isinstance(value, list):
            raise ValueError("it is no array")
        return [None if item is None else read(item) for item in value]

    return read_list


def _resolve(schema: dict[str, Any]) -> tuple[str, Reader]:
    name, parameters = schema.get("name") or "", schema.get("parameters") or {}
    if name in _SEMANTIC:
        return _SEMANTIC[name]
    kind = schema.get("type")
    if parameters.get("__debezium.source.column.type", "").upper() in ("NUMERIC", "DECIMAL") and kind == "string":
        return _numeric(parameters)
    if kind == "array":
        return _element(schema)
    return _PLAIN.get(str(kind), ("string", _text))


def column_type(field: dict[str, Any], *, name: str | None = None, as_text: bool = False) -> ColumnType:
    """Map one field of the message's row schema.

    :param field: a member of ``fields`` of ``before`` or ``after`` in the Connect schema.
    :param name: name in the history, where it differs from the message's.
    :param as_text: the column is declared text, so nothing is refused.
    """
    own = str(field["field"])
    parameters = field.get("parameters") or {}
    source = parameters.get("__debezium.source.column.type") or field.get("name") or field.get("type")
    length, scale = (
        parameters.get("__debezium.source.column.length"),
        parameters.get("__debezium.source.column.scale"),
    )
    detail = f"({length}{',' + scale if scale else ''})" if length and str(source).upper() == "NUMERIC" else ""
    kind, read = ("string", _declared_text) if as_text else _resolve(field)
    blank = _is_null if field.get("optional", True) else _made_up(field.get("default"))
    return ColumnType(name or own, kind, _guarded(read, name or own), f"{str(source).lower()}{detail}", own, blank)


def _made_up(default: Any) -> Callable[[Any], bool]:
    return lambda value: not value or value == default or _ZERO.fullmatch(str(value)) is not None


_DECIMAL = re.compile(r"decimal\((\d+),\s*(\d+)\)")
_WIDER = {("int", "long"), ("float", "double")}


def normal(kind: str) -> str:
    """One spelling for each Iceberg type."""
    return kind.replace(" ", "")


def widened(old: str, new: str) -> str | None:
    """The type that holds both without loss, or None where Iceberg knows none.

    :param old: type in the history.
    :param new: type of a message.
    """
    old, new = normal(old), normal(new)
    if old == new or (new, old) in _WIDER:
        return old
    if (old, new) in _WIDER:
        return new
    before, after = _DECIMAL.fullmatch(old), _DECIMAL.fullmatch(new)
    if before and after and before[2] == after[2]:
        return f"decimal({max(int(before[1]), int(after[1]))},{before[2]})"
    return None


def same(left: Any, right: Any) -> bool:
    """Whether two values of a column are one value: NaN equals itself, -0.0 differs from 0.0."""
    if left is right:
        return True
    if left.__class__ is list and right.__class__ is list:
        return len(left) == len(right) and all(map(same, left, right))
    if left.__class__ is not float or right.__class__ is not float:
        return bool(left == right)
    return (left == right and math.copysign(1, left) == math.copysign(1, right)) or (left != left and right != right)


def canonical(value: Any) -> Any:
    """A JSON form of a value in which different values, also of different types, differ."""
    if isinstance(value, bool):
        return ["b", value]
    if isinstance(value, int):
        return ["i", str(value)]
    if isinstance(value, float):
        return ["f", "nan" if value != value else repr(value)]
    if isinstance(value, Decimal):
        return ["n", format(value, "f")]
    if isinstance(value, bytes):
        return ["x", value.hex()]
    if isinstance(value, list):
        return ["l", *(None if item is None else canonical(item) for item in value)]
    return value
