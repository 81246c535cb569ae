"""Starts that fail -> a pause before the next one, and after some in a row a problem to tell."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

BROKEN_STARTS = 3  # So many starts in a row that fail are a problem of the machine or cluster.
PAUSE_S = (0.5, 60.0)  # After a failed start; doubled with every further one, up to the second [s].


class Setbacks:
    """Counts failed starts of one pool."""

    def __init__(self) -> None:
        self._count = 0
        self._why = ""
        self._not_before = 0.0

    @property
    def pausing(self) -> bool:
        """Whether it is too early for another try."""
        return time.monotonic() < self._not_before

    def failed(self, why: str, again: Callable[[], None]) -> None:
        """Note a failed start.

        Args:
            why: Its reason.
            again: Called when the pause is over.
        """
        self._count, self._why = self._count + 1, why
        pause = min(PAUSE_S[1], PAUSE_S[0] * 2 ** min(self._count, 16))
        self._not_before = time.monotonic() + pause
        asyncio.get_running_loop().call_later(pause, again)

    def succeeded(self) -> None:
        """Note a start: all is well again."""
        self._count, self._why, self._not_before = 0, "", 0.0

    def problem(self, what: str) -> str:
        """What is wrong, once several starts in a row have failed; else nothing.

        Args:
            what: That which could not be started, in the plural.
        """
        if self._count < BROKEN_STARTS:
            return ""
        return (
            f"{self._count} {what} in a row could not be started: {self._why}. It is tried again; "
            "waiting jobs are kept"
        )
