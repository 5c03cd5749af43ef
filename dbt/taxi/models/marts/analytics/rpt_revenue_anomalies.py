"""Days whose revenue is far from what the days around them let expect: a robust score of median and deviation."""

from statistics import median

WINDOW = 7  # days to each side
LIMIT = 3.5  # robust standard deviations
SCALE = 1.4826  # of the median deviation, so that it estimates a standard deviation


def score(values, position):
    """Robust score of one value among its neighbours; None where they do not vary."""
    around = values[max(0, position - WINDOW) : position + WINDOW + 1]
    middle = median(around)
    deviation = SCALE * median(abs(value - middle) for value in around)
    return (values[position] - middle) / deviation if deviation else None


def model(dbt, session):
    dbt.config(materialized="table")
    days = dbt.ref("rpt_daily_revenue").select("day_date", "revenue_amount")
    found = days.collect() if hasattr(days, "collect") else days.fetchall()
    found = sorted((row[0], float(row[1])) for row in found)
    revenue = [amount for _, amount in found]
    rows = []
    for position, (day, amount) in enumerate(found):
        value = score(revenue, position)
        rows.append((day, amount, value, value is not None and abs(value) > LIMIT))
    if hasattr(session, "createDataFrame"):
        return session.createDataFrame(
            rows, "day_date date, revenue_amount double, anomaly_score double, is_anomaly boolean"
        )
    import pyarrow as pa

    columns = [list(column) for column in zip(*rows)] or [[], [], [], []]
    types = [pa.date32(), pa.float64(), pa.float64(), pa.bool_()]
    names = ["day_date", "revenue_amount", "anomaly_score", "is_anomaly"]
    return pa.table([pa.array(c, t) for c, t in zip(columns, types)], names=names)
