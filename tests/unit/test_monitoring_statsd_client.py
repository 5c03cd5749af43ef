"""Airflow's figures reach the exporter; nothing else reaches Airflow's socket."""

from __future__ import annotations

import socket

from airflow_provider_rtlake.monitoring.statsd_client import ConnectedStatsClient


def test_only_the_exporter_reaches_the_socket() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as exporter, socket.socket(type=socket.SOCK_DGRAM) as other:
        exporter.bind(("127.0.0.1", 0))
        exporter.settimeout(5)
        client = ConnectedStatsClient("127.0.0.1", exporter.getsockname()[1], prefix="airflow")
        try:
            client.incr("ti_finish")
            data, sender = exporter.recvfrom(100)
            assert data == b"airflow.ti_finish:1|c"
            assert sender[0] == "127.0.0.1"
            other.sendto(b"x", sender)
            exporter.sendto(b"y", sender)
            client._sock.settimeout(5)
            assert client._sock.recv(10) == b"y"
        finally:
            client.close()


def test_an_exporter_that_is_away_stops_nothing() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as exporter:
        exporter.bind(("127.0.0.1", 0))
        port = exporter.getsockname()[1]
    client = ConnectedStatsClient("127.0.0.1", port)
    try:
        for _ in range(3):
            client.incr("lost")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as exporter:
            exporter.bind(("127.0.0.1", port))
            exporter.settimeout(5)
            client.incr("first")  # may still tell of the one before that was refused
            client.incr("second")
            assert exporter.recv(100) in (b"first:1|c", b"second:1|c")
    finally:
        client.close()
