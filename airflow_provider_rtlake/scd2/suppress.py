"""The suppression list: keys that were erased, as keyed hashes, and up to which position nothing of them may return."""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from airflow_provider_rtlake.scd2.change import EPOCH_HEADER, RawChange, canonical_key
from airflow_provider_rtlake.scd2.position import epoch_number, of_source

# Properties of the history table: a merge has them at hand. The hash's own key keeps lists of several tables from being
# joined; it is no secret from who may read the lakehouse.
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
        """Read it from the history's table properties; a new, empty one where there is none."""
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

    def drops(self, raw: RawChange) -> bool:
        """Whether a row of bronze is of an erased key, and not of a row that was made under this key later."""
        if not self.upto or raw.message_key is None:
            return False
        try:
            bound = self.upto.get(self.hashed(canonical_key(raw.message_key)))
            if bound is None:
                return False
            source = json.loads(raw.payload)["source"]
            epoch = epoch_number((raw.headers or {}).get(EPOCH_HEADER))
            return of_source(source, epoch).text <= bound
        except (KeyError, TypeError, ValueError):
            return False
