"""The rules that every merge is held to before it is published, over the keys that it touched."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise

from airflow_provider_rtlake.scd2.fold import Refused, Version
from airflow_provider_rtlake.scd2.plan import Plan, Stored, equal


def check_plan(plan: Plan) -> None:
    """Check the versions that a merge is about to write.

    :raises Refused: naming the rule and the keys that break it.
    """
    versions = [version for version, _ in plan.added]
    _refuse(
        "a version is empty or inverted",
        (version.key for version in versions if version.end is not None and version.end <= version.start),
    )
    _refuse("a version that is not the last of its key is open", _open_and_not_last(plan))
    _refuse("two versions of a key overlap", _overlaps(plan))


def check_written(plan: Plan, found: Mapping[str, list[Stored]]) -> None:
    """Compare what the branch holds with what the merge meant to write.

    :param found: last versions of the touched keys, read back from the branch.
    :raises Refused: naming the rule and the keys that break it.
    """
    _refuse("a key has more than one last version", (key for key, stored in found.items() if len(stored) > 1))
    _refuse("the branch does not hold what was to be written", _differing(plan, found))


def _differing(plan: Plan, found: Mapping[str, list[Stored]]) -> Iterable[str]:
    for key, expected in plan.expected.items():
        stored = found.get(key)
        if expected is None:
            if stored:
                yield key
        elif not stored or not equal(stored[0].version, expected):
            yield key


def _open_and_not_last(plan: Plan) -> Iterable[str]:
    return (version.key for version, last in plan.added if version.end is None and not last)


def _overlaps(plan: Plan) -> Iterable[str]:
    by_key: dict[str, list[Version]] = {}
    for version, _ in plan.added:
        by_key.setdefault(version.key, []).append(version)
    for key, versions in by_key.items():
        versions.sort(key=lambda version: version.start)
        for earlier, later in pairwise(versions):
            if earlier.end is None or earlier.end > later.start:
                yield key
                break


def _refuse(rule: str, keys: Iterable[str]) -> None:
    offending = sorted(set(keys))
    if offending:
        raise Refused(rule, offending)
