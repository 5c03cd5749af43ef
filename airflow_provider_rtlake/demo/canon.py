"""One spelling for a value, whichever system it is read from, so that rows can be compared between systems.

A value arrives as PostgreSQL's text, as Debezium spells it in JSON, or as a driver's Python object; it leaves
as text, or as None for NULL. Equal values give equal text and different values different text. One exception,
a rule of the history: an infinite date or time is the last (or first) that every engine can show.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import struct
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal, InvalidOperation
from typing import Any

from airflow_provider_rtlake.pinot_config.realtime import INFINITE_MS, Kind
from airflow_provider_rtlake.scd2.values import (
    DAY_US,
    MAX_DATE,
    MAX_TIMESTAMP,
    MIN_DATE,
    MIN_TIMESTAMP,
    days_from_civil,
)
from airflow_provider_rtlake.streams.schema import Column

_EPOCH = datetime(1970, 1, 1)
# Debezium's and PostgreSQL's spellings of the infinities.
_INFINITE = {
    "infinity": MAX_TIMESTAMP,
    "-infinity": MIN_TIMESTAMP,
    "9223372036854775807": MAX_TIMESTAMP,
    "-9223372036854775808": MIN_TIMESTAMP,
}
_INFINITE_DAYS = {2146033979: MAX_DATE, -2147472691: MIN_DATE}
_INFINITE_TEXT = {"infinity": INFINITE_MS, "-infinity": -INFINITE_MS}
_STAMP = re.compile(
    r"(?P<y>-?\d+)-(?P<m>\d\d)-(?P<d>\d\d)"
    r"(?:[T ](?P<H>\d\d):(?P<M>\d\d)(?::(?P<S>\d\d)(?:\.(?P<f>\d+))?)?)?"
    r"\s*(?P<z>Z|UTC|[+-]\d\d(?::?\d\d)?)?(?P<bc> BC)?"
)
_CLOCK = re.compile(r"(\d+):(\d\d)(?::(\d\d)(?:\.(\d+))?)?\s*(Z|UTC|[+-]\d\d(?::?\d\d)?)?")
_ISO_INTERVAL = re.compile(r"P(?:(-?\d+)Y)?(?:(-?\d+)M)?(?:(-?\d+)D)?(?:T(?:(-?\d+)H)?(?:(-?\d+)M)?(?:(-?[\d.]+)S)?)?")
# How Debezium and PostgreSQL spell what is no number.
_SPECIAL = {
    "nan": "NaN",
    "infinity": "Infinity",
    "positive_infinity": "Infinity",
    "inf": "Infinity",
    "-infinity": "-Infinity",
    "negative_infinity": "-Infinity",
    "-inf": "-Infinity",
}


def canonical(column: Column, value: Any) -> str | None:
    """Spell a value.

    :param column: the source column that it belongs to: its type decides.
    :param value: PostgreSQL's text (ISO dates, UTC), Debezium's JSON value, or a driver's Python object.
    :raises ValueError: the value is none of that type.
    """
    if value is None:
        return None
    if column.dimensions or column.type.endswith("[]"):
        return _array(column, value)
    return _scalar(column.type, value)


def _scalar(kind: str, value: Any) -> str:
    return _SPELL.get(kind, _text)(value)


def _array(column: Column, value: Any) -> str:
    items = json.loads(value, parse_float=Decimal) if isinstance(value, str) else value
    return json.dumps(_items(column.type.removesuffix("[]"), items), ensure_ascii=False)


def _items(kind: str, items: Any) -> Any:
    if items is None:
        return None
    if isinstance(items, (list, tuple)):
        return [_items(kind, item) for item in items]
    return _scalar(kind, items)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _integer(value: Any) -> str:
    return str(int(value))


def _decimal(value: Any) -> str:
    text = str(value).replace("$", "").replace(",", "")
    special = _SPECIAL.get(text.lower())
    if special:
        return special
    try:
        number = Decimal(text)
    except InvalidOperation as error:
        raise ValueError(f"not a number: {value!r}") from error
    plain = format(number, "f")
    plain = plain.rstrip("0").rstrip(".") if "." in plain else plain
    return "0" if plain in ("-0", "") else plain


def _double(value: Any) -> str:
    special = _SPECIAL.get(str(value).lower())
    return special or repr(float(value))


def _one_zero(text: str) -> str:
    """A number for Pinot, which knows no negative zero; equal to the other one for SQL too."""
    return "0.0" if text == "-0.0" else text


def _real(value: Any) -> str:
    special = _SPECIAL.get(str(value).lower())
    return special or repr(struct.unpack("f", struct.pack("f", float(value)))[0])


def _boolean(value: Any) -> str:
    text = str(value).lower()
    if text in ("true", "t", "1"):
        return "true"
    if text in ("false", "f", "0"):
        return "false"
    raise ValueError(f"not a boolean: {value!r}")


def _zone(text: str | None) -> int:
    """Offset from UTC in microseconds."""
    if text in (None, "", "Z", "UTC"):
        return 0
    digits = str(text)[1:].replace(":", "")
    minutes = int(digits[:2]) * 60 + int(digits[2:] or 0)
    return (-1 if str(text)[0] == "-" else 1) * minutes * 60_000_000


def microseconds(value: Any) -> str:
    """A date or timestamp as microseconds since 1970 UTC.

    :param value: ISO text, a number of microseconds, a date or a datetime.
    :raises ValueError: none of these.
    """
    if isinstance(value, datetime):
        naive = value.astimezone(timezone.utc).replace(tzinfo=None) if value.tzinfo else value
        return str((naive - _EPOCH) // timedelta(microseconds=1))
    if isinstance(value, date):
        return str((value - _EPOCH.date()).days * DAY_US)
    text = str(value)
    if text in _INFINITE:
        return str(_INFINITE[text])
    return text if re.fullmatch(r"-?\d+", text) else str(_parse_stamp(text))


def _parse_stamp(text: str) -> int:
    found = _STAMP.fullmatch(text)
    if not found:
        raise ValueError(f"not a date or timestamp: {text!r}")
    part = found.groupdict()
    year = 1 - int(part["y"]) if part["bc"] else int(part["y"])
    clock = (int(part["H"] or 0) * 60 + int(part["M"] or 0)) * 60 + int(part["S"] or 0)
    fraction = int((part["f"] or "").ljust(6, "0")[:6] or 0)
    return (
        days_from_civil(year, int(part["m"]), int(part["d"])) * DAY_US + clock * 1_000_000 + fraction - _zone(part["z"])
    )


def _date(value: Any) -> str:
    if isinstance(value, int) or re.fullmatch(r"-?\d+", str(value)):
        return str(_INFINITE_DAYS.get(int(value), int(value)))
    return str(int(microseconds(value)) // DAY_US)


def _time(value: Any) -> str:
    if isinstance(value, timedelta):
        return str(value // timedelta(microseconds=1))
    if isinstance(value, time):
        value = value.isoformat()
    text = str(value)
    if re.fullmatch(r"\d+", text):
        return text
    found = _CLOCK.fullmatch(text)
    if not found:
        raise ValueError(f"not a time: {value!r}")
    hours, minutes, seconds, fraction, zone = found.groups()
    clock = (int(hours) * 60 + int(minutes)) * 60 + int(seconds or 0)
    return str(clock * 1_000_000 + int((fraction or "").ljust(6, "0")[:6] or 0) - _zone(zone))


def _timetz(value: Any) -> str:
    return str(int(_time(value)) % DAY_US)


def _interval(value: Any) -> str:
    """Months, days and microseconds of an ISO 8601 interval."""
    found = _ISO_INTERVAL.fullmatch(str(value))
    if not found:
        raise ValueError(f"not an ISO 8601 interval: {value!r}")
    years, months, days, hours, minutes, seconds = (Decimal(part or 0) for part in found.groups())
    micros = ((hours * 60 + minutes) * 60 + seconds) * 1_000_000
    return f"{int(years * 12 + months)}/{int(days)}/{int(micros)}"


def _bytes(value: Any) -> str:
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value).hex()
    text = str(value)
    if text.startswith("\\x"):
        return text[2:]
    try:
        return base64.b64decode(text, validate=True).hex()
    except binascii.Error as error:
        raise ValueError(f"neither hexadecimal nor base64: {text[:40]!r}") from error


def _bits(value: Any) -> str:
    """The bits as a number: Debezium sends them as bytes, lowest first, and a single one as a boolean."""
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, (bytes, bytearray)):
        return str(int.from_bytes(value, "little"))
    return str(int(str(value) or "0", 2))


def _in_milliseconds(column: Column) -> bool:
    """Whether Debezium sends milliseconds: it takes the coarser of two units that holds the column's digits."""
    coarse = column.precision is not None and column.precision <= 3
    return coarse and column.type in ("time without time zone", "timestamp without time zone")


