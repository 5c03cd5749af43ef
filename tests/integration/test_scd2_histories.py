"""Random histories against the independent oracle, hundreds of them as keys of one table, in a few merges.

``RTLAKE_TEST_HISTORIES=10000`` runs so many, ``RTLAKE_TEST_SEED`` other ones. A failure names
the seed of its table, which alone repeats it with ``RTLAKE_TEST_HISTORIES=1``.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable

import pytest

from tests.scd2_lake import LakeTable
from tests.unit.test_scd2_fold_random import deliveries, history

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(7200)]
HISTORIES = int(os.environ.get("RTLAKE_TEST_HISTORIES", "400"))
SEED = int(os.environ.get("RTLAKE_TEST_SEED", "20261121"))
KEYS, TRANSACTIONS, MERGES = 250, 300, 4  # of one table


def test_property_03_random_histories_are_those_of_the_source(lake_table: Callable[..., LakeTable]) -> None:
    told, number = 0, 0
    while told < HISTORIES:
        told += one_table(lake_table, SEED + number)
        number += 1
    print(f"{told} histories in {number} tables, seeds {SEED} to {SEED + number - 1}")


def one_table(lake_table: Callable[..., LakeTable], seed: int) -> int:
    """The histories of one table, in any order, repeated, split; how many they are."""
    dice = random.Random(seed)
    full, lose = dice.random() < 0.5, dice.random() < 0.7
    untracked = dice.choice([frozenset[str](), frozenset({"note"})])
    source, oracle = history(
        seed, full=full, untracked=untracked, keys=KEYS, transactions=TRANSACTIONS, lose=lose, fewest=TRANSACTIONS // 2
    )
    table = lake_table(untracked=tuple(untracked), buckets=dice.choice([1, 2]))
    batches = deliveries(dice, source)
    part = -(-len(batches) // MERGES)
    for start in range(0, len(batches), part):
        table.arrive([raw for batch in batches[start : start + part] for raw in batch])
        table.merge()
    wrong = compare(table, oracle.facts())
    assert not wrong, f"RTLAKE_TEST_SEED={seed} RTLAKE_TEST_HISTORIES=1: {len(wrong)} keys differ: {wrong[:3]}"
    assert table.branches() == []
    table.drop()
    return len(oracle.facts())


def compare(table: LakeTable, expected: dict[str, object]) -> list[tuple[str, object, object]]:
    """Keys whose versions differ, with both."""
    found = table.facts()
    keys = sorted(found.keys() | expected.keys())
    return [(key, found.get(key), expected.get(key)) for key in keys if found.get(key) != expected.get(key)]
