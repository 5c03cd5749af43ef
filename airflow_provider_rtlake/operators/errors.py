"""How an error of this package ends a task: a terminal one fails it for good, others leave it to retries."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_rtlake.exceptions import TerminalError


@contextmanager
def no_retry_of_terminal_errors() -> Iterator[None]:
    """Turn a :class:`TerminalError` into ``AirflowFailException``, so that no retry is wasted on it.

    :raises AirflowFailException: the body raised a terminal error; its message is kept.
    """
    try:
        yield
    except TerminalError as error:
        raise AirflowFailException(str(error)) from error