def _sent_bits(text: str) -> str:
    """Bits as Debezium's JSON has them: a boolean, or base64."""
    if text in ("true", "false"):
        return str(int(text == "true"))
    return _bits(base64.b64decode(text, validate=True))


def _point(value: Any) -> str:
    """Of ``(x,y)``, or of Debezium's structure."""
    text = str(value)
    if text.startswith("("):
        x, y = text.strip("()").split(",")
    else:
        tree = json.loads(text)
        x, y = tree["x"], tree["y"]
    return f"({_double(x)},{_double(y)})"


def _json(value: Any) -> str:
    tree = json.loads(value, parse_float=Decimal, parse_int=Decimal) if isinstance(value, (str, bytes)) else value
    return json.dumps(tree, sort_keys=True, ensure_ascii=False, default=lambda number: {"#": _decimal(number)})


_SPELL: Mapping[str, Callable[[Any], str]] = {
    "smallint": _integer,
    "integer": _integer,
    "bigint": _integer,
    "oid": _integer,
    "numeric": _decimal,
    "money": _decimal,
    "real": _real,
    "double precision": _double,
    "boolean": _boolean,
    "date": _date,
    "timestamp without time zone": microseconds,
    "timestamp with time zone": microseconds,
    "time without time zone": _time,
    "time with time zone": _timetz,
    "interval": _interval,
    "bytea": _bytes,
    "bit": _bits,
    "bit varying": _bits,
    "json": _json,
    "jsonb": _json,
    "point": _point,
}


