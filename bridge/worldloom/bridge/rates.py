"""How much one owner may do in a minute: token buckets, which allow bursts and an even rate."""

from __future__ import annotations

import time
from collections.abc import Callable

MINUTE_S = 60.0
MOST_OWNERS = 10_000
"""Owners remembered; more than any token file has."""


class Bucket:
    """Fills evenly, holds one minute's worth, and is emptied by use."""

    def __init__(self, per_minute: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin full.

        Args:
            per_minute: How much a minute; 0 for no limit.
            clock: The time [s].
        """
        self._rate, self._clock = per_minute / MINUTE_S, clock
        self._most = float(per_minute)
        self._level, self._at = self._most, clock()

    def take(self, amount: float) -> float:
        """Take an amount if it is there; else how long until it is [s].

        More than a minute's worth is lent to a full bucket: those who come after wait for it.
        """
        if not self._rate:
            return 0.0
        now = self._clock()
        self._level = min(self._most, self._level + (now - self._at) * self._rate)
        self._at = now
        missing = min(amount, self._most) - self._level
        if missing > 0:
            return missing / self._rate
        self._level -= amount
        return 0.0


class Rates:
    """A bucket for each owner."""

    def __init__(self, per_minute: int) -> None:
        self._per_minute = per_minute
        self._buckets: dict[str, Bucket] = {}

    def take(self, owner: str, amount: float) -> float:
        """Take from an owner's bucket; 0, or how long until it is there [s]."""
        bucket = self._buckets.get(owner)
        if bucket is None:
            if len(self._buckets) >= MOST_OWNERS:
                self._buckets.clear()
            bucket = self._buckets[owner] = Bucket(self._per_minute)
        return bucket.take(amount)
