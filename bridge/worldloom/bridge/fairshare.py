"""Which waiting job starts next: priority, then owners in turn, then age.

Levels come first: a job's priority, one more for a seed (it is short, and someone looks at it),
and one more whenever it was overtaken for some rounds, so that no job waits for ever. Within a
level the owner with the fewest running jobs comes first, then the one whose last start is longest
ago. Jobs of one owner and level start in the order in which they came. Age is counted in starts
of other jobs and not in seconds, so clocks that jump change nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from worldloom.bridge.jobs import HIGHEST, Job

SEED_BONUS = 1
"""Levels that a seed is above other jobs of its priority."""
ROUNDS_A_LEVEL = 4
"""A job rises by one level when every worker began so many others while it waited."""
TOP = HIGHEST + SEED_BONUS
"""Level above which nothing rises; there, owners simply take turns."""


class FairShare:
    """Chooses jobs and remembers whose turn it was."""

    def __init__(self, *, running_per_owner: int = 0) -> None:
        """Begin with nobody waiting.

        Args:
            running_per_owner: Most jobs of one owner at the same time; 0 for as many as can run.
        """
        self._limit = running_per_owner
        self._starts = 0
        self._seen_at: dict[str, int] = {}
        self._last_start: dict[str, int] = {}

    def choose(self, waiting: Sequence[Job], running: Iterable[Job], slots: int) -> Job | None:
        """The next job to start, if any may; it counts as started.

        Args:
            waiting: All queued jobs, oldest first.
            running: Jobs that have a worker.
            slots: How many can run at the same time.
        """
        busy = Counter(job.owner for job in running)
        self._seen_at = {job.name: self._seen_at.get(job.name, self._starts) for job in waiting}
        allowed = [job for job in waiting if not self._limit or busy[job.owner] < self._limit]
        if not allowed:
            return None
        top = max(self.level(job, slots) for job in allowed)
        best = min(
            (job for job in allowed if self.level(job, slots) == top),
            key=lambda job: (busy[job.owner], self._last_start.get(job.owner, -1)),
        )
        self._last_start[best.owner] = self._starts
        self._starts += 1
        return best

    def level(self, job: Job, slots: int) -> int:
        """How urgent a waiting job is by now."""
        overtaken = self._starts - self._seen_at.get(job.name, self._starts)
        age = overtaken // (ROUNDS_A_LEVEL * max(1, slots))
        return min(TOP, job.priority + SEED_BONUS * (job.kind == "seed") + age)
