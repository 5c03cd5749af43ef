"""The report: one HTML page with interactive plots, and Markdown. Every figure comes from a record and links to it."""

from __future__ import annotations

import html
import json
import os
import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airflow_provider_rtlake.bench.catalog import CROSS_CUTS, PIPELINES, TIERS, Pipeline
from airflow_provider_rtlake.bench.queries import TITLES
from airflow_provider_rtlake.bench.record import Record


@dataclass(frozen=True)
class Spread:
    """A figure over several runs."""

    median: float
    low: float
    high: float
    runs: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread | None:
        """None where there is no value."""
        found = sorted(values)
        return cls(statistics.median(found), found[0], found[-1], len(found)) if found else None

    def text(self, digits: int = 1) -> str:
        """Median and, where there is more than one run, the range."""
        middle = f"{self.median:,.{digits}f}"
        return middle if self.runs == 1 else f"{middle} ({self.low:,.{digits}f}-{self.high:,.{digits}f})"


@dataclass(frozen=True)
class Row:
    """Runs of one pipeline under the same conditions."""

    pipeline: Pipeline
    mode: str
    start: str
    kind: str
    events: int
    records: tuple[tuple[Path, Record], ...]
    machine: str = ""  # named only where the records come from several: their runs are never one spread

    @property
    def good(self) -> list[Record]:
        """The runs that succeeded: only these have figures."""
        return [record for _, record in self.records if record.status == "success"]

    @property
    def label(self) -> str:
        """Its name in tables and plots."""
        extra = [self.mode] if len(self.pipeline.modes) > 1 else []
        extra += ["cold"] if self.start == "cold" else []
        extra += [self.machine] if self.machine else []
        return f"{self.pipeline.id} {self.pipeline.title}" + (f" ({', '.join(extra)})" if extra else "")

    def spread(self, figure: Callable[[Record], float | None]) -> Spread | None:
        """A figure over the runs that have it."""
        return Spread.of(value for record in self.good if (value := figure(record)) is not None)


def _measure(name: str) -> Callable[[Record], float | None]:
    def figure(record: Record) -> float | None:
        value = record.measures.get(name)
        return float(value) if isinstance(value, (int, float)) else None

    return figure


FIGURES: dict[str, tuple[str, Callable[[Record], float | None], int]] = {
    "end_to_end": ("end to end, s", lambda r: r.end_to_end, 1),
    "green": ("until dbt is green, s", lambda r: r.to_green, 1),
    "process": ("processing, s", lambda r: r.seconds("process"), 2),
    "rows": ("rows/s", lambda r: r.rows_per_second, 0),
    "produce": ("produced/s", _measure("produced_per_second"), 0),
    "first": ("first row visible, s", _measure("first_row_visible_seconds"), 2),
    "last": ("last row visible, s", _measure("last_row_visible_seconds"), 2),
    "dbt": ("dbt, s", lambda r: r.seconds("dbt"), 1),
    "peak": ("peak memory, MB", lambda r: r.peak_mb, 0),
    "dag": ("DAG / its stages", _measure("dag_by_stages"), 2),
    "cpu": ("CPU, s", lambda r: sum(u.cpu_seconds for u in r.processes.values() if u.needed), 1),
}
_LOWER_IS_BETTER = ("green", "process", "peak")


def rows(found: Sequence[tuple[Path, Record]]) -> list[Row]:
    """Runs under the same conditions put together, in the pipelines' order.

    :param found: records with their files.
    """
    groups: dict[tuple[str, str, str, str, int, str], list[tuple[Path, Record]]] = {}
    several = len({record.machine.cpu for _, record in found}) > 1
    for path, record in found:
        machine = record.machine.cpu if several else ""
        key = (record.pipeline, record.mode, record.start, record.source.kind, record.source.events, machine)
        groups.setdefault(key, []).append((path, record))
    known = {one.id: one for one in PIPELINES}
    made = [
        Row(known[key[0]], *key[1:5], tuple(group), machine=key[5]) for key, group in groups.items() if key[0] in known
    ]
    return sorted(made, key=lambda row: (row.events, row.kind, row.pipeline.id, row.mode, row.start, row.machine))


