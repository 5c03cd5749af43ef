"""The rules that every merge is held to before it is published, over the keys that it touched."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from math import inf

from airflow_provider_rtlake.scd2.fold import Refused, Version
from airflow_provider_rtlake.scd2.plan import Plan, Stored, equal


def check_plan(plan: Plan) -> None:
    """Check what the history of each touched key will be.

    :raises Refused: naming the rule and the keys that break it.
    """
    histories = plan.after
    _refuse("a version is empty or inverted", _some(histories, lambda version: not _lasts(version)))
    _refuse("a version that is not the last of its key is open", _open_and_not_last(histories))
    _refuse("two versions of a key overlap", _pairs(histories, lambda earlier, later: _end(earlier) > later.start))
    _refuse(
        "between two versions of a key is time in which it was not deleted",
        _pairs(histories, lambda earlier, later: _end(earlier) < later.start and not earlier.deleted),
    )
    _refuse(
        "a closed version does not say what closed it",
        _some(histories, lambda version: (version.end is None) != (version.closed is None)),
    )
    _refuse(
        "a key's last version ends without a delete",
        (key for key, versions in histories.items() if versions and versions[-1].end and not versions[-1].deleted),
    )


def check_written(
    plan: Plan, found: Mapping[str, list[Stored]], whole: Mapping[str, list[Stored]] | None = None
) -> None:
    """Compare what the branch holds with what the merge meant to write.

    :param found: last versions of the touched keys, read back from the branch.
    :param whole: all versions of the keys folded anew, read back likewise.
    :raises Refused: naming the rule and the keys that break it.
    """
    _refuse("a key has more than one last version", (key for key, stored in found.items() if len(stored) > 1))
    _refuse("the branch does not hold what was to be written", _differing(plan, found))
    if whole is not None:
        _refuse("the branch does not hold what was to be written", _differing_anew(plan, whole))


def _differing(plan: Plan, found: Mapping[str, list[Stored]]) -> Iterable[str]:
    for key, expected in plan.expected.items():
        stored = found.get(key)
        if expected is None:
            if stored:
                yield key
        elif not stored or not equal(stored[0].version, expected):
            yield key


def _differing_anew(plan: Plan, whole: Mapping[str, list[Stored]]) -> Iterable[str]:
    for key in plan.anew:
        stored = sorted((one.version for one in whole.get(key, ())), key=lambda version: version.start)
        after = plan.after[key]
        if len(stored) != len(after) or not all(map(equal, stored, after)):
            yield key


def _lasts(version: Version) -> bool:
    return version.end is None or version.end > version.start


def _end(version: Version) -> float:
    return inf if version.end is None else version.end


def _open_and_not_last(histories: Mapping[str, Sequence[Version]]) -> Iterable[str]:
    return (key for key, versions in histories.items() if any(version.end is None for version in versions[:-1]))


def _some(histories: Mapping[str, Sequence[Version]], wrong: Callable[[Version], bool]) -> Iterable[str]:
    return (key for key, versions in histories.items() if any(map(wrong, versions)))


def _pairs(histories: Mapping[str, Sequence[Version]], wrong: Callable[[Version, Version], bool]) -> Iterable[str]:
    return (key for key, versions in histories.items() if any(wrong(*pair) for pair in pairwise(versions)))


def _refuse(rule: str, keys: Iterable[str]) -> None:
    offending = sorted(set(keys))
    if offending:
        raise Refused(rule, offending)
