"""A plot of one measurement: every run of every side, and the warm merges over their batches."""

from __future__ import annotations

from pathlib import Path

from airflow_provider_rtlake.bench.scd2.drive import Found


def write_plot(found: Found, path: Path) -> None:
    """Write a page that needs no network.

    :param path: of the HTML file.
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    wish = found.wish
    titles = ("seconds of a batch, each run a point", "warm merges one after another")
    figure = make_subplots(rows=1, cols=2, subplot_titles=titles)
    for name, timed in found.sides.items():
        if timed.seconds:
            figure.add_trace(go.Box(y=timed.seconds, name=name, boxpoints="all", showlegend=False), row=1, col=1)
    numbers = list(range(1, len(found.flat) + 1))
    figure.add_trace(
        go.Scatter(x=numbers, y=found.flat, mode="lines+markers", name=f"{wish.keys:,} keys"), row=1, col=2
    )
    if found.slope:
        larger = list(range(1, len(found.slope) + 1))
        name = f"{wish.slope_keys:,} keys"
        figure.add_trace(go.Scatter(x=larger, y=found.slope, mode="lines+markers", name=name), row=1, col=2)
    figure.update_yaxes(title_text="seconds", rangemode="tozero")
    figure.update_layout(title=f"SCD2 merge: {wish.changes:,} changes on {wish.keys:,} keys", template="plotly_white")
    figure.write_html(str(path), include_plotlyjs=True, full_html=True)
