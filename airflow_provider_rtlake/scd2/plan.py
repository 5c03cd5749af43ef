"""What a merge writes: which stored versions go, which versions come, which changes are remembered. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from airflow_provider_rtlake.scd2.change import Change
from airflow_provider_rtlake.scd2.fold import Counters, Event, Fold, Mark, Refused, Version
from airflow_provider_rtlake.scd2.position import SNAPSHOT, Position
from airflow_provider_rtlake.scd2.values import same


@dataclass(frozen=True, slots=True)
class Stored:
    """A version as it lies in the history table.

    :param version: its content.
    :param last: whether it is the last version of its key.
    :param ref: where it lies (data file, row), opaque here.
    """

    version: Version
    last: bool
    ref: Any = None


class Store(Protocol):
    """What a plan needs to read. Each method reads only what it is asked for."""

    def last_versions(self, keys: Collection[str]) -> dict[str, Stored]:
        """Last version of each of the keys that has one."""

    def open_versions(self) -> dict[str, Stored]:
        """Every open version: for a truncate, or the end of a second snapshot."""

    def all_versions(self, keys: Collection[str]) -> dict[str, list[Stored]]:
        """Every version of the keys, by start."""

    def applied_changes(self, keys: Collection[str]) -> dict[str, list[Change]]:
        """Every change of the keys that was ever applied."""

    def all_keys(self) -> set[str]:
        """Every key that a change was ever applied for."""


@dataclass
class Plan:
    """What one merge does.

    :param removed: stored versions that go.
    :param added: versions that come, and whether each is its key's last.
    :param applied: changes to remember: those that are not remembered yet.
    :param marks: truncates and snapshot ends known from now on.
    :param expected: last version of each touched key afterwards, None where it has none: what the check compares.
    :param after: of each touched key the versions from its last stored one on, and of a key folded anew all of them.
    :param anew: keys folded anew.
    """

    removed: list[Stored] = field(default_factory=list)
    added: list[tuple[Version, bool]] = field(default_factory=list)
    applied: list[Change] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    expected: dict[str, Version | None] = field(default_factory=dict)
    after: dict[str, list[Version]] = field(default_factory=dict)
    anew: set[str] = field(default_factory=set)
    counters: Counters = field(default_factory=Counters)
    changes: int = 0
    duplicates: int = 0
    late: int = 0
    refolded_keys: int = 0

    def statistics(self) -> dict[str, int]:
        """Counters of the merge, by name."""
        own = {
            "changes": self.changes,
            "duplicates": self.duplicates,
            "late_changes": self.late,
            "refolded_keys": self.refolded_keys,
            "versions_written": len(self.added),
            "versions_removed": len(self.removed),
        }
        return {**own, **asdict(self.counters)}


def distinct(changes: Iterable[Change]) -> list[Change]:
    """One delivery of each change: the first.

    :raises Refused: two deliveries tell of different commits: the source's log began anew.
    """
    first: dict[Any, Change] = {}
    for change in changes:
        known = first.get(change.identity)
        if known is None:
            first[change.identity] = change
            continue
        _refuse_another_commit(known, change)
        if change.raw.delivery < known.raw.delivery:
            first[change.identity] = change
    return list(first.values())


def _refuse_another_commit(known: Change, change: Change) -> None:
    if known.ts != change.ts and change.op != "r":
        raise Refused(
            "a change came again with another commit time: the log position fell back (a restored source?) and a new "
            "snapshot is needed (rtlake connectors apply)",
            [str(change.key)],
        )


def truncate_mark(change: Change) -> Mark:
    """A truncate as a mark."""
    raw = change.raw
    place = raw.topic, raw.topic_partition, raw.topic_offset, raw.kafka_ts
    return Mark("truncate", change.position, change.tx, change.ts, *place)


def plan_merge(
    store: Store,
    changes: Sequence[Change],
    *,
    marks: Sequence[Mark] = (),
    known_marks: Sequence[Mark] = (),
    reached: Position | None = None,
    untracked: frozenset[str] = frozenset(),
) -> Plan:
    """Plan a merge.

    A change that stands before the position already reached (late, or delivered again), or in its transaction, has its
    key folded anew from all its changes; every other key is folded on from its last version.

    :param store: the history as it is.
    :param changes: changes that may be published; may hold deliveries of one change more than once.
    :param marks: ends of complete snapshots among them.
    :param known_marks: marks of earlier merges.
    :param reached: position of the last change applied before, None at first.
    :param untracked: Type 1 columns.
    :raises Refused: the changes break a rule.
    """
    once = distinct(changes)
    plan = Plan(changes=len(once), duplicates=len(changes) - len(once))
    known = {mark.position: mark for mark in known_marks}
    arrived_marks = (*(truncate_mark(change) for change in once if change.op == "t"), *marks)
    fresh_marks = [mark for mark in arrived_marks if _is_news(mark, known.get(mark.position))]
    known.update({mark.position: mark for mark in fresh_marks})
    plan.marks = [known[position] for position in sorted(known)]
    keyed = [change for change in once if change.op != "t"]
    _refuse_second_snapshot(keyed, known_marks, reached)
    everything = any(_belongs_before(mark.position, reached) for mark in fresh_marks)
    late_keys = store.all_keys() if everything else set()
    late_keys |= {str(change.key) for change in keyed if _belongs_before(change.position, reached)}
    refolded = _late_part(store, plan, keyed, late_keys, reached, everything)
    _fold_on(store, plan, refolded, fresh_marks, untracked)
    _fold_anew(store, plan, refolded, untracked)
    return plan


def _belongs_before(position: Position, reached: Position | None) -> bool:
    """Whether what stands there cannot be folded on: it is late, or part of a transaction of which a part was applied
    (of a transaction counts the outcome alone)."""
    return reached is not None and (position <= reached or position.shares_transaction(reached))


def _is_news(mark: Mark, known: Mark | None) -> bool:
    """Not known yet, or known from a later delivery only."""
    if known is None:
        return True
    return mark.kind == "truncate" and known.kafka_ts > 0 and mark.delivery < known.delivery


def _refuse_second_snapshot(changes: Sequence[Change], marks: Iterable[Mark], reached: Position | None) -> None:
    """A new snapshot is a new epoch. One that began after this epoch's stream cannot be put before it."""
    if reached is None or reached.phase == SNAPSHOT:
        return
    since = max((mark.since for mark in marks if mark.since and mark.since.epoch == reached.epoch), default=None)
    if since is None or since.lsn == 0:
        return
    second = [
        str(change.key)
        for change in changes
        if change.position.phase == SNAPSHOT and change.position.epoch == since.epoch and change.position > since
    ]
    if second:
        raise Refused(
            f"a second snapshot came within epoch {since.epoch} of the replication slot: begin a new epoch "
            "(rtlake connectors apply)",
            second,
        )