def winner(candidates: Sequence[Row], figure: str) -> str:
    """Who is best in a figure, or that nobody is: a difference inside the spread is a tie.

    :param candidates: rows of the same size and kind of events.
    :param figure: key of :data:`FIGURES`; the lowest median is the best.
    """
    _, read, digits = FIGURES[figure]
    found = sorted(
        ((row, spread) for row in candidates if (spread := row.spread(read)) is not None), key=lambda one: one[1].median
    )
    if len(found) < 2:
        return "one pipeline only"
    if min(found[0][1].runs, found[1][1].runs) < 3:
        return "fewer than 3 runs each: no winner is named"
    best, second = found[0], found[1]
    if best[1].high >= second[1].low:
        tied = [row.label for row, spread in found if spread.low <= best[1].high]
        return f"tie within the spread: {', '.join(tied)}"
    return f"{best[0].label}: {best[1].text(digits)}, before {second[0].label}: {second[1].text(digits)}"


def not_run(found: Sequence[Row]) -> list[tuple[Pipeline, str]]:
    """Pipelines without a successful run, and why."""
    ran = {row.pipeline.id for row in found if row.good}
    failed = {row.pipeline.id: row.records[-1][1].reason or "" for row in found if not row.good}
    missing = [one for one in PIPELINES if one.id not in ran]
    return [(one, one.not_run or (f"failed: {failed[one.id]}" if one.id in failed else "not run")) for one in missing]


# ---------------------------------------------------------------- Markdown


