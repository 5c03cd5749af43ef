"""Steps of a long run, told on standard error: what runs now, what is done, and how long it took."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.status import Status


class Steps:
    """Tells what happens, one line for each finished step.

    :param console: where to; the steps' seconds are kept all the same.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.seconds: dict[str, float] = {}
        self._status: Status | None = None
        self._name = ""
        self._last = ""

    @contextmanager
    def step(self, name: str) -> Iterator[Steps]:
        """Run one step.

        :param name: what it does, in a few words.
        """
        begin, self._name = time.monotonic(), name
        try:
            with self.console.status(escape(name)) as self._status:
                if not self.console.is_terminal:
                    self.console.print(f"… {name}", markup=False)
                yield self
        except BaseException:
            self.console.print(f"✗ {name} ({time.monotonic() - begin:.1f} s)", style="red", markup=False)
            raise
        finally:
            self._status = None
        self.seconds[name] = round(time.monotonic() - begin, 1)
        self.console.print(f"✓ {name} ({self.seconds[name]:.1f} s)", style="green", markup=False)

    def say(self, text: str) -> None:
        """What the step does now; told again only when it changes."""
        if text == self._last:
            return
        self._last = text
        if self.console.is_terminal and self._status is not None:
            self._status.update(escape(f"{self._name}: {text}"))
        else:
            self.console.print(f"    {text}", markup=False)
