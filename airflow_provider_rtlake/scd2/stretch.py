"""Keys parted by their hashes: along the buckets of a history and, inside a bucket, along the order of its files."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from airflow_provider_rtlake.scd2.rows import Array

PARTS = 128  # at most: each is an open file, or one for each shape of its rows
_LOW = 48  # bits of a hash that do not decide about its part
_HIGH = 2**16


def part_of(hashed: Array, buckets: int, parts: int) -> Array:
    """Which part each key belongs to.

    :param hashed: hashes of keys.
    :param buckets: of the history.
    :param parts: as of :func:`parts_for`.
    """
    bucket = np.mod(hashed, buckets)
    part: Array
    if parts <= buckets:
        part = np.mod(bucket, parts)
        return part.astype(np.int32)
    slices = parts // buckets
    high = (hashed.astype(np.uint64) ^ np.uint64(2**63)) >> np.uint64(_LOW)  # in the order of the signed numbers
    part = bucket * slices + high.astype(np.int64) * slices // _HIGH
    return part.astype(np.int32)


def parts_for(rows: int, each: int, buckets: int) -> int:
    """How many parts to make.

    :param rows: expected.
    :param each: rows of a part, at most, about.
    """
    wanted = -(-rows // each)
    return min(PARTS, max(1, -(-wanted // buckets)) * buckets) if buckets <= PARTS else PARTS


@dataclass(frozen=True)
class Stretch:
    """Keys that are planned together.

    :param parts: of the keys' hashes; None for all.
    :param of: how many parts there are.
    :param buckets: of the history.
    :param linked: hashes of keys that are planned together wherever their parts are.
    :param only_linked: these keys, or all but these.
    """

    parts: tuple[int, ...] | None = None
    of: int = 1
    buckets: int = 1
    linked: Array | None = None
    only_linked: bool = False

    def holds(self, hashes: Array) -> Array:
        """Which keys are among them."""
        found: Array = np.ones(len(hashes), bool)
        if self.parts is not None:
            found = np.isin(part_of(hashes, self.buckets, self.of), self.parts)
        if self.linked is not None:
            named = np.isin(hashes, self.linked)
            found = named if self.only_linked else found & ~named
        return found

    @property
    def alone(self) -> bool:
        """Whether they are all keys."""
        return self.parts is None and self.linked is None

    @property
    def named(self) -> Array | None:
        """Hashes of them all, ordered, where there are few; None where they are told in another way."""
        return self.linked if self.only_linked else None

    def touched(self) -> list[int] | None:
        """Buckets of the history in which they lie, None for all."""
        if self.parts is None:
            return None
        if self.of <= self.buckets:
            return [bucket for bucket in range(self.buckets) if bucket % self.of in self.parts]
        return sorted({part // (self.of // self.buckets) for part in self.parts})

    def between(self) -> tuple[int, int] | None:
        """The least and the greatest hash that a key of them may have, where that is narrower than all."""
        slices = self.of // self.buckets
        if self.parts is None or slices < 2 or len({part // slices for part in self.parts}) > 1:
            return None
        first, last = min(self.parts) % slices, max(self.parts) % slices
        least, beyond = -(-first * _HIGH // slices), -(-(last + 1) * _HIGH // slices)
        return (least << _LOW) - 2**63, (beyond << _LOW) - 2**63 - 1
