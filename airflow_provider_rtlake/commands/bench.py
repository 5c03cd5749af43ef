"""`rtlake bench`: run pipelines and measure them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from airflow_provider_rtlake.bench.catalog import PIPELINES, TIERS, select
from airflow_provider_rtlake.bench.scd2.command import scd2
from airflow_provider_rtlake.exceptions import RtlakeError

_PROBLEMS, _SHOWN = 5, 1500  # how many failed nodes an error tells, and characters of each

app = typer.Typer(no_args_is_help=True, help="Benchmark pipelines: run and measure them.", rich_markup_mode=None)


app.command("scd2")(scd2)


@app.command("list")
def list_pipelines() -> None:
    """The pipelines, their groups, and why those that cannot run cannot."""
    table = Table("", "stack", "tier", "cross-cuts", "needs", "")
    for one in PIPELINES:
        table.add_row(one.id, one.title, TIERS[one.tier], " ".join(one.groups), " ".join(one.needs), one.not_run)
    Console().print(table)


@app.command("run")
def run(
    pipelines: Annotated[list[str], typer.Argument(help="Ids, tiers, cross-cuts, or all.")],
    events: Annotated[int, typer.Option("--events", min=100, help="How many.")] = 10_000,
    runs: Annotated[int, typer.Option("--runs", min=1, help="Of each pipeline; several pipelines take turns.")] = 1,
    source: Annotated[
        Path | None, typer.Option("--source", help="Taxi Parquet file or folder; else RTLAKE_TLC_DIR, else made up.")
    ] = None,
    synthetic: Annotated[bool, typer.Option("--synthetic", help="Make the trips up in any case.")] = False,
    mode: Annotated[
        str | None, typer.Option("--mode", help="batch or streaming; the pipeline's own by default.")
    ] = None,
    exclusive: Annotated[
        bool, typer.Option("--exclusive", help="Stop services that a pipeline does not need, but Airflow's.")
    ] = False,
    cold: Annotated[bool, typer.Option("--cold", help="Stop the services that it needs first.")] = False,
    seed: Annotated[int, typer.Option("--seed", help="Of what is made up.")] = 1,
    settle: Annotated[
        float, typer.Option("--settle", min=0, help="Seconds to wait at most, before each run, for a quiet machine.")
    ] = 120.0,
    results: Annotated[Path | None, typer.Option("--results", help="Folder of the records.")] = None,
    keep: Annotated[Path | None, typer.Option("--keep", help="Folder that gets a copy of each record.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False,
) -> None:
    """Run pipelines, measure every stage, check every row, leave a record of each run.

    Several runs of several pipelines take turns: p00 p01 p00 p01.
    """
    from airflow_provider_rtlake.bench.drive import Wish, drive, results_folder

    chosen, folder = select(pipelines), results_folder(results)
    wish = Wish(events, source, synthetic, seed, mode, exclusive, cold, settle)
    told = Console(stderr=True, highlight=False)
    figures: list[dict[str, object]] = []
    failures: list[str] = []
    for number, one in [(number, one) for number in range(1, runs + 1) for one in chosen]:
        told.print(f"{one.id} {one.title}, run {number} of {runs}", markup=False)
        try:
            record = drive(one, wish, folder, lambda text: told.print(f"  {text}", markup=False))
        except RtlakeError as error:  # it could not even begin; the others may
            failures.append(f"{one.id}: {error}")
            told.print(f"  not begun: {error}", markup=False)
            continue
        figures.append(record.figures())
        if record.status != "success":
            failures.append(f"{one.id}: {record.reason}")
        if keep:
            keep.mkdir(parents=True, exist_ok=True)
            shutil.copy(folder / record.file_name, keep)
        shown = ", ".join(f"{key} {value}" for key, value in figures[-1].items() if value is not None)
        told.print(f"  {record.status}: {shown}", markup=False)
    if as_json:
        typer.echo(json.dumps({"ok": not failures, **(figures[-1] if figures else {}), "runs": figures}))
    if failures:
        raise RtlakeError(f"{len(failures)} of {runs * len(chosen)} runs failed: {failures[0]}")


@app.command("airflow")
def airflow(
    what: Annotated[
        list[str] | None,
        typer.Argument(help="parse, deploy, gold (by default these), dbt_once, dbt_watcher, dbt_node_by_node."),
    ] = None,
    runs: Annotated[int, typer.Option("--runs", min=1, help="Of each side.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False,
) -> None:
    """What Airflow costs: reading the DAG files, and running steps as a DAG instead of by hand."""
    from airflow_provider_rtlake.bench import dags
    from airflow_provider_rtlake.kit.stack import Stack
    from airflow_provider_rtlake.kit.verbs import project

    stack, told = Stack.load(), Console(stderr=True, highlight=False)
    chosen = what or ["parse", "deploy", "gold"]
    found: dict[str, object] = {}
    if "parse" in chosen:
        found["parse"] = dags.parse(stack, project(), runs)
    compared = [name for name in chosen if name != "parse"]
    found |= dags.compare(stack, project(), compared, runs, lambda text: told.print(text, markup=False))
    for name, figures in found.items():
        typer.echo(f"{name}: {json.dumps(figures)}")
    if as_json:
        typer.echo(json.dumps({"ok": True, **found}))


@app.command("generator")
def generator(
    events: Annotated[int, typer.Option("--events", min=1000, help="Of each run.")] = 240_000,
    runs: Annotated[int, typer.Option("--runs", min=1, help="Of each of the two, in turn.")] = 5,
    source: Annotated[Path | None, typer.Option("--source", help="As for run.")] = None,
    synthetic: Annotated[bool, typer.Option("--synthetic", help="As for run.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False,
) -> None:
    """Compare the event generator with a row-by-row json.dumps loop: same client, same settings, same rows."""
    import statistics

    from airflow_provider_rtlake.bench import generator as events_generator
    from airflow_provider_rtlake.bench import source as sources
    from airflow_provider_rtlake.bench.drive import results_folder
    from airflow_provider_rtlake.bench.machine import describe, settled
    from airflow_provider_rtlake.kit.stack import Stack

    machine = describe(settled(Console(stderr=True, highlight=False).print, limit=120.0))
    given = sources.prepare(results_folder() / "events", events=events, source=source, synthetic=synthetic)
    config = {"bootstrap.servers": Stack.load().kafka_bootstrap}
    found = events_generator.compare(config, given.path, topic="taxi.bench_generator", runs=runs)
    medians = {name: statistics.median(values) for name, values in found.items()}
    answer = {
        "ok": True,
        "events": events,
        "per_second": found,
        "median": medians,
        "ratio": round(medians["generator"] / medians["row_by_row"], 2),
        "load_before": machine.load_before,
        "cpu_before": machine.cpu_before,
        "quiet": machine.quiet,
    }
    if as_json:
        typer.echo(json.dumps(answer))
        return
    for name, values in found.items():
        typer.echo(f"{name}: median {medians[name]:,.0f} events/s ({min(values):,.0f} to {max(values):,.0f})")
    typer.echo(f"ratio {answer['ratio']}; {'quiet' if machine.quiet else 'busy'} machine")


@app.command("manifest")
def manifest() -> None:
    """Write dbt/taxi/manifest.json, which Cosmos renders the DAGs' dbt nodes from. After a change of the project."""
    import tempfile

    from airflow_provider_rtlake.bench import dbt
    from airflow_provider_rtlake.bench import manifest as manifests

    with tempfile.TemporaryDirectory(prefix="rtlake-dbt-parse-") as folder:
        found = dbt.parse(Path(folder) / "parse.duckdb")
    path = dbt.project() / "manifest.json"
    path.write_text(manifests.text(found))
    typer.echo(path)


