"""What a deployment would do to Kafka Connect: the difference between what is declared and what is there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from airflow_provider_rtlake.streams.rules import is_secret

Action = Literal["create", "update", "unchanged", "undeclared", "delete"]
_HIDDEN = "***"


@dataclass(frozen=True)
class Setting:
    """A setting that would change; secrets are not shown.

    :param key: its name.
    :param before: its value now; None where it is not set.
    :param after: its value as declared; None where it would be taken away.
    """

    key: str
    before: str | None
    after: str | None

    def __str__(self) -> str:
        if self.before is None:
            return f"+ {self.key} = {self.after}"
        if self.after is None:
            return f"- {self.key} = {self.before}"
        return f"~ {self.key}: {self.before} → {self.after}"


@dataclass(frozen=True)
class Plan:
    """What would be done for one connector.

    :param connector: its name.
    :param action: ``create``, ``update``, ``unchanged``; ``undeclared`` (it is there and no declaration names it) or
        ``delete`` (the same, and pruning was asked for).
    :param settings: what changes in its configuration.
    :param source: what changes in the source database, in words.
    :param topics: what changes in Kafka, in words.
    :param epoch: why a new epoch, with a complete snapshot, begins; empty where none does.
    """

    connector: str
    action: Action
    settings: tuple[Setting, ...] = ()
    source: tuple[str, ...] = ()
    topics: tuple[str, ...] = ()
    epoch: str = ""

    @property
    def changes(self) -> bool:
        """Whether anything would be done."""
        return self.action in ("create", "update", "delete") or bool(self.source or self.topics or self.epoch)

    def as_dict(self) -> dict[str, Any]:
        """For JSON and XCom; holds no secret."""
        return {
            "connector": self.connector,
            "action": self.action,
            "changes": self.changes,
            "settings": [str(setting) for setting in self.settings],
            "source": list(self.source),
            "topics": list(self.topics),
            "epoch": self.epoch,
        }


def diff_config(before: Mapping[str, str] | None, after: Mapping[str, str]) -> tuple[Setting, ...]:
    """The settings that differ, secrets hidden.

    :param before: the running configuration; None where the connector is not there.
    :param after: the declared one.
    """
    old = before or {}
    return tuple(
        Setting(key, _shown(key, old.get(key)), _shown(key, after.get(key)))
        for key in sorted({*old, *after})
        if old.get(key) != after.get(key)
    )


def action_of(before: Mapping[str, str] | None, settings: tuple[Setting, ...]) -> Action:
    """What the difference means.

    :param before: the running configuration; None where the connector is not there.
    :param settings: what differs.
    """
    if before is None:
        return "create"
    return "update" if settings else "unchanged"


def plan_undeclared(present: Iterable[str], declared: Iterable[str], *, prune: bool) -> list[Plan]:
    """The connectors that no declaration names. They are left alone unless pruning is asked for.

    :param present: names of the connectors that are there.
    :param declared: names of those that are declared.
    :param prune: whether to delete them.
    """
    return [Plan(name, "delete" if prune else "undeclared") for name in sorted(set(present).difference(declared))]


def _shown(key: str, value: str | None) -> str | None:
    return _HIDDEN if value is not None and is_secret(key, value) else value
