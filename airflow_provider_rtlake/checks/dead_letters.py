"""What a check says of messages that could not be read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from airflow_provider_rtlake.lanes.dead_letters import DeadLetter

_TEXT_LIMIT = 300  # characters shown of a key or a reason


def describe(letters: Sequence[DeadLetter], samples: int) -> str:
    """The message of a failed check: how many of which topic, their keys and reasons, and what to do.

    :param letters: open ones, at least one.
    :param samples: at most so many are shown.
    """
    counts = Counter(letter.topic for letter in letters)
    where = ", ".join(f"{number} of {topic}" for topic, number in sorted(counts.items()))
    lines = [f"messages that could not be read: {where}"]
    lines += [
        f"  {letter.origin}: key {_short(letter.key or 'none')}: {_short(letter.reason)}"
        for letter in letters[: max(0, samples)]
    ]
    left = len(letters) - max(0, samples)
    if left > 0:
        lines.append(f"  … and {left} more")
    lines.append(
        "see 'rtlake stream dead-letters list'; send them again with 'replay', or 'dismiss' them with a note: "
        "then this check is green again"
    )
    return "\n".join(lines)


def _short(text: str) -> str:
    return text if len(text) <= _TEXT_LIMIT else f"{text[:_TEXT_LIMIT]}…"
