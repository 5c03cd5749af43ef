"""Runs the probes side by side and shows Prometheus what each heard last."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from airflow_provider_rtlake.monitoring.catalogue import METRICS, Sample

log = logging.getLogger(__name__)

_PATIENCE = 4  # intervals after which an answer is too old to be shown
Clock = Callable[[], float]


@dataclass
class Probe:
    """Something that is asked again and again.

    :param name: label of ``rtlake_probe_up``.
    :param ask: gives the figures, or raises.
    :param seconds: pause between two rounds.
    :param close: ends what it keeps open.
    """

    name: str
    ask: Callable[[], Iterable[Sample]]
    seconds: float
    close: Callable[[], None] = lambda: None


@dataclass
class _Heard:
    samples: tuple[Sample, ...] = ()
    up: bool = False
    at: float = 0.0
    duration: float = 0.0
    complaint: str = ""


@dataclass(eq=False)
class Board:
    """The last answers; a collector for ``prometheus_client``.

    :param probes: what is asked.
    :param clock: seconds since 1970.
    """

    probes: Sequence[Probe]
    clock: Clock = time.time
    _heard: dict[str, _Heard] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def ask(self, probe: Probe) -> bool:
        """One round of one probe; whatever goes wrong is noted, and its older figures are taken down.

        :param probe: one of the board's.
        """
        begin = time.monotonic()
        try:
            heard = _Heard(tuple(probe.ask()), up=True, at=self.clock())
        except Exception as error:  # a probe must never end the process
            before = self._heard.get(probe.name, _Heard())
            heard = _Heard(at=before.at, complaint=f"{type(error).__name__}: {error}".splitlines()[0][:300])
            if heard.complaint != before.complaint:  # once, not every round
                log.warning("probe %s: %s", probe.name, heard.complaint)
        heard.duration = time.monotonic() - begin
        with self._lock:
            self._heard[probe.name] = heard
        return heard.up

    def run(self, stop: threading.Event) -> list[threading.Thread]:
        """Ask every probe at its pace, each in a thread of its own, until told to stop.

        :param stop: set to end.
        """
        threads = [threading.Thread(target=self._loop, args=(p, stop), name=p.name, daemon=True) for p in self.probes]
        for thread in threads:
            thread.start()
        return threads

    def close(self) -> None:
        """End what the probes keep open; to be called when no round is under way."""
        for probe in self.probes:
            probe.close()

    def _loop(self, probe: Probe, stop: threading.Event) -> None:
        while not stop.is_set():
            self.ask(probe)
            stop.wait(probe.seconds)

    def samples(self) -> Iterator[Sample]:
        """Everything that is known now."""
        now = self.clock()
        with self._lock:
            heard = dict(self._heard)
        for probe in self.probes:
            found = heard.get(probe.name, _Heard())
            fresh = found.up and now - found.at < _PATIENCE * probe.seconds + 60
            yield Sample("rtlake_probe_up", float(fresh), (probe.name,))
            yield Sample("rtlake_probe_duration_seconds", found.duration, (probe.name,))
            if found.at:
                yield Sample("rtlake_probe_timestamp_seconds", found.at, (probe.name,))
            if fresh:
                yield from found.samples

    def collect(self) -> Iterator[Metric]:
        """For ``prometheus_client``: one family for each metric that has a figure."""
        by_name: dict[str, list[Sample]] = {}
        for sample in self.samples():
            by_name.setdefault(sample.name, []).append(sample)
        for name, samples in by_name.items():
            metric = METRICS[name]
            kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
            family = kind(name, metric.help, labels=metric.labels)
            for sample in samples:
                family.add_metric(sample.labels, sample.value)
            yield family
