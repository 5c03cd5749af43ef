"""Exact versions of what takes part, from the installed packages and the lock of artifacts."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata

from airflow_provider_rtlake import __version__

_PACKAGES = ("duckdb", "dbt-core", "dbt-duckdb", "confluent-kafka", "pyarrow")


def installed(components: Sequence[str]) -> dict[str, str]:
    """Version by name.

    :param components: of the stack; ours and the Python packages are always told.
    """
    found = {"rtlake": __version__}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    if components:
        from airflow_provider_rtlake.kit import artifacts, verbs

        locked = artifacts.load_lock(verbs.project() / "ansible" / artifacts.LOCK_NAME)
        found |= {name: locked[name].version for name in components if name in locked}
    return found
