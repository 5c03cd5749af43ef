"""Airflow's StatsD client, with a socket that nobody but the exporter can reach."""

from __future__ import annotations

from typing import Any

from statsd import StatsClient


class ConnectedStatsClient(StatsClient):  # type: ignore[misc]
    """A client whose socket is connected: on the address that leads to the exporter, taking packets from it only.

    Without, the first packet opens a port of each Airflow process on every interface. For Airflow's setting
    ``[metrics] statsd_custom_client_path``; arguments as the parent's.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._sock.connect(self._addr)
