"""Room on a store's disk: when jobs may begin, and when one that found it full may try again."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from worldloom.scene.limits import MIB

GROWN = MIB
"""Room that must have come back since a job found none [bytes]."""
AGAIN_S = (60.0, 900.0)
"""It may try again without that after the first time, doubled up to the second: a quota of the
operating system shows in no count of free bytes [s]."""


@dataclass(frozen=True)
class _Refusal:
    """A job found the disk full."""

    free: int
    times: int
    at_s: float


class Space:
    """The disk below one folder."""

    def __init__(self, folder: Path, floor: int) -> None:
        """Watch a disk.

        Args:
            folder: Any folder on it.
            floor: What must stay free [bytes].
        """
        self._folder, self._floor = folder, floor
        self._refused: dict[str, _Refusal] = {}

    def free(self) -> int:
        """Bytes that are free now."""
        return shutil.disk_usage(self._folder).free

    def enough(self) -> bool:
        """Whether more is free than must stay free."""
        return self.free() >= self._floor

    def refused(self, job: str) -> None:
        """Note that a job found the disk full."""
        before = self._refused.get(job)
        times = before.times + 1 if before else 1
        self._refused[job] = _Refusal(self.free(), times, time.monotonic())

    def open_to(self, job: str) -> bool:
        """Whether a job may begin: never refused, or room came back, or it waited for long."""
        refusal = self._refused.get(job)
        if refusal is None:
            return True
        pause = min(AGAIN_S[1], AGAIN_S[0] * 2 ** (refusal.times - 1))
        grown = self.free() >= refusal.free + GROWN
        return grown or time.monotonic() - refusal.at_s > pause

    def forget(self, job: str) -> None:
        """Note that a job has ended."""
        self._refused.pop(job, None)
