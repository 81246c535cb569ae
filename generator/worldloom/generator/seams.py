"""The seams of the generator: what a frame model is and what opening an engine returns.

Lyra 2.0, `preview` and `truth` differ only behind these; the loop around them is one
(architecture page 3.3).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from worldloom.generator.seed import Seed
from worldloom.scene.cameras import Cameras
from worldloom.scene.splats import Splats

if TYPE_CHECKING:
    from worldloom.generator.memory.cache import FrameCache
    from worldloom.generator.video.frame import Frame


class FrameModel(Protocol):
    """Makes the frames of a path, chunk by chunk, out of what the memory holds.

    What a model carries beside the memory it keeps and recalls itself, with every checkpoint.
    """

    def first(self) -> Frame:
        """Frame 0: the photo itself with its depth."""
        ...

    def chunk(
        self,
        cameras: Cameras,
        cache: FrameCache,
        *,
        on_frame: Callable[[Frame], None] | None = None,
        on_step: Callable[[int, int], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> list[Frame]:
        """Frames at `cameras`, remembering the keyframes in `cache`.

        Every frame goes to `on_frame` in order; the keyframes are also returned. A model whose
        frames come all at once tells `on_step` its steps and their total before.

        Raises:
            JobCancelled: `cancelled` became true.
        """
        ...

    def keep(self, folder: Path) -> None:
        """Write into `folder` what the next chunk needs beside the memory, if anything."""
        ...

    def recall(self, folder: Path) -> None:
        """Go on from what `keep` wrote into `folder`.

        Raises:
            CorruptData: It cannot be read.
        """
        ...


class SplatLifter(Protocol):
    """Makes splats of a window of frames, as Lyra's Gaussian head does."""

    views: int
    """Most frames of a window."""

    def __call__(self, frames: Sequence[Frame]) -> Splats:
        """Splats in the world of frames with cameras; depth above 0 tells the scale.

        Raises:
            EngineFailed: The frames cannot be used.
        """
        ...

    def track(self, frames: Sequence[Frame]) -> NDArray[np.float64]:
        """Cameras to world [v 4 4] that the frames seem to have, the first as it is given.

        Depth and cameras of the frames tell the scale only.

        Raises:
            EngineFailed: The frames cannot be used.
        """
        ...


@dataclass(frozen=True)
class Opening:
    """An engine that is ready to go."""

    seed: Seed
    """The photo as a level metric scene: what everything else stands on."""
    model: FrameModel
    cameras: Cameras | None = None
    """Cameras of all frames, 1 + 80 n, where the input has its own; None resolves the request's
    path from the seed's camera."""
    lifter: SplatLifter | None = None
    """Makes the splats of a chunk; None: every pixel of a keyframe becomes a disc."""
