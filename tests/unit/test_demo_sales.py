"""The generator of sales: repeatable, exact in its count, and with every kind of change."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_rtlake.demo.sales import COLUMNS, Generator, Mix, Transaction, run
from airflow_provider_rtlake.exceptions import UserError


def replay(rows: dict[int, tuple[object, ...]], transactions: list[Transaction]) -> dict[int, tuple[object, ...]]:
    """What a database would hold afterwards; fails where a database would refuse or change nothing."""
    state = dict(rows)
    for transaction in transactions:
        work = dict(state)
        for change in transaction.changes:
            assert (change.op == "c") == (change.id not in work)
            if change.row is None:
                del work[change.id]
            else:
                assert change.row[0] == change.id and len(change.row) == len(COLUMNS)
                work[change.id] = change.row
        if not transaction.rollback:
            state = work
    return state


@given(seed=st.integers(0, 2**32), count=st.integers(0, 400), before=st.integers(0, 20))
@settings(max_examples=60, deadline=None)
def test_changes_are_valid_and_counted(seed: int, count: int, before: int) -> None:
    generator = Generator(seed=seed, mix=Mix(rollback=0.2, multi=0.5, again=0.6))
    start = {row[0]: row for row in generator.fresh_rows(before)}
    transactions = list(generator.transactions(count))
    assert replay(start, transactions) == generator.rows
    assert sum(len(t.changes) for t in transactions if not t.rollback) == count


def test_same_seed_same_changes_another_seed_others() -> None:
    first, again, other = (list(Generator(seed=seed).transactions(200)) for seed in (7, 7, 8))
    assert first == again != other


def test_every_kind_of_change_occurs() -> None:
    transactions = list(Generator(seed=3).transactions(20_000))
    seen: Counter[str] = Counter()
    deleted: set[int] = set()
    for transaction in transactions:
        keys = Counter(change.id for change in transaction.changes)
        seen["rollback"] += transaction.rollback
        seen["multi"] += len(transaction.changes) > 1
        seen["same row twice"] += max(keys.values()) > 1
        ops = {(change.id, change.op) for change in transaction.changes}
        seen["deleted and back at once"] += any((key, "d") in ops and (key, "c") in ops for key in keys)
        for change in () if transaction.rollback else transaction.changes:
            seen[change.op] += 1
            seen["back later"] += change.op == "c" and change.id in deleted
            seen["null"] += change.row is not None and change.row[2] is None
            seen["empty"] += change.row is not None and change.row[2] == ""
            deleted.add(change.id) if change.op == "d" else deleted.discard(change.id)
    kinds = ("rollback", "multi", "same row twice", "deleted and back at once", "c", "u", "d", "back later")
    assert {kind: seen[kind] > 20 for kind in (*kinds, "null", "empty")} == dict.fromkeys(
        (*kinds, "null", "empty"), True
    )


def test_prices_fit_their_column() -> None:
    generator = Generator(seed=5, mix=Mix(update=10))
    list(generator.transactions(30_000))
    assert all(Decimal(0) < row[3] < 10**8 and row[3].as_tuple().exponent == -2 for row in generator.rows.values())


def test_continues_on_given_rows() -> None:
    first = Generator(seed=1)
    rows = list(first.fresh_rows(50))
    second = Generator(rows, seed=2)
    changes = list(second.transactions(500))
    assert replay({row[0]: row for row in rows}, changes) == second.rows
    assert min(c.id for t in changes for c in t.changes if c.op == "c" and c.id > 50) == 51


@pytest.mark.parametrize("text", ["", "1:2", "a:b:c", "0:1:1", "1:-1:0", "1:2:3:4"])
def test_bad_mix_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="--mix"):
        Mix.parse(text)


def test_mix_is_read() -> None:
    assert (Mix.parse("1:2:3").insert, Mix.parse("1:2:3").update, Mix.parse("1:2:3").delete) == (1, 2, 3)


@pytest.mark.parametrize(
    ("arguments", "message"), [({}, "--changes or --duration"), ({"changes": 1, "rate": 0}, "--rate")]
)
def test_run_says_what_is_missing(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(None, **arguments)  # type: ignore[arg-type]