def _late_part(
    store: Store,
    plan: Plan,
    changes: Sequence[Change],
    late_keys: set[str],
    reached: Position | None,
    everything: bool,
) -> dict[str, list[Change]]:
    """All changes of the keys to fold anew; a key that only got known changes again is not among them."""
    plan.applied = list(changes)
    if not late_keys:
        return {}
    known = _with_linked(store, late_keys, changes)
    plan.applied = [change for change in changes if str(change.key) not in known]
    arrived: dict[str, list[Change]] = {}
    for change in changes:
        arrived.setdefault(str(change.key), []).append(change)
    refolded = {}
    for key, group in known.items():
        before = {change.identity: change for change in group}
        news = []
        for change in arrived.get(key, ()):
            first = before.get(change.identity)
            if first is not None:
                _refuse_another_commit(first, change)
            if first is None or change.raw.delivery < first.raw.delivery:
                news.append(change)
        plan.duplicates += len(arrived.get(key, ())) - len(news)
        plan.late += sum(reached is not None and change.position <= reached for change in news)
        plan.applied += news
        if news or everything or any(change.moves_key for change in group):
            refolded[key] = distinct([*group, *news])
    plan.changes = len(plan.applied)
    plan.refolded_keys = len(refolded)
    return refolded


def _with_linked(store: Store, keys: set[str], changes: Sequence[Change]) -> dict[str, list[Change]]:
    """Changes of the keys and of those they are linked with: a changed key's unsent values come from the old key."""
    applied: dict[str, list[Change]] = {}
    wanted = set(keys)
    partners = _partners(changes)
    named: dict[str, set[str]] = {}
    for change in changes:
        if change.partners:
            named.setdefault(str(change.key), set()).update(change.partners)
    while wanted:
        for key in wanted:
            applied.setdefault(key, [])
        found = store.applied_changes(wanted)
        for key, known in found.items():
            applied[key] = known
            for change in known:
                _note_partner(partners, change)
        linked = {partner for key in wanted for partner in named.get(key, ())}
        for group in partners.values():
            if len(group) > 1 and group & applied.keys():
                linked |= group
        linked |= _named_partners(found)
        wanted = linked - applied.keys()
    return applied


