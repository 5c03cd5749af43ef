"""Random histories against an independent oracle: whatever the split into batches, the order of arrival, the lateness
and the redeliveries, the history is that of the source."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import random
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_provider_rtlake.scd2.fold import Refused
from tests.oracle import Oracle
from tests.scd2_memory import Memory
from tests.scd2_source import Source, Transaction

KEYS = 4
EXAMPLES = int(os.environ.get("RTLAKE_TEST_EXAMPLES", "300"))
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
    if choice < (0.03 if keys < 20 else 0.002):
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


def random_transactions(
    dice: random.Random, source: Source, oracle: Oracle, clock: int, *, keys: int, transactions: int, lost: bool = False
) -> int:
    """Run random transactions; the clock may step back, and transactions may log before earlier ones commit.

    :param lost: nobody delivers them, and the oracle is not told either.
    :return: the clock afterwards.
    """
    for _ in range(transactions):
        clock += dice.choice([0, 0, 1, 5, 1000, -3])
        early = dice.random() < 0.3
        tx = source.begin(clock, lsn=dice.randint(0, source._lsn) if early else None)
        for _ in range(dice.randint(1, 6)):
            _statement(dice, tx, keys)
        before, after = source.rows, tx.rows
        if not tx.sent:
            continue
        tx.commit()
        if lost:
            source.messages.pop()
        else:
            oracle.committed(_keyed(before), _keyed(after), clock)
    return clock


def _keyed(rows: dict[int, Any]) -> dict[str, Any]:
    return {json.dumps({"id": key}, separators=(",", ":")): row for key, row in rows.items()}


def history(
    seed: int,
    *,
    full: bool,
    untracked: frozenset[str],
    keys: int = KEYS,
    transactions: int = 14,
    lose: bool = False,
    fewest: int = 1,
) -> tuple[Source, Oracle]:
    """A random history, and what its table must be.

    :param transactions: at most.
    :param lose: somewhere in it the slot is lost, and a snapshot of a new one comes.
    :param fewest: transactions.
    """
    dice = random.Random(seed)
    source, oracle = Source(full=full), Oracle(untracked)
    options = {"keys": keys}
    clock = random_transactions(
        dice, source, oracle, 1_000_000, transactions=dice.randint(fewest, transactions), **options
    )
    if lose:
        known = copy.deepcopy(source.rows)
        clock = random_transactions(dice, source, oracle, clock, transactions=3, lost=True, **options)
        clock += 7
        if source.rows:
            source.epoch, source.commit_lsn = 2, 0
            source.snapshot(clock)
            oracle.committed(_keyed(known), _keyed(source.rows), clock)
        else:  # an empty table has no row that would tell of the snapshot
            source.rows = known
        random_transactions(dice, source, oracle, clock, transactions=max(1, transactions // 3), **options)
    return source, oracle


def deliveries(dice: random.Random, source: Source) -> list[list[Any]]:
    """The transactions in any order, some of them twice, cut into batches anywhere between them.

    What came with a new slot is delivered in order with its snapshot first; what was late before it may come after it.
    """
    snapshot = next((index for index, group in enumerate(source.messages) if group[0].op == "r"), None)
    transactions = list(source.messages[:snapshot])
    if dice.random() < 0.7:
        dice.shuffle(transactions)
    for group in _again(dice, transactions):
        transactions.insert(dice.randint(0, len(transactions)), group)
    if snapshot is not None:
        held = [transactions.pop() for _ in range(min(2, len(transactions) - 1))]
        rest = list(source.messages[snapshot + 1 :])
        dice.shuffle(rest)
        transactions += [source.messages[snapshot], *rest, *held, *_again(dice, source.messages)]
    batches: list[list[Any]] = [[]]
    for group in transactions:
        if dice.random() < 0.5:
            batches.append([])
        batches[-1] += group
    for batch in batches:
        dice.shuffle(batch)
    return batches


def _again(dice: random.Random, transactions: list[list[Any]]) -> list[list[Any]]:
    return [
        [raw._replace(topic_offset=raw.topic_offset + 10_000, kafka_ts=raw.kafka_ts + 10_000) for raw in group]
        for group in transactions
        if dice.random() < 0.3
    ]


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(seed=st.integers(0, 2**48), full=st.booleans(), type1=st.booleans(), lose=st.booleans())
def test_property_3_any_split_order_and_redelivery_gives_the_history_of_the_source(
    seed: int, full: bool, type1: bool, lose: bool
) -> None:
    untracked = frozenset({"note"}) if type1 else frozenset()
    source, oracle = history(seed, full=full, untracked=untracked, lose=lose)
    dice = random.Random(seed + 1)
    whole = Memory(untracked)
    whole.merge([raw for group in source.messages for raw in group])
    assert whole.facts() == oracle.facts()
    parts = Memory(untracked)
    for batch in deliveries(dice, source):
        parts.merge(batch)
    assert parts.facts() == oracle.facts()
    assert parts.everything() == whole.everything()


def torn_deliveries(dice: random.Random, source: Source) -> list[list[Any]]:
    """Every change in any order, transactions torn apart, some of them twice: as where no END tells of transactions."""
    raws = [raw for group in [*source.messages, *_again(dice, source.messages)] for raw in group]
    dice.shuffle(raws)
    batches: list[list[Any]] = [[]]
    for raw in raws:
        if dice.random() < 0.3:
            batches.append([])
        batches[-1].append(raw)
    return batches


@settings(max_examples=EXAMPLES // 2, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(seed=st.integers(0, 2**48), full=st.booleans(), type1=st.booleans())
def test_property_3_torn_transactions_that_come_in_parts_end_as_one(seed: int, full: bool, type1: bool) -> None:
    untracked = frozenset({"note"}) if type1 else frozenset()
    source, oracle = history(seed, full=full, untracked=untracked, transactions=8)
    parts, whole = Memory(untracked), Memory(untracked)
    waiting: list[Any] = []
    for batch in torn_deliveries(random.Random(seed + 1), source):
        waiting += batch
        with contextlib.suppress(Refused):  # half of a transaction may hold two rows of a key: tried again with more
            parts.merge(waiting)
            waiting = []
    assert not waiting
    whole.merge([raw for group in source.messages for raw in group])
    assert parts.facts() == oracle.facts()
    assert parts.everything() == whole.everything()