def markdown(found: Sequence[tuple[Path, Record]], target: Path) -> str:
    """The report as Markdown.

    :param found: records with their files.
    :param target: where it will lie; links are relative to it.
    """
    made = rows(found)
    parts = ["# Benchmark report", "", *_conditions(found), ""]
    for title, part in _sections(made):
        parts += [f"## {title}", "", *_tables(part, target.parent), ""]
    parts += ["## Queries", "", *_query_table(made), ""]
    parts += ["## Not run", "", "| | stack | why |", "|---|---|---|"]
    parts += [f"| {one.id} | {one.title} | {_cell(why)} |" for one, why in not_run(made)]
    return "\n".join(parts) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _sections(made: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    tiers = [(title, [row for row in made if row.pipeline.tier == key]) for key, title in TIERS.items()]
    cuts = [(f"Cross-cut: {title}", [r for r in made if key in r.pipeline.groups]) for key, title in CROSS_CUTS.items()]
    wide = [(title, part) for title, part in cuts if len({row.pipeline.id for row in part}) > 1]
    return [(title, part) for title, part in [*tiers, *wide] if part]


def _sizes(part: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    sizes: dict[str, list[Row]] = {}
    for row in part:
        sizes.setdefault(f"{row.events:,} {row.kind} events", []).append(row)
    return list(sizes.items())


def _tables(part: Sequence[Row], folder: Path) -> list[str]:
    lines: list[str] = []
    for size, group in _sizes(part):
        shown = [one for one in FIGURES.values() if any(row.spread(one[1]) for row in group)]
        names = "".join(f"{title} | " for title, _, _ in shown)
        lines += [f"**{size}**", "", f"| | runs | {names}dbt tests |", "|---" * (len(shown) + 3) + "|"]
        for row in group:
            cells = [spread.text(digits) if (spread := row.spread(read)) else "-" for _, read, digits in shown]
            links = " ".join(
                f"[{number}{'' if record.status == 'success' else ' failed'}]({os.path.relpath(path, folder)})"
                for number, (path, record) in enumerate(row.records, 1)
            )
            lines.append(f"| {' | '.join([row.label, links, *cells, _tests(row)])} |")
        lines.append("")
        if len({row.pipeline.id for row in group if row.good}) > 1:
            lines += [*[f"- {FIGURES[key][0]}: {winner(group, key)}" for key in _LOWER_IS_BETTER], ""]
    return lines


def _tests(row: Row) -> str:
    told = [record.dbt for record in row.good if record.dbt]
    if not told:
        return "-"
    last = told[-1]
    return f"{last.tests + last.unit_tests - last.failed} of {last.tests + last.unit_tests}"


def _conditions(found: Sequence[tuple[Path, Record]]) -> list[str]:
    machines = sorted(
        {f"{r.machine.cpu}, {r.machine.cores} cores, {r.machine.memory_mb:,} MB, {r.machine.system}" for _, r in found}
    )
    busy = sum(not record.machine.quiet for _, record in found)
    lines = [f"Machine: {machine}." for machine in machines]
    lines.append(
        f"{len(found)} runs, of which {busy} on a machine that had other work (more than a quarter of its CPU time "
        "in use before, or more than a tenth taken by others meanwhile): their figures show the order of magnitude, "
        "not the best that the stack can do."
    )
    lines.append("Median (lowest-highest) of the successful runs. A difference inside the spread is a tie.")
    return lines


def _query_table(made: Sequence[Row]) -> list[str]:
    lines = [
        "Milliseconds, first execution / median of the next three; of several runs the median.",
        "",
        "| | engine | Q1 | Q2 | Q3 | Q4 | |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in made:
        engines = {one.engine: one.note for run in row.good for times in run.queries.values() for one in times}
        for engine, note in engines.items():
            cells = " | ".join(_query_cell(row, engine, name) for name in TITLES)
            lines.append(f"| {row.label}, {row.events:,} {row.kind} | {engine} | {cells} | {note or ''} |")
    return lines


def _query_cell(row: Row, engine: str, name: str) -> str:
    found = [one for run in row.good for one in run.queries.get(name, ()) if one.engine == engine]
    cold, warm = Spread.of(one.cold * 1000 for one in found), Spread.of(one.warm * 1000 for one in found)
    return f"{cold.median:,.0f} / {warm.median:,.0f}" if cold and warm else "-"


# ---------------------------------------------------------------- HTML

_STYLE = """
body { font-family: system-ui, sans-serif; margin: 2rem auto; max-width: 84rem; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; font-size: .85rem; margin: .5rem 0 1rem; display: block; overflow-x: auto; }
th, td { border: 1px solid #ddd; padding: .25rem .5rem; text-align: left; white-space: nowrap; }
th { background: #f4f6f8; white-space: normal; }
td:last-child { white-space: normal; min-width: 6rem; }
h2 { margin-top: 2.5rem; border-bottom: 1px solid #ccc; }
"""
_PLOTTED = ("green", "process", "rows", "peak")


def page(found: Sequence[tuple[Path, Record]], target: Path) -> str:
    """The report as one HTML page that needs no network.

    :param found: records with their files.
    :param target: where it will lie; links are relative to it.
    """
    from plotly.offline import get_plotlyjs

    made = rows(found)
    body = ["<h1>Benchmark report</h1>", *(f"<p>{html.escape(line)}</p>" for line in _conditions(found))]
    for title, part in _sections(made):
        body.append(f"<h2>{html.escape(title)}</h2>")
        for size, group in _sizes(part):
            body.append(f"<h3>{html.escape(size)}</h3>")
            body.append(_html_table(_tables(group, target.parent)))
            body.append(_plots(group))
    body += ["<h2>Stages</h2>", _stages(made), "<h2>Queries</h2>", _html_table(_query_table(made)), "<h2>Not run</h2>"]
    lines = [
        "| | stack | why |",
        "|---|---|---|",
        *(f"| {p.id} | {p.title} | {_cell(why)} |" for p, why in not_run(made)),
    ]
    body.append(_html_table(lines))
    script = f"<script>{get_plotlyjs()}</script>"
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><title>Benchmark report</title>"
        f"<style>{_STYLE}</style>"
        f"{script}</head><body>{''.join(body)}</body></html>\n"
    )


def _html_table(lines: Sequence[str]) -> str:
    """Lines of Markdown as far as the tables above use it."""
    out, inside = [], False
    for line in lines:
        if line.startswith("|"):
            if line.startswith("|---"):
                continue
            cells = [_links(cell.strip()) for cell in line.strip("|").replace("\\|", "¦").split("|")]
            tag = "td" if inside else "th"
            out.append(("" if inside else "<table>") + f"<tr>{''.join(f'<{tag}>{c}</{tag}>' for c in cells)}</tr>")
            inside = True
            continue
        if inside:
            out.append("</table>")
            inside = False
        if line and not line.startswith("**"):
            out.append(f"<p>{html.escape(line.removeprefix('- '))}</p>")
    return "".join(out) + ("</table>" if inside else "")


def _links(cell: str) -> str:
    escaped = html.escape(cell, quote=False)
    return re.sub(r"\[([^\]]+)\]\(([^)]+)\)", r'<a href="\2">\1</a>', escaped)


def _figure(traces: Sequence[Mapping[str, Any]], title: str, **layout: Any) -> str:
    import plotly.graph_objects as go

    figure = go.Figure(data=[go.Bar(**trace) for trace in traces])
    figure.update_layout(
        title=title,
        height=max(110 + 30 * max(len(t["y"]) for t in traces), 100 + 20 * len(traces)),  # bars, legend
        margin={"l": 330, "r": 20, "t": 48, "b": 40},
        yaxis={"autorange": "reversed"},  # in the order of the tables
        template="plotly_white",
        **layout,
    )
    return str(figure.to_html(full_html=False, include_plotlyjs=False, config={"displayModeBar": False}))


def _plots(group: Sequence[Row]) -> str:
    parts = []
    for key in _PLOTTED:
        title, read, _ = FIGURES[key]
        found = [(row.label, spread) for row in group if (spread := row.spread(read)) is not None]
        if len(found) < 2:  # one bar compares nothing: the table has its figure
            continue
        trace: dict[str, Any] = {
            "x": [spread.median for _, spread in found],
            "y": [label for label, _ in found],
            "orientation": "h",
        }
        if any(spread.runs > 1 for _, spread in found):
            trace["error_x"] = {
                "type": "data",
                "symmetric": False,
                "array": [spread.high - spread.median for _, spread in found],
                "arrayminus": [spread.median - spread.low for _, spread in found],
            }
        parts.append(_figure([trace], title))
    return "".join(parts)


def _stages(made: Sequence[Row]) -> str:
    good = [row for row in made if row.good]
    if not good:
        return "<p>No run succeeded.</p>"
    names = list(dict.fromkeys(stage.name for row in good for stage in row.good[0].stages))
    labels = [f"{row.label}, {row.events:,} {row.kind}" for row in good]
    traces = []
    for name in names:
        spreads = [row.spread(lambda record, name=name: record.seconds(name)) for row in good]  # type: ignore[misc]
        traces.append({"name": name, "orientation": "h", "y": labels, "x": [s.median if s else 0 for s in spreads]})
    return _figure(traces, "Where the time goes, seconds (medians)", barmode="stack")


def write(found: Sequence[tuple[Path, Record]], folder: Path) -> tuple[Path, Path]:
    """Write both, and all records in one file beside them.

    :param found: records with their files.
    :param folder: where to.
    :returns: HTML and Markdown.
    """
    folder.mkdir(parents=True, exist_ok=True)
    html_file, markdown_file = folder / "report.html", folder / "report.md"
    results = [record.model_dump(mode="json") for _, record in found]
    (folder / "results.json").write_text(json.dumps(results, ensure_ascii=False) + "\n")
    html_file.write_text(page(found, html_file))
    markdown_file.write_text(markdown(found, markdown_file))
    return html_file, markdown_file
