"""`rtlake events`: taxi trips into Kafka."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

app = typer.Typer(rich_markup_mode=None)


@app.command()
def events(
    count: Annotated[int, typer.Option("--events", min=1, help="How many.")] = 10_000,
    mode: Annotated[
        Literal["burst", "realtime", "batch"], typer.Option("--mode", help="At once, as the trips were, or in batches.")
    ] = "burst",
    speed: Annotated[float, typer.Option("--speed", help="realtime: how much faster than the trips.")] = 1.0,
    size: Annotated[int, typer.Option("--size", help="batch: events of one.")] = 1_000,
    delay: Annotated[float, typer.Option("--delay", help="batch: seconds between two.")] = 1.0,
    form: Annotated[Literal["json", "avro"], typer.Option("--format", help="Of the messages.")] = "json",
    topic: Annotated[str | None, typer.Option("--topic", help="taxi.raw_trips by default.")] = None,
    source: Annotated[
        Path | None, typer.Option("--source", help="Taxi Parquet file or folder; else RTLAKE_TLC_DIR, else made up.")
    ] = None,
    synthetic: Annotated[bool, typer.Option("--synthetic", help="Make the trips up in any case.")] = False,
    seed: Annotated[int, typer.Option("--seed", help="Of what is made up.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False,
) -> None:
    """Send trips as events; rows that are no message go to taxi.raw_trips.dlq with their reason."""
    from airflow_provider_rtlake.bench import generator
    from airflow_provider_rtlake.bench import source as sources
    from airflow_provider_rtlake.bench.drive import results_folder
    from airflow_provider_rtlake.clients.kafka import KafkaClient, Topic
    from airflow_provider_rtlake.commands.generate import bar
    from airflow_provider_rtlake.kit.stack import Stack

    pace = generator.Pace(mode, speed, size, delay)
    config = {"bootstrap.servers": Stack.load().kafka_bootstrap}
    given = sources.prepare(results_folder() / "events", events=count, source=source, synthetic=synthetic, seed=seed)
    chosen = topic or generator.TOPIC
    KafkaClient(config).ensure([*generator.topics(), Topic(chosen, generator.PARTITIONS)])
    with bar() as progress:
        task = progress.add_task("events", total=count)
        done = generator.generate(
            config,
            given.path,
            topic=chosen,
            pace=pace,
            form=form,
            progress=lambda sent: progress.update(task, completed=sent),
        )
    told = {
        "ok": True,
        "topic": chosen,
        "sent": done.sent,
        "rejected": done.rejected,
        "per_second": round(done.per_second),
    }
    typer.echo(
        json.dumps(told) if as_json else ", ".join(f"{value} {name}" for name, value in told.items() if name != "ok")
    )