def _partners(changes: Sequence[Change]) -> dict[tuple[Any, int], set[str]]:
    partners: dict[tuple[Any, int], set[str]] = {}
    for change in changes:
        _note_partner(partners, change)
    return partners


def _note_partner(partners: dict[tuple[Any, int], set[str]], change: Change) -> None:
    if change.moves_key:
        partners.setdefault((change.transaction, change.position.lsn), set()).add(str(change.key))


def _named_partners(found: Mapping[str, list[Change]]) -> set[str]:
    return {partner for group in found.values() for change in group for partner in change.partners}


def _fold_on(
    store: Store,
    plan: Plan,
    refolded: Mapping[str, Any],
    marks: Sequence[Mark],
    untracked: frozenset[str],
) -> None:
    changes = [change for change in plan.applied if change.key not in refolded]
    keys = {str(change.key) for change in changes}
    stored = store.last_versions(keys) if keys else {}
    if marks:
        stored = {**stored, **store.open_versions()}
    stored = {key: found for key, found in stored.items() if key not in refolded}
    fold = Fold({key: found.version for key, found in stored.items()}, untracked).run([*changes, *marks])
    plan.counters = fold.counters
    for key in keys | stored.keys():
        before = [stored[key]] if key in stored else []
        _difference(plan, key, before, fold.histories.get(key, []))


def _fold_anew(store: Store, plan: Plan, refolded: Mapping[str, list[Change]], untracked: frozenset[str]) -> None:
    if not refolded:
        return
    steps: list[Change | Mark] = [change for group in refolded.values() for change in group]
    fold = Fold({}, untracked).run([*steps, *plan.marks])
    stored = store.all_versions(refolded.keys())
    plan.anew = set(refolded)
    for key in refolded:
        _difference(plan, key, stored.get(key, []), fold.histories.get(key, []))


def _difference(plan: Plan, key: str, before: Sequence[Stored], after: Sequence[Version]) -> None:
    kept = {}
    plan.expected[key] = after[-1] if after else None
    plan.after[key] = list(after)
    for index, version in enumerate(after):
        last = index == len(after) - 1
        match = next(
            (
                number
                for number, stored in enumerate(before)
                if number not in kept and stored.last == last and equal(stored.version, version)
            ),
            None,
        )
        if match is None:
            plan.added.append((version, last))
        else:
            kept[match] = True
    plan.removed += [stored for number, stored in enumerate(before) if number not in kept]


def _event_key(event: Event | None) -> Any:
    return None if event is None else (event.position, event.tx, event.topic, event.partition, event.offset)


def _facts(version: Version) -> tuple[Any, ...]:
    times = version.start, version.end, version.deleted, version.origin, version.moved, version.last_position
    links = version.closed_by, version.previous_key, version.next_key, version.unknown
    return (*times, *links, _event_key(version.opened), _event_key(version.closed))


def equal(left: Version, right: Version) -> bool:
    """Whether two versions say the same, column by column; a missing column is null."""
    if _facts(left) != _facts(right):
        return False
    names = left.values.keys() | right.values.keys()
    return all(same(left.values.get(name), right.values.get(name)) for name in names)
