"""The services that a pipeline needs: which they are, whether they run, and starting and stopping them by the kit."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from airflow_provider_rtlake.exceptions import UserError
from airflow_provider_rtlake.kit import health, order, supervise
from airflow_provider_rtlake.kit.stack import Stack, default_home

# Never stopped for a benchmark's sake: what may be driving it, and what that needs.
_KEPT = ("airflow", "postgresql")


@lru_cache(maxsize=1)
def _stack(home: Path) -> Stack | None:
    return Stack.load(home) if (home / "etc" / "stack.json").exists() else None


def stack() -> Stack | None:
    """The installed stack, or None where nothing is installed."""
    return _stack(default_home())


def needed_stack() -> Stack:
    """The installed stack.

    :raises UserError: nothing is installed.
    """
    return Stack.load(default_home())


def names(components: Sequence[str]) -> list[str]:
    """Services of some components.

    :param components: as in ``rtlake up --only``.
    """
    found = stack()
    return [name for name, one in found.services.items() if one.component in components] if found else []


def roots() -> Mapping[str, int | None]:
    """Process id of every service that runs now."""
    found = stack()
    if found is None:
        return {}
    keeper = supervise.supervisor_of(found.home, found.supervisor)
    return {name: keeper.pid(name) for name in found.services}


def make_ready(components: Sequence[str], *, exclusive: bool, told: Callable[[str], None]) -> tuple[bool, float]:
    """Start what is needed and wait until it answers.

    :param components: that the pipeline needs.
    :param exclusive: stop what it does not need, but Airflow and its database.
    :param told: told what happens.
    :returns: whether anything had to be started, and the seconds until all answered.
    :raises UserError: a component is not installed.
    """
    begin = time.monotonic()
    if not components:
        return False, 0.0
    found = needed_stack()
    missing = sorted({one for one in components if one not in found.components})
    if missing:
        raise UserError(f"not installed: {', '.join(missing)}; run './rtlake up --all'")
    keeper = supervise.supervisor_of(found.home, found.supervisor)
    if isinstance(keeper, supervise.Supervisord):
        keeper.ensure()
    wanted = names(components)
    if exclusive:
        stop_others(found, keeper, wanted, told)
    absent = [name for name in wanted if not keeper.pid(name)]
    if absent:
        told(f"starting {', '.join(absent)}")
        keeper.start(absent)
    health.wait_all(found, 240, wanted)
    return bool(absent), time.monotonic() - begin


def stop_others(found: Stack, keeper: supervise.Supervisor, wanted: Sequence[str], told: Callable[[str], None]) -> None:
    """Stop the services that are not wanted, in the order of dependency."""
    kept = {*wanted, *names(_KEPT)}
    gone = [name for name in found.services if name not in kept and keeper.pid(name)]
    order.stop(gone, lambda name: keeper.stop([name]), told)


def stop(components: Sequence[str], told: Callable[[str], None]) -> None:
    """Stop the services of some components, so that a run starts cold.

    :param components: Airflow and its database stay.
    """
    found = needed_stack()
    keeper = supervise.supervisor_of(found.home, found.supervisor)
    gone = names([one for one in components if one not in _KEPT])
    stop_others(found, keeper, [name for name in found.services if name not in gone], told)
