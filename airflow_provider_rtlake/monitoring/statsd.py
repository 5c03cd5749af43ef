"""Airflow's metrics: StatsD packets with InfluxDB's labels in, families for Prometheus out.

No StatsD exporter is to be had as a package of the systems that are supported. Only the metrics that are named here are
kept: Airflow makes one for each task and DAG otherwise, in two spellings.
"""

from __future__ import annotations

import logging
import re
import socketserver
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily

log = logging.getLogger(__name__)

_LIMIT = 5000  # series
# What is kept: Airflow's name, with a dot for each part that becomes a label.
KEPT: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"scheduler_heartbeat|triggerer_heartbeat|dag_processor_heartbeat|scheduler\.heartbeat", ()),
    (r"scheduler\.(?:scheduler_loop_duration|critical_section_duration|tasks\.executable|tasks\.starving)", ()),
    (r"dag_processing\.(?:import_errors|total_parse_time|processor_timeouts)", ()),
    (r"dagbag_size|executor\.(?:open_slots|queued_tasks|running_tasks)", ()),
    (r"pool\.(?:open_slots|queued_slots|running_slots|starving_tasks)", ("pool_name",)),
    (r"dagrun\.duration\.(?:success|failed)|dagrun\.schedule_delay", ("dag_id",)),
    (r"ti_(?:successes|failures)|ti\.finish|task\.duration", ("dag_id", "state")),
    (r"triggers\.(?:running|blocked_main_thread|succeeded|failed)", ()),
)
_KEPT = tuple((re.compile(pattern), labels) for pattern, labels in KEPT)
_SPELLING = re.compile(r"[^a-zA-Z0-9_]+")


@dataclass(frozen=True)
class Packet:
    """One line of StatsD.

    :param name: as Airflow spells it, without its prefix.
    :param labels: InfluxDB's, after the name.
    :param value: milliseconds for a timer.
    :param kind: ``c``, ``g`` or ``ms``.
    :param relative: a gauge that is changed by the value.
    :param rate: share of the events that were sent.
    """

    name: str
    labels: tuple[tuple[str, str], ...]
    value: float
    kind: str
    relative: bool = False
    rate: float = 1.0


def parse(line: str, prefix: str = "airflow.") -> Packet | None:
    """Read a line such as ``airflow.ti.finish,dag_id=x,state=success:1|c``; None where it is none. Pure.

    :param line: without its end.
    :param prefix: Airflow's ``statsd_prefix``.
    """
    head, _, tail = line.rpartition(":")
    value, _, rest = tail.partition("|")
    kind, _, rate = rest.partition("|@")
    name, *pairs = head.split(",")
    try:
        number, share = float(value), float(rate) if rate else 1.0
    except ValueError:
        return None
    if not name or kind not in ("c", "g", "ms") or not 0 < share <= 1:
        return None
    labels = tuple(sorted((key, text) for key, _, text in (pair.partition("=") for pair in pairs)))
    return Packet(name.removeprefix(prefix), labels, number, kind, kind == "g" and value[0] in "+-", share)


@dataclass
class _Series:
    kind: str
    value: float = 0.0
    count: int = 0


@dataclass(eq=False)
class Statsd:
    """What has been received; a collector for ``prometheus_client``."""

    received: int = 0
    dropped: int = 0
    _series: dict[tuple[str, tuple[str, ...]], _Series] = field(default_factory=dict)
    _labels: dict[str, tuple[str, ...]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def receive(self, datagram: bytes) -> None:
        """Take in a datagram of one or more lines; what is not kept is counted and forgotten."""
        for line in datagram.decode("utf-8", "replace").splitlines():
            packet = parse(line)
            with self._lock:
                self.received += 1
                if packet is None or not self._take(packet):
                    self.dropped += 1

    def _take(self, packet: Packet) -> bool:
        kept = next((labels for pattern, labels in _KEPT if pattern.fullmatch(packet.name)), None)
        if kept is None:
            return False
        given = dict(packet.labels)
        key = (packet.name, tuple(given.get(label, "") for label in kept))
        series = self._series.get(key)
        if series is None:
            if len(self._series) >= _LIMIT:
                return False
            series = self._series[key] = _Series(packet.kind)
            self._labels[packet.name] = kept
        _add(series, packet)
        return True

    def collect(self) -> Iterator[Metric]:
        """For ``prometheus_client``: ``airflow_<name>`` of each metric, timers in seconds."""
        with self._lock:
            series = {key: _Series(**vars(one)) for key, one in self._series.items()}
            received, dropped = self.received, self.dropped
        families: dict[str, Metric] = {}
        for (name, labels), one in sorted(series.items()):
            family = families.setdefault(name, _family(name, one.kind, self._labels[name]))
            if isinstance(family, SummaryMetricFamily):
                family.add_metric(labels, count_value=one.count, sum_value=one.value / 1000)
            elif isinstance(family, (CounterMetricFamily, GaugeMetricFamily)):
                family.add_metric(labels, one.value)
        yield from families.values()
        yield CounterMetricFamily("rtlake_statsd_lines", "Lines that Airflow sent", value=received)
        yield CounterMetricFamily("rtlake_statsd_lines_dropped", "Lines that are not kept", value=dropped)


def _add(series: _Series, packet: Packet) -> None:
    if packet.kind == "c":
        series.value += packet.value / packet.rate
    elif packet.kind == "g":
        series.value = series.value + packet.value if packet.relative else packet.value
    else:
        series.value += packet.value
        series.count += 1


def _family(name: str, kind: str, labels: tuple[str, ...]) -> Metric:
    spelled = f"airflow_{_SPELLING.sub('_', name)}"
    if kind == "c":
        return CounterMetricFamily(spelled, f"Airflow's counter {name}", labels=labels)
    if kind == "g":
        return GaugeMetricFamily(spelled, f"Airflow's gauge {name}", labels=labels)
    return SummaryMetricFamily(f"{spelled}_seconds", f"Airflow's timer {name}", labels=labels)


def serve(statsd: Statsd, address: str, port: int) -> socketserver.UDPServer:
    """Receive datagrams in a thread of its own.

    :param statsd: takes them in.
    :param address: to listen on.
    :param port: to listen on; 0 chooses one.
    """

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            statsd.receive(self.request[0])

    server = socketserver.UDPServer((address, port), Handler)
    threading.Thread(target=server.serve_forever, name="statsd", daemon=True).start()
    return server
