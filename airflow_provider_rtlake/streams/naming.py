"""Names that one system accepts, made from names of another: stable, and never the same for two different tables."""

from __future__ import annotations

import hashlib
import re

_SAFE = re.compile(r"[a-z][a-z0-9_]*")
SLUG_LENGTH = 100  # Kafka topics end at 249 characters, Pinot appends suffixes and Nessie keys grow with the namespace


def slug(name: str) -> str:
    """Turn any name into a lower-case identifier: letters, digits and underscores, at most 100 characters.

    A name that has to be altered gets a hash of itself, so two different names never become the same one.

    :param name: any text.
    """
    if _SAFE.fullmatch(name) and len(name) <= SLUG_LENGTH:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    base = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_") or "t"
    if not base[0].isalpha():
        base = f"t_{base}"
    return f"{base[: SLUG_LENGTH - 9].rstrip('_')}_{digest}"


def topic_part(name: str) -> str:
    """Spell a schema's or table's name as Debezium does in a topic name.

    Source: Debezium ``SanitizedTopicNamingStrategy``: characters outside ``[a-zA-Z0-9._-]`` become underscores.
    """
    return re.sub(r"[^A-Za-z0-9._\-]", "_", name)
