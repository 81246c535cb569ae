"""Frames of the pipeline -> splats by a Gaussian head: `Da3Lifter` behind the pipeline's seam."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worldloom.generator.depth.da3.lifter import Da3Lifter
from worldloom.generator.video.frame import Frame
from worldloom.scene.splats import Splats

WINDOW_VIEWS = 40
"""Frames of a window: attention grows with their square (spec reconstruction 1.8, 8 row 2)."""


@dataclass(frozen=True)
class WindowLifter:
    """A lifter that takes the frames of one chunk at once."""

    lifter: Da3Lifter
    views: int = WINDOW_VIEWS

    def __call__(self, frames: Sequence[Frame]) -> Splats:
        """Splats in the world; arguments and errors as `seams.SplatLifter`."""
        return self.lifter.lift(*_arrays(frames), depth=_known(frames))

    def track(self, frames: Sequence[Frame]) -> NDArray[np.float64]:
        """The network's own cameras; arguments and errors as `seams.SplatLifter`."""
        return self.lifter.track(*_arrays(frames), depth=_known(frames))


def _arrays(frames: Sequence[Frame]) -> tuple[NDArray, NDArray, NDArray]:
    """Pictures [v h w 3], cameras [v 4 4] and intrinsics [v 3 3]."""
    return (
        np.stack([frame.rgb for frame in frames]),
        np.stack([frame.c2w for frame in frames]),
        np.stack([frame.K for frame in frames]),
    )


def _known(frames: Sequence[Frame]) -> dict[int, NDArray[np.float32]]:
    """Depth by number of the view, where there is any."""
    return {i: frame.depth for i, frame in enumerate(frames) if (frame.depth > 0).any()}
