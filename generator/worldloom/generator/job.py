"""One run of make_world: what it was given, and what it tells of its progress."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from worldloom.generator.engines import Engine
from worldloom.generator.grow import Recipe
from worldloom.generator.parent import Parent
from worldloom.generator.publish import Emit, Publisher
from worldloom.generator.seams import Opening
from worldloom.scene.cameras import Cameras
from worldloom.scene.events import Progress
from worldloom.scene.path import CHUNK_FRAMES
from worldloom.scene.request import WorldRequest

T = TypeVar("T")

SURE_FRAMES = 20  # Frames after which the rate of a run is worth telling.


@dataclass
class Job:
    """One run of make_world: what it was given and what it needs to report."""

    request: WorldRequest
    engine: Engine
    opening: Opening
    publisher: Publisher
    work: Path
    emit: Emit
    cancelled: Callable[[], bool]
    cameras: Cameras
    """Cameras of all frames that this request adds, the first one included."""
    parent: Parent | None = None
    """The world that this request extends or reverts."""
    started: float = field(default_factory=time.monotonic)
    times: dict[str, float] = field(default_factory=dict)
    resumed_frames: int = 0
    """Frames that an earlier run of this job had made."""

    @property
    def first_revision(self) -> int:
        """Revision that this request starts from: 0, or the parent's last one."""
        return 0 if self.parent is None else self.parent.revision

    @property
    def recipe(self) -> Recipe:
        """How keyframes become geometry in this job."""
        level = self.engine.qualities[self.request.quality]
        budget = self.request.output.collider_triangles
        return Recipe(level, budget, self.engine.flatten_floor_m, self.engine.belief)

    @property
    def chunks(self) -> int:
        """Chunks of 80 frames that the path asks for."""
        return (self.cameras.n - 1) // CHUNK_FRAMES

    def timed(self, stage: str, run: Callable[[], T]) -> T:
        """What `run` returns; its time is added to that of `stage`."""
        start = time.monotonic()
        result = run()
        self.times[stage] = self.times.get(stage, 0.0) + time.monotonic() - start
        return result

    def report(self, stage: str, done: int, total: int, unit: str, frames: int) -> None:
        """Emit progress with the time left, from the rate of this run so far."""
        spent = time.monotonic() - self.started
        made, left = frames - self.resumed_frames, self.cameras.n - 1 - frames
        # The keyframes of a chunk come first, so its first frames tell nothing of the rate.
        eta = round(spent * left / made, 1) if made >= SURE_FRAMES else None
        self.emit(Progress(stage, done, total, unit, eta_s=eta))
