"""The four questions that every engine must answer alike, and how answers are made comparable."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any

TITLES = {
    "q1": "Revenue and trips per day",
    "q2": "Top 10 pickup zones by trips and revenue",
    "q3": "Demand by hour and weekday",
    "q4": "Payment types: count, share, rank",
}
_WEEKDAY = {"duckdb": "isodow(pickup_at)", "trino": "day_of_week(pickup_at)", "spark": "weekday(pickup_at) + 1"}
_SQL = {
    "q1": """
SELECT CAST(pickup_at AS DATE) AS pickup_day, count(*) AS trips, sum(total_amount) AS revenue
FROM {trips} GROUP BY CAST(pickup_at AS DATE) ORDER BY pickup_day""",
    "q2": """
SELECT t.pickup_zone_id, coalesce(max(z.zone), 'unknown') AS zone_name, count(*) AS trips,
    sum(t.total_amount) AS revenue
FROM {trips} AS t LEFT JOIN {zones} AS z ON z.zone_id = t.pickup_zone_id
GROUP BY t.pickup_zone_id ORDER BY trips DESC, revenue DESC, t.pickup_zone_id LIMIT 10""",
    "q3": """
SELECT {weekday} AS week_day, hour(pickup_at) AS hour_of_day, count(*) AS trips
FROM {trips} GROUP BY {weekday}, hour(pickup_at) ORDER BY week_day, hour_of_day""",
    "q4": """
SELECT payment_type_id, count(*) AS trips, count(*) * 1.0e0 / sum(count(*)) OVER () AS share,
    rank() OVER (ORDER BY count(*) DESC) AS nth
FROM {trips} GROUP BY payment_type_id ORDER BY nth, payment_type_id""",
}

Answer = list[list[Any]]


def text(name: str, *, dialect: str, trips: str, zones: str) -> str:
    """A question as SQL.

    :param name: ``q1`` to ``q4``.
    :param dialect: ``duckdb``, ``trino`` or ``spark``.
    :param trips: relation with silver's business columns.
    :param zones: relation with zone_id and zone.
    """
    return _SQL[name].format(trips=trips, zones=zones, weekday=_WEEKDAY[dialect]).strip()


def canonical(rows: Iterable[Sequence[Any]]) -> Answer:
    """An answer in which equal values look equal, whichever engine they come from."""
    return [[_value(value) for value in row] for row in rows]


def _value(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.date().isoformat()
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return f"{value:.2f}"
    return round(value, 6) if isinstance(value, float) else value


def from_counts(counts: Mapping[Any, int]) -> Answer:
    """Q4 from a plain count of each payment type: share and rank for engines that have no window.

    :param counts: payment type → trips.
    """
    total = sum(counts.values())
    ordered = sorted(counts.items(), key=lambda one: (-one[1], one[0] is None, one[0]))
    ranks = {trips: 1 + sum(other > trips for other in counts.values()) for trips in counts.values()}
    return canonical([key, trips, trips / total, ranks[trips]] for key, trips in ordered)


def difference(wanted: Answer, got: Answer) -> str | None:
    """The first difference of two answers in words, or None.

    :param wanted: the reference's.
    :param got: the engine's.
    """
    if len(wanted) != len(got):
        return f"{len(got)} rows, the reference has {len(wanted)}"
    for number, (one, other) in enumerate(zip(wanted, got, strict=True), 1):
        if one != other:
            return f"row {number}: {other}, the reference has {one}"
    return None
