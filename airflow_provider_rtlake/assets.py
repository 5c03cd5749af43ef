"""The lakehouse's tables as Airflow assets: ``rtlake://lakehouse/<namespace>/<table>``."""

from __future__ import annotations

from typing import Any
from urllib.parse import SplitResult

from airflow.sdk import Asset

SCHEME = "rtlake"


def sanitize_uri(uri: SplitResult) -> SplitResult:
    """Check an asset's URI; Airflow calls this for each ``rtlake://`` URI.

    :param uri: the parts of the URI.
    :raises ValueError: it is not ``rtlake://<lakehouse>/<namespace>/<table>``.
    """
    parts = [part for part in uri.path.split("/") if part]
    if not uri.netloc or len(parts) != 2:
        raise ValueError(f"{uri.geturl()!r} must look like rtlake://lakehouse/namespace/table")
    return uri._replace(path="/" + "/".join(parts))


def table_asset(table: str, *, lakehouse: str = "lakehouse", **kwargs: Any) -> Asset:
    """The asset of an Iceberg table on the branch that readers look at.

    :param table: ``namespace.name``.
    :param lakehouse: which lakehouse, where there are several.
    :param kwargs: further arguments of :class:`airflow.sdk.Asset`, such as ``watchers``.
    """
    namespace, _, name = table.rpartition(".")
    return Asset(name=table, uri=f"{SCHEME}://{lakehouse}/{namespace}/{name}", group="rtlake", **kwargs)
