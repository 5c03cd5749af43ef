"""Messages of erased keys that came into bronze again: what a backfill must leave out, found by a query for Trino."""

# ruff: noqa: S608 (every name and text in a statement is quoted)

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from airflow_provider_rtlake.checks.names import TableName, literal
from airflow_provider_rtlake.exceptions import UserError
from airflow_provider_rtlake.scd2.change import EPOCH_HEADER, RawChange
from airflow_provider_rtlake.scd2.suppress import SUPPRESSED, SUPPRESSION_KEY, Suppression

_MOST = 10_000  # messages that a job leaves out by name
Ask = Callable[[str], list[Any]]


def returned(ask: Ask, catalog: str, bronze: str, base: str | None) -> dict[int, list[int]]:
    """Partition → offsets of messages of erased keys in bronze, up to the position at which each was erased.

    :param ask: runs a query of Trino's.
    :param catalog: the lakehouse's in Trino.
    :param bronze: ``namespace.table``.
    :param base: what the companions of the history are named after; None where there is none.
    :raises UserError: there are too many to leave them out one by one.
    """
    listed = _suppression(ask, catalog, base)
    if not listed.upto:
        return {}
    hashes = ", ".join(literal(text) for text in sorted(listed.upto))
    # Trino's JSON has its members in order and no spaces, as the keys of the list are spelled.
    hashed = f"hmac_sha256(to_utf8(json_format(json_parse(message_key))), from_hex({literal(listed.secret)}))"
    rows = ask(
        f"SELECT topic_partition, topic_offset, message_key, element_at(headers, {literal(EPOCH_HEADER)}), payload "
        f"FROM {_named(catalog, bronze).sql} "
        f"WHERE message_key IS NOT NULL AND lower(to_hex({hashed})) IN ({hashes}) ORDER BY 1, 2 LIMIT {_MOST + 1}"
    )
    if len(rows) > _MOST:
        raise UserError(
            f"{bronze} holds more than {_MOST} messages of erased keys again: erase the keys once more "
            "(rtlake scd2 erase), then fill again"
        )
    found: dict[int, list[int]] = {}
    for partition, offset, key, epoch, payload in rows:
        headers = {} if epoch is None else {EPOCH_HEADER: str(epoch)}
        if listed.drops(RawChange("", int(partition), int(offset), 0, key, headers, "", "", payload)):
            found.setdefault(int(partition), []).append(int(offset))
    return found


def _named(catalog: str, table: str, suffix: str = "") -> TableName:
    schema, name = table.split(".", 1)
    return TableName(catalog, schema, name + suffix)


def _suppression(ask: Ask, catalog: str, base: str | None) -> Suppression:
    """The list of a table's history, empty where there is none."""
    if base is None:
        return Suppression("")
    checkpoint = _named(catalog, f"{base}_checkpoint")
    tables = (
        f"SELECT 1 FROM {catalog}.information_schema.tables WHERE table_schema = {literal(checkpoint.schema.lower())}"
    )
    if not ask(f"{tables} AND table_name = {literal(checkpoint.table.lower())}"):
        return Suppression("")
    wanted = ", ".join(map(literal, (SUPPRESSED, SUPPRESSION_KEY)))
    properties = _named(catalog, f"{base}_checkpoint", "$properties")
    return Suppression.of(dict(ask(f"SELECT key, value FROM {properties.sql} WHERE key IN ({wanted})")))
