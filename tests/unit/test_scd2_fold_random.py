"""Random histories against an independent oracle: whatever the split into batches, the order of arrival, the lateness
and the redeliveries, the history is that of the source."""

from __future__ import annotations

import json
import random
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.oracle import Oracle
from tests.scd2_memory import Memory
from tests.scd2_source import Source, Transaction

KEYS = 4
TEXTS = ["x", "y", "", None]


def _statement(dice: random.Random, tx: Transaction, keys: int) -> None:
    here, free = sorted(tx.rows), [key for key in range(keys) if key not in tx.rows]
    choice = dice.random()
    values = {
        "a": dice.choice(TEXTS),
        "b": dice.choice([1, 2, None]),
        "note": dice.choice(TEXTS),
        "c": dice.choice([0, 3]),
    }
    if dice.random() < 0.4:
        values["big"] = dice.choice(["L" * 9, "M" * 9, None])
    if choice < 0.03:
        tx.truncate()
    elif choice < 0.35 and free:
        tx.insert(dice.choice(free), **values)
    elif choice < 0.65 and here:
        tx.update(dice.choice(here), **dict(dice.sample(sorted(values.items(), key=str), 2)))
    elif choice < 0.80 and here:
        tx.delete(dice.choice(here))
    elif choice < 0.90 and here and free:
        tx.change_key(dice.choice(here), dice.choice(free), **dict([dice.choice(sorted(values.items(), key=str))]))
    elif len(here) > 1 and tx.source.full:
        tx.swap(*dice.sample(here, 2))


def history(
    seed: int, *, full: bool, untracked: frozenset[str], keys: int = KEYS, transactions: int = 14
) -> tuple[Source, Oracle]:
    """Run random transactions; the clock may step back, and transactions may log before earlier ones commit."""
    dice = random.Random(seed)
    source, oracle = Source(full=full), Oracle(untracked)
    clock = 1_000_000
    for _ in range(dice.randint(1, transactions)):
        clock += dice.choice([0, 0, 1, 5, 1000, -3])
        early = dice.random() < 0.3
        tx = source.begin(clock, lsn=dice.randint(0, source._lsn) if early else None)
        for _ in range(dice.randint(1, 6)):
            _statement(dice, tx, keys)
        before, after = source.rows, tx.rows
        if tx.sent:
            tx.commit()
            oracle.committed(
                {json.dumps({"id": key}, separators=(",", ":")): row for key, row in before.items()},
                {json.dumps({"id": key}, separators=(",", ":")): row for key, row in after.items()},
                clock,
            )
    return source, oracle


def deliveries(dice: random.Random, source: Source) -> list[list[Any]]:
    """The transactions in any order, some of them twice, cut into batches anywhere between them."""
    transactions = list(source.messages)
    if dice.random() < 0.7:
        dice.shuffle(transactions)
    again = [
        [raw._replace(topic_offset=raw.topic_offset + 10_000, kafka_ts=raw.kafka_ts + 10_000) for raw in group]
        for group in transactions
        if dice.random() < 0.3
    ]
    for group in again:
        transactions.insert(dice.randint(0, len(transactions)), group)
    batches: list[list[Any]] = [[]]
    for group in transactions:
        if dice.random() < 0.5:
            batches.append([])
        batches[-1] += group
    for batch in batches:
        dice.shuffle(batch)
    return batches


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(seed=st.integers(0, 2**48), full=st.booleans(), type1=st.booleans())
def test_property_3_any_split_order_and_redelivery_gives_the_history_of_the_source(
    seed: int, full: bool, type1: bool
) -> None:
    untracked = frozenset({"note"}) if type1 else frozenset()
    source, oracle = history(seed, full=full, untracked=untracked)
    dice = random.Random(seed + 1)
    whole = Memory(untracked)
    whole.merge([raw for group in source.messages for raw in group])
    assert whole.facts() == oracle.facts()
    parts = Memory(untracked)
    for batch in deliveries(dice, source):
        parts.merge(batch)
    assert parts.facts() == oracle.facts()
    assert parts.everything() == whole.everything()
