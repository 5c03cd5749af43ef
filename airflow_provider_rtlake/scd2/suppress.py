"""The suppression list: keys that were erased, as keyed hashes, and up to which position nothing of them may return."""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from airflow_provider_rtlake.scd2.bronze import raw_changes
from airflow_provider_rtlake.scd2.change import EPOCH_HEADER, RawChange, canonical_key
from airflow_provider_rtlake.scd2.position import epoch_number, of_source

# Properties of the checkpoint table: a merge has them at hand. The hash's own key keeps lists of several tables from
# being joined; it is no secret from who may read the lakehouse.
SUPPRESSED, SUPPRESSION_KEY = "rtlake.scd2.suppressed", "rtlake.scd2.suppression-key"


@dataclass(frozen=True)
class Suppression:
    """The list of one history.

    :param secret: key of the hash, hexadecimal.
    :param upto: hash of a key → position as text; what stands up to it is dropped.
    """

    secret: str
    upto: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, properties: Mapping[str, str]) -> Suppression:
        """Read it from the checkpoint's table properties; a new, empty one where there is none."""
        return cls(
            properties.get(SUPPRESSION_KEY) or secrets.token_hex(32), json.loads(properties.get(SUPPRESSED) or "{}")
        )

    @property
    def properties(self) -> dict[str, str]:
        """As table properties."""
        return {SUPPRESSION_KEY: self.secret, SUPPRESSED: json.dumps(dict(self.upto), sort_keys=True)}

    def hashed(self, key: str) -> str:
        """A key's hash.

        :param key: canonical JSON.
        """
        return hmac.new(bytes.fromhex(self.secret), key.encode(), hashlib.sha256).hexdigest()

    def with_keys(self, keys: Iterable[str], position: str) -> Suppression:
        """The list with further keys.

        :param keys: canonical JSON.
        :param position: up to which nothing of them may return.
        """
        added = {self.hashed(key): position for key in keys}
        return Suppression(self.secret, {**self.upto, **added})

    def keep(self, rows: pa.Table) -> pa.Table:
        """Rows of bronze without those of erased keys.

        :param rows: as :func:`.bronze.read_range` gives them.
        """
        if not self.upto or not rows.num_rows:
            return rows
        listed = [text for text in rows["message_key"].unique().to_pylist() if self._bound(text) is not None]
        if not listed:
            return rows
        suspected = pc.fill_null(pc.is_in(rows["message_key"], pa.array(listed, pa.string())), False)
        dropped = iter([self.drops(raw) for raw in raw_changes(rows.filter(suspected))])
        return rows.filter(pa.array([not (suspect and next(dropped)) for suspect in suspected.to_pylist()]))

    def _bound(self, message_key: str | None) -> str | None:
        try:
            return None if message_key is None else self.upto.get(self.hashed(canonical_key(message_key)))
        except ValueError:
            return None

    def drops(self, raw: RawChange) -> bool:
        """Whether a row of bronze is of an erased key, and not of a row that was made under this key later."""
        bound = self._bound(raw.message_key) if self.upto else None
        if bound is None:
            return False
        try:
            source = json.loads(raw.payload)["source"]
            epoch = epoch_number((raw.headers or {}).get(EPOCH_HEADER))
            return of_source(source, epoch).text <= bound
        except (KeyError, TypeError, ValueError):
            return False
