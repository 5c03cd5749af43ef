"""The Commission's monthly Parquet files, fetched where the internet is reachable."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path

import httpx
import pyarrow as pa
import pyarrow.parquet as pq

from airflow_provider_rtlake.bench.silver import periods
from airflow_provider_rtlake.demo.taxi import DIRECTORY_VARIABLE, conform
from airflow_provider_rtlake.exceptions import UserError
from airflow_provider_rtlake.kit.stack import default_home

URL_VARIABLE = "RTLAKE_TLC_URL"
# Where the Commission publishes its files; a mirror of one's own is named by the variable.
_URL = "https://d37ci6vzurychx.cloudfront.net/trip-data"
_SECONDS = 30.0  # without a byte


def default_folder() -> Path:
    """Where the files go."""
    return Path(os.environ.get(DIRECTORY_VARIABLE) or default_home() / "data" / "tlc")


def months(given: Sequence[str]) -> list[str]:
    """Months and ranges of months, one by one, in order.

    :param given: ``YYYY-MM`` or ``YYYY-MM..YYYY-MM``.
    :raises UserError: one of them is neither.
    """
    found: set[str] = set()
    for text in given:
        first, _, last = text.partition("..")
        begin, end = periods([first])[0][0], periods([last or first])[0][0]
        if end < begin:
            raise UserError(f"months {text}: the second is before the first")
        while begin <= end:
            found.add(f"{begin:%Y-%m}")
            begin = date(begin.year + begin.month // 12, begin.month % 12 + 1, 1)
    return sorted(found)


def fetch(wanted: Sequence[str], folder: Path, told: Callable[[str], None]) -> list[Path]:
    """Fetch what is missing.

    :param wanted: months, ``YYYY-MM``.
    :param folder: where to.
    :param told: told what happens.
    :returns: the files of all months.
    :raises UserError: a file cannot be had; what came before it stays.
    """
    folder.mkdir(parents=True, exist_ok=True)
    base = os.environ.get(URL_VARIABLE, _URL).rstrip("/")
    files = []
    with httpx.Client(timeout=_SECONDS, follow_redirects=True) as client:
        for month in wanted:
            path = folder / f"yellow_tripdata_{month}.parquet"
            if not path.exists():
                _fetch(client, f"{base}/{path.name}", path)
                told(f"{path.name}: {path.stat().st_size / 1e6:.0f} MB")
            files.append(path)
    return files


def _fetch(client: httpx.Client, url: str, path: Path) -> None:
    part = path.with_suffix(".part")
    try:
        with client.stream("GET", url) as answer:
            answer.raise_for_status()
            with part.open("wb") as file:
                for chunk in answer.iter_bytes():
                    file.write(chunk)
    except httpx.HTTPStatusError as error:
        status = error.response.status_code
        raise UserError(f"{url}: answered {status}; is that month published?") from None
    except httpx.HTTPError as error:
        part.unlink(missing_ok=True)
        raise UserError(
            f"{url}: not reachable from here ({error}). Bring the files and name their folder with --source "
            f"or {DIRECTORY_VARIABLE}, name a mirror with {URL_VARIABLE}, or make trips up with --synthetic"
        ) from None
    try:
        file = pq.ParquetFile(part)
        conform(file.schema_arrow.empty_table(), path.name)
    except (pa.ArrowInvalid, OSError) as error:
        part.unlink(missing_ok=True)
        raise UserError(f"{url}: what came is no Parquet file ({error})") from None
    part.replace(path)