def realtime(kind: Kind, column: Column, value: Any) -> str | None:
    """Spell a source value with the fidelity of the real-time lane: doubles and milliseconds.

    :param kind: how the column travels there.
    :param column: the source column.
    :param value: PostgreSQL's text.
    """
    if kind == "millis" and value in _INFINITE_TEXT:
        return str(_INFINITE_TEXT[value])
    text = canonical(column, value)
    if text is None or kind not in ("double", "millis"):
        return text
    if kind == "double":
        return _one_zero((_real if column.type == "real" else _double)(text))
    return str(int(text) * 86_400_000 if column.type == "date" else int(text) // 1000)


def served(kind: Kind, column: Column, value: Any) -> str | None:
    """Spell what Pinot answered for a column, so that it compares with :func:`realtime`.

    :param kind: how the column travels there.
    :param column: the source column.
    :param value: Pinot's answer.
    """
    if value is None:
        return None
    spell: dict[str, Callable[[Any], str]] = {
        "int": _integer,
        "long": _integer,
        "millis": _integer,
        # 1.1 as a real is another double than 1.1
        "double": lambda number: _one_zero((_real if column.type == "real" else _double)(number)),
        "boolean": _boolean,
    }
    if kind == "text" and not column.dimensions:
        if column.type in ("bit", "bit varying"):
            return _sent_bits(str(value))
        if _in_milliseconds(column) and re.fullmatch(r"-?\d+", str(value)):
            return str(int(value) * 1000)
    return spell[kind](value) if kind in spell else canonical(column, value)
