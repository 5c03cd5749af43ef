"""In which order services are stopped."""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Callable, Mapping, Sequence

_FLINK = ("flink-jobmanager", "flink-taskmanager", "flink-sql-gateway")
_AIRFLOW = ("airflow-api-server", "airflow-scheduler", "airflow-dag-processor", "airflow-triggerer")
# What must have ended before a service is stopped. Pinot hangs when its ZooKeeper goes before it.
STOPS_AFTER: Mapping[str, tuple[str, ...]] = {
    "flink-jobmanager": ("flink-taskmanager", "flink-sql-gateway"),
    "zookeeper": ("pinot", *_FLINK),
    "kafka": ("connect", "pinot", "flink-taskmanager", "kafka-ui"),
    "nessie": ("trino", "flink-taskmanager", "airflow-scheduler"),
    "s3": ("nessie", "trino", "pinot", *_FLINK, "airflow-scheduler"),
    "minio": ("nessie", "trino", "pinot", *_FLINK, "airflow-scheduler"),
    "postgresql": ("nessie", "connect", "trino", *_AIRFLOW),
}


def stop(names: Sequence[str], stop_one: Callable[[str], None], told: Callable[[str], None]) -> None:
    """Stop services side by side, each as soon as those that need it have ended.

    :param names: what runs.
    :param stop_one: stops one and returns when it has ended.
    :param told: told of each service when its turn has come.
    :raises Exception: what ``stop_one`` raised first, when all are done.
    """
    ended = {name: threading.Event() for name in names}

    def run(name: str) -> None:
        try:
            for other in STOPS_AFTER.get(name, ()):
                if other in ended:
                    ended[other].wait()
            told(f"stopping {name}")
            stop_one(name)
        finally:  # one that fails holds nobody back
            ended[name].set()

    with concurrent.futures.ThreadPoolExecutor(max(1, len(names))) as pool:
        for done in [pool.submit(run, name) for name in names]:
            done.result()
