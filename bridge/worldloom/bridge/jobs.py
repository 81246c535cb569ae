"""The life of a job as a pure state machine: which state may follow which, and why."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Literal

from worldloom.scene.errors import Conflict

JobState = Literal["queued", "running", "done", "failed", "cancelled"]
KINDS = ("seed", "generate", "extend", "revert")
TERMINAL: tuple[JobState, ...] = ("done", "failed", "cancelled")
NEXT: dict[JobState, tuple[JobState, ...]] = {
    "queued": ("running", "cancelled", "failed"),
    "running": ("done", "failed", "cancelled", "queued"),
    "done": (),
    "failed": (),
    "cancelled": (),
}
HIGHEST = 10
"""Priorities go from minus this to this."""
MAX_RETRIES = 2
"""Automatic retries of the same chunk before a job fails (spec bridge 8.2)."""


@dataclass(frozen=True)
class Job:
    """One job of one owner."""

    name: str
    owner: str
    kind: str
    engine: str
    request_hash: str
    request_json: str
    parent: str
    """Name of the job whose world is extended or reverted; empty for fresh worlds."""
    state: JobState = "queued"
    cancel_requested: bool = False
    error_code: str = ""
    error_text: str = ""
    error_field: str = ""
    created_unix_s: float = 0.0
    priority: int = 0
    """-10 to 10; it orders the queue and means nothing for the result."""
    engine_key: str = ""
    """What makes the world besides the request: version and preset. Results of another key are
    never given for this one."""

    @property
    def work_name(self) -> str:
        """Name of the job's work folder: jobs that ask for the same share it.

        A job that failed or was cancelled is thus continued by the next one that asks again.
        """
        parts = (self.owner, self.kind, self.parent, self.request_hash, self.engine_key)
        content = "\n".join(parts)
        return hashlib.sha256(content.encode()).hexdigest()[:32]

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen."""
        return self.state in TERMINAL


def moved(job: Job, state: JobState, *, code: str = "", text: str = "", field: str = "") -> Job:
    """The job in its next state.

    Raises:
        Conflict: That state may not follow the present one.
    """
    if state not in NEXT[job.state]:
        raise Conflict(f"job {job.name} is {job.state}; it cannot become {state}")
    return replace(job, state=state, error_code=code, error_text=text, error_field=field)


def retry_allowed(failures: int) -> bool:
    """Whether a chunk that failed this often at the same place may be tried again."""
    return failures <= MAX_RETRIES
