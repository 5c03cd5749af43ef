"""What P01 asks of Flink before it begins."""

from __future__ import annotations

import pytest

from airflow_provider_rtlake.bench import taxi_flink
from airflow_provider_rtlake.exceptions import UserError

MB = 2**20


def test_a_heap_that_cannot_hold_the_keys_is_refused_with_the_remedy() -> None:
    with pytest.raises(UserError, match=r"3000000 events need 1716 MB .* has 640: .*heap_mb=2048 "):
        taxi_flink.refuse_little_heap(3_000_000, 640 * MB)


@pytest.mark.parametrize(("events", "heap"), [(240_000, 640), (3_000_000, 1_920)])
def test_a_heap_that_was_seen_to_hold_them_is_enough(events: int, heap: int) -> None:
    taxi_flink.refuse_little_heap(events, heap * MB)
