"""``python -m airflow_provider_rtlake.monitoring``: the exporter."""

from __future__ import annotations

import logging
import signal
import threading
from pathlib import Path
from typing import Annotated

import typer
from prometheus_client import REGISTRY, start_http_server

from airflow_provider_rtlake.clients.flink import FlinkClient
from airflow_provider_rtlake.clients.kafka import KafkaClient
from airflow_provider_rtlake.clients.kafka_connect import KafkaConnectClient
from airflow_provider_rtlake.clients.nessie import NessieClient
from airflow_provider_rtlake.clients.pinot import PinotController
from airflow_provider_rtlake.demo.access import Access
from airflow_provider_rtlake.exceptions import UserError
from airflow_provider_rtlake.kit.stack import Stack
from airflow_provider_rtlake.monitoring import probes
from airflow_provider_rtlake.monitoring.board import Board, Probe
from airflow_provider_rtlake.monitoring.history import Histories
from airflow_provider_rtlake.monitoring.statsd import Statsd, serve
from airflow_provider_rtlake.monitoring.topics import Brokers

log = logging.getLogger("rtlake-exporter")


def make_probes(stack: Stack, connectors: Path, *, seconds: float = 15.0) -> list[Probe]:
    """What is asked of a stack; of components that are not installed, nothing.

    :param stack: the stack.
    :param connectors: folder of the declarations.
    :param seconds: pause between two rounds of the quick probes; the others take a multiple of it.
    """
    declared = probes.Declared(connectors)
    installed = set(stack.components)
    found = [
        Probe("services", lambda: probes.services(stack), 2 * seconds),
        Probe("declarations", declared.ask, 2 * seconds),
    ]
    if "connect" in installed:
        connect = KafkaConnectClient(stack.connection("rtlake_kafka_connect").url)
        found.append(Probe("connect", lambda: probes.connectors(connect, declared), seconds, connect.close))
    if "flink" in installed:
        flink = FlinkClient(stack.connection("rtlake_flink").url)
        found.append(Probe("flink", lambda: probes.flink(flink, declared), seconds, flink.close))
    if "kafka" in installed:
        kafka = KafkaClient({"bootstrap.servers": stack.kafka_bootstrap, "log_level": 0}, timeout=10.0)
        for_lanes, for_letters = Brokers(stack.kafka_bootstrap), Brokers(stack.kafka_bootstrap)
        letters = probes.DeadLetters(kafka, for_letters, declared)
        found.append(Probe("lanes", lambda: probes.lanes(for_lanes, declared), seconds, for_lanes.close))
        found.append(Probe("dead_letters", letters.ask, 2 * seconds, for_letters.close))
    if {"kafka", "pinot"} <= installed:
        pinot = PinotController.connect(stack.connection("rtlake_pinot").url)
        for_pinot = Brokers(stack.kafka_bootstrap)

        def close() -> None:
            pinot.close()
            for_pinot.close()

        found.append(Probe("pinot", lambda: probes.pinot(pinot, for_pinot), 2 * seconds, close))
    if {"nessie", "trino"} <= installed:
        found.append(_history(stack, declared, 2 * seconds))
    return found


def _history(stack: Stack, declared: probes.Declared, seconds: float) -> Probe:
    nessie = NessieClient(f"{stack.connection('rtlake_nessie').url}/api/v2")
    histories = Histories(nessie, Access(stack).trino, declared.streams)

    return Probe("history", histories.ask, seconds, nessie.close)


def main(
    listen: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port of /metrics.")] = 9110,
    statsd_port: Annotated[int, typer.Option(help="UDP port for Airflow; 0 for none.")] = 0,
    connectors: Annotated[Path, typer.Option(help="Folder of the connectors' declarations.")] = Path("connectors"),
    home: Annotated[Path | None, typer.Option(help="The stack's folder; RTLAKE_HOME by default.")] = None,
    seconds: Annotated[float, typer.Option(help="Pause between two rounds.", min=1)] = 15.0,
) -> None:
    """Tell Prometheus how the lakehouse is doing, until stopped."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        stack = Stack.load(home)
    except UserError as error:
        raise SystemExit(f"rtlake-exporter: {error}") from None
    board = Board(make_probes(stack, connectors, seconds=seconds))
    REGISTRY.register(board)
    if statsd_port:
        statsd = Statsd()
        REGISTRY.register(statsd)
        serve(statsd, listen, statsd_port)
    start_http_server(port, listen)
    log.info("listening on %s:%d, probes: %s", listen, port, ", ".join(p.name for p in board.probes))
    board.run(stop)
    stop.wait()


if __name__ == "__main__":
    typer.run(main)
