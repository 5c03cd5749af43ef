"""What a Pinot server of some version understands. Pure."""

from __future__ import annotations

import re
from typing import NamedTuple


class PinotVersion(NamedTuple):
    """A server's version.

    :param major: first number.
    :param minor: second number.
    """

    major: int
    minor: int

    @classmethod
    def parse(cls, text: str) -> PinotVersion:
        """From what the server says, such as ``0.11.0-1b4d6b6b0a…`` or ``1.4.0``.

        :param text: version text.
        :raises ValueError: it holds no version.
        """
        match = re.match(r"\s*(\d+)\.(\d+)", text)
        if match is None:
            raise ValueError(f"{text!r} is no Pinot version; expected something like 0.11.0")
        return cls(int(match.group(1)), int(match.group(2)))

    @property
    def several_comparison_columns(self) -> bool:
        """``comparisonColumns`` (a list) took the place of ``comparisonColumn``."""
        return self >= (1, 0)

    @property
    def upsert_snapshots(self) -> bool:
        """Which rows of an upsert table are valid can be kept on disk."""
        return self >= (0, 12)

    @property
    def upsert_deletes(self) -> bool:
        """``deleteRecordColumn`` hides deleted rows."""
        return self >= (1, 0)

    @property
    def databases(self) -> bool:
        """Tables may belong to a logical database."""
        return self >= (1, 2)

    @property
    def decoder(self) -> str:
        """Class that decodes JSON messages."""
        if self >= (1, 0):
            return "org.apache.pinot.plugin.inputformat.json.JSONMessageDecoder"
        return "org.apache.pinot.plugin.stream.kafka.KafkaJSONMessageDecoder"

    @property
    def consumer_factory(self) -> str:
        """Class that makes Kafka consumers."""
        generation = "kafka30" if self >= (1, 4) else "kafka20"
        return f"org.apache.pinot.plugin.stream.{generation}.KafkaConsumerFactory"


LOCKED = PinotVersion(0, 11)
