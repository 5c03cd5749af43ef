"""Names that one system accepts, made from names of another: stable, and different for different tables."""

from __future__ import annotations

import hashlib
import re

_SAFE = re.compile(r"[a-z][a-z0-9_]*")
_PLAIN = re.compile(r"[^\W\d][\w$]*")
_QUALIFIED_PART = re.compile(r'"(?P<quoted>(?:[^"]|"")+)"|(?P<plain>[^\W\d][\w$]*)')
IDENTIFIER_BYTES = 63  # PostgreSQL's NAMEDATALEN - 1
SLUG_LENGTH = 100  # Kafka topics end at 249 characters, Pinot appends suffixes, Nessie keys hold the namespace


def slug(name: str, *, length: int = SLUG_LENGTH) -> str:
    """Turn any name into a lower-case identifier: letters, digits and underscores.

    A name that has to be altered gets a hash of itself, so two different names never become the same one.

    :param name: any text.
    :param length: of the result, at most, in characters.
    """
    if _SAFE.fullmatch(name) and len(name) <= length:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    base = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_") or "t"
    if not base[0].isalpha():
        base = f"t_{base}"
    return f"{base[: length - 9].rstrip('_')}_{digest}"


def topic_part(name: str) -> str:
    """Spell a schema's or table's name as Debezium does in a topic name.

    Source: Debezium's ``AbstractTopicNamingStrategy``: characters outside ``[a-zA-Z0-9._-]``
    become underscores; Java counts a character beyond the 16-bit plane as two.
    """
    return re.sub(r"[^A-Za-z0-9._\-]", lambda match: "_" * (2 if ord(match[0]) > 0xFFFF else 1), name)


def split_qualified(name: str) -> tuple[str, str]:
    """Split ``schema.table`` into its two names, each plain or in double quotes (a quote in it is doubled).

    Names are taken as they are spelled, upper case included, quoted or not. Quotes are needed only around a
    name that has other characters than letters, digits, ``_`` and ``$``, or begins with a digit.

    :param name: as declared.
    :raises ValueError: it is no such name; the message says why, and what to write, with a semicolon between.
    """
    parts, rest = [], name
    while rest:
        match = _QUALIFIED_PART.match(rest)
        if match is None:
            break
        quoted, plain = match["quoted"], match["plain"]
        parts.append(plain if quoted is None else quoted.replace('""', '"'))
        rest = rest[match.end() :]
        if not rest.startswith("."):
            break
        rest = rest[1:] or "."
    if rest or len(parts) != 2:
        raise ValueError(_why_not_qualified(name))
    for part in parts:
        if len(part.encode()) > IDENTIFIER_BYTES:
            raise ValueError(
                f"{part[:20]}… is longer than {IDENTIFIER_BYTES} bytes, which no name in PostgreSQL is;"
                " write the name as the database knows it"
            )
        if not part or "\x00" in part:
            raise ValueError("has an empty name; write schema.table")
    return parts[0], parts[1]


def _why_not_qualified(name: str) -> str:
    if name.count('"') % 2:
        return """has an unclosed double quote; write 'schema."table"', a quote inside a name as two"""
    if '"' in name:
        return """is not schema.table, each name plain or in double quotes; write for example 'public."My.Table"'"""
    dots = name.count(".")
    if dots == 0:
        return f"has no schema; write public.{name} if the table is in the schema public"
    if dots > 1:
        schema, table = name.split(".", 1)
        return f"""has more than one dot; a name with a dot needs quotes: '{schema}."{table}"'"""
    schema, table = name.split(".")
    if not schema or not table:
        return "lacks schema or table; write schema.table"
    quoted = ".".join(part if _PLAIN.fullmatch(part) else f'"{part}"' for part in (schema, table))
    return f"has characters that need quotes; write '{quoted}'"


def quote_identifier(name: str) -> str:
    """Spell a name for SQL.

    :param name: as the database knows it.
    """
    return '"' + name.replace('"', '""') + '"'
