"""The seams of the generator: what a frame model is and what opening an engine returns.

Lyra 2.0, `preview` and `truth` differ only behind these; the loop around them is one
(architecture page 3.3).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from worldloom.generator.seed import Seed
from worldloom.scene.cameras import Cameras

if TYPE_CHECKING:
    from worldloom.generator.memory.cache import FrameCache
    from worldloom.generator.video.frame import Frame


class FrameModel(Protocol):
    """Makes the frames of a path, chunk by chunk, out of what the memory holds."""

    def first(self) -> Frame:
        """Frame 0: the photo itself with its depth."""
        ...

    def chunk(
        self,
        cameras: Cameras,
        cache: FrameCache,
        *,
        on_frame: Callable[[Frame], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> list[Frame]:
        """Frames at `cameras`, remembering the keyframes in `cache`.

        Every frame goes to `on_frame` in order; the keyframes are also returned. Nothing but the
        cache is carried from one chunk to the next.

        Raises:
            JobCancelled: `cancelled` became true.
        """
        ...


@dataclass(frozen=True)
class Opening:
    """An engine that is ready to go."""

    seed: Seed
    """The photo as a level metric scene: what everything else stands on."""
    model: FrameModel
