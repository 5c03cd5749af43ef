"""When a new life of a connector's replication slot begins, and why."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from airflow_provider_rtlake.clients.kafka import KafkaClient, Topic
from airflow_provider_rtlake.exceptions import UserError
from airflow_provider_rtlake.streams.connect_config import Epoch, epoch_of
from airflow_provider_rtlake.streams.source_deploy import SlotState

# The number of the newest epoch of each connector. It outlives a deleted connector, whose messages may still be about.
EPOCHS_TOPIC = Topic("_rtlake_epochs", 1, {"cleanup.policy": "compact"})
_TIED = {  # settings whose change makes the stored offsets or the slot another one's
    "slot.name": "the replication slot has another name",
    "database.dbname": "another database is read",
    "topic.prefix": "the topics have another prefix",
    "publication.name": "the publication is another one, which the server cannot apply to the log written before it",
}
_GONE = ("no longer available on the server", "can no longer get changes from replication slot")


@dataclass(frozen=True)
class Observed:
    """What is known of a connector before a deployment.

    :param config: its running configuration; None where it is not there.
    :param has_offsets: whether Connect remembers how far it has read.
    :param trace: errors of what has failed; empty where nothing has.
    :param slot: the server and the declared replication slot.
    :param recorded: the newest epoch that was ever begun; 0 where none was.
    :param publication: whether the declared publication is there.
    :param returned: tables that were captured before and that the publication leaves out, wholly or in part.
    """

    config: Mapping[str, str] | None
    has_offsets: bool
    trace: str
    slot: SlotState
    recorded: int
    publication: bool
    returned: tuple[str, ...]


@dataclass(frozen=True)
class Decision:
    """The epoch to run in.

    :param epoch: number, system and timeline.
    :param reason: why it is a new one; empty where it goes on.
    """

    epoch: Epoch
    reason: str

    @property
    def new(self) -> bool:
        """Whether the slot, the offsets and the snapshot begin anew."""
        return bool(self.reason)


def decide(observed: Observed, desired: Mapping[str, str], connector: str) -> Decision:
    """Whether the connector goes on in its epoch.

    :param observed: what is known of it.
    :param desired: the settings that name its slot, database, prefix and publication.
    :param connector: its name.
    :raises UserError: the slot is there and somebody else's.
    """
    slot, config = observed.slot, observed.config
    running = None if config is None else epoch_of(config)
    reason = _reason(observed, running, desired)
    if running is not None and not reason:
        return Decision(running, "")
    ours = running is not None or observed.recorded > 0 or desired["slot.name"].startswith("rtlake_")
    if slot.exists and (not ours or (config is None and slot.active)):
        raise UserError(
            f"connector {connector}: the replication slot {desired['slot.name']} is there and somebody else's;"
            " drop it if nobody needs it, or declare another one (slot: …)"
        )
    unfinished = running is not None and observed.recorded > running.number
    newest = max(observed.recorded, 0 if running is None else running.number)
    number = observed.recorded if unfinished else newest + 1
    return Decision(Epoch(number, slot.system_id, slot.timeline), reason or "first deployment")


def _reason(observed: Observed, running: Epoch | None, desired: Mapping[str, str]) -> str:
    slot, config = observed.slot, observed.config
    if config is None:
        return "deployed anew" if observed.recorded else "first deployment"
    if running is None:
        return "the connector of that name was not deployed by this project"
    tied = [text for key, text in _TIED.items() if config.get(key) != desired[key]]
    checks = (
        (observed.recorded > running.number, "a new epoch was begun and not finished"),
        (slot.system_id != running.system_id, "the source is another database system"),
        (
            slot.timeline != running.timeline,
            "the source's log has branched off: failover, or recovery to a point in time",
        ),
        (bool(tied), tied[0] if tied else ""),
        (observed.has_offsets and not slot.exists, "the replication slot is gone"),
        (slot.lost, "the server has thrown away log that the replication slot needs"),
        (
            observed.has_offsets and not observed.publication,
            "the publication was gone while the slot held log",
        ),
        (
            bool(observed.returned),
            f"changes of {', '.join(observed.returned)}, captured before, were not published for a while",
        ),
        (
            any(text in observed.trace for text in _GONE),
            "the replication slot no longer holds what comes next",
        ),
    )
    return next((text for applies, text in checks if applies), "")


def read_epochs(kafka: KafkaClient) -> dict[str, int]:
    """The newest epoch of each connector.

    :param kafka: the cluster.
    """
    epochs: dict[str, int] = {}
    for key, value, _ in kafka.read_all(EPOCHS_TOPIC.name):
        if key is not None and value is not None:
            name, number = key.decode(), int(json.loads(value)["epoch"])
            epochs[name] = max(number, epochs.get(name, 0))
    return epochs


def record_epoch(kafka: KafkaClient, connector: str, decision: Decision) -> None:
    """Note an epoch before it begins, so that its number is never used for another.

    :param kafka: the cluster.
    :param connector: its name.
    :param decision: the epoch.
    """
    kafka.ensure([EPOCHS_TOPIC])
    value = {"epoch": decision.epoch.number, "text": decision.epoch.text, "reason": decision.reason}
    kafka.send(EPOCHS_TOPIC.name, connector.encode(), json.dumps(value).encode())
