"""What a running job tells: progress, finished files, log lines and small previews."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

LogLevel = Literal["debug", "info", "warning", "error"]


@dataclass(frozen=True)
class Progress:
    """How far a stage is; `done` never falls within one stage."""

    stage: str
    """Name of the stage, for people: `seed`, `generate`, `fuse`, `mesh`, `layers`."""
    done: int
    """Units finished in this stage."""
    total: int
    """Units in this stage."""
    unit: str = "frames"
    """What is counted."""
    eta_s: float | None = None
    """Estimated time until the whole job is done [s]; None while unknown."""


@dataclass(frozen=True)
class Artifact:
    """One whole file of the world, already synced to disk."""

    chunk: int
    """Chunk that made it, from 0."""
    kind: str
    """One of `manifest.FILE_KINDS`, or `manifest` for the file that completes a revision."""
    path_in_world: str
    """Where it belongs in a world folder, with forward slashes."""
    file: Path
    """Where the bytes are now."""
    supersedes: str | None = None
    """Path in the world of the file that this one replaces."""


@dataclass(frozen=True)
class Log:
    """One line for the person who watches the job."""

    level: LogLevel
    text: str


@dataclass(frozen=True)
class Preview:
    """A small JPEG of the newest frame; never kept."""

    frame: int
    jpeg: bytes