@app.command("dbt-spark")
def dbt_spark(
    events: Annotated[int, typer.Option("--events", min=100, help="How many.")] = 10_000,
    source: Annotated[Path | None, typer.Option("--source", help="As for run.")] = None,
    synthetic: Annotated[bool, typer.Option("--synthetic", help="As for run.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False,
) -> None:
    """Build and test the dbt project on Spark, in tables of its own: no service takes part."""
    import os
    import subprocess
    import tempfile

    from airflow_provider_rtlake.bench import source as sources
    from airflow_provider_rtlake.bench.dbt import SPARK_APPLICATION, SPARK_RESULT
    from airflow_provider_rtlake.bench.drive import results_folder
    from airflow_provider_rtlake.bench.record import DbtResult
    from airflow_provider_rtlake.kit.stack import default_home
    from airflow_provider_rtlake.scd2.submit import environment

    given = sources.prepare(results_folder() / "events", events=events, source=source, synthetic=synthetic)
    with tempfile.TemporaryDirectory(prefix="rtlake-dbt-spark-") as folder:
        done = subprocess.run(
            ["spark-submit", str(SPARK_APPLICATION), str(given.path), folder, *given.source.months],
            env={**os.environ, **environment(default_home())},
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        told = Path(folder) / SPARK_RESULT
        if not told.exists():
            raise RtlakeError(f"dbt on Spark ended with {done.returncode}:\n{done.stdout[-3000:]}")
        answer = json.loads(told.read_bytes())
        found = DbtResult.model_validate(answer["result"])
    figures = found.model_dump(exclude={"nodes"})
    typer.echo(json.dumps({"ok": not found.failed, **figures}) if as_json else figures)
    if found.failed:
        shown = "\n".join(one[:_SHOWN] for one in answer["problems"][:_PROBLEMS])
        raise RtlakeError(f"{found.failed} nodes failed on Spark, or were skipped for it:\n{shown}")
