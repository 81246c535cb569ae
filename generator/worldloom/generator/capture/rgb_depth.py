"""Posed pictures without depth -> their depth, by Depth Anything 3 with known cameras.

Where none of its weights is on this machine there is no such depth, and the request is refused in
words that help (architecture page 3.3).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from worldloom.generator.weights import catalogue, find_weights, weights_folder
from worldloom.scene.errors import InvalidCapture

DEPTH_WEIGHTS = ("da3-base", "da3-small", "da3-nested", "da3-giant")
"""Weights that make depth of posed pictures; those that may be used commercially come first."""


class CaptureDepth(Protocol):
    """Depth of posed pictures."""

    name: str
    weights: tuple[dict[str, Any], ...]
    """Licence records of its weights."""

    def depth(
        self,
        rgb: Sequence[NDArray[np.float32]],
        c2w: NDArray[np.float64],
        K: NDArray[np.float64],
    ) -> list[NDArray[np.float32]]:
        """z-depth [h w] of each picture in units of the poses, 0 = none (sky)."""
        ...


def capture_depth(folder: Path | None = None) -> CaptureDepth:
    """The best depth network for posed pictures whose weights are present.

    Args:
        folder: Weights folder; the usual one by default.

    Raises:
        InvalidCapture: There are no such weights; names them and the command that gets them.
    """
    known = {entry.name for entry in catalogue()}
    present = [name for name in DEPTH_WEIGHTS if name in known and find_weights(name, folder)]
    if not present:
        raise InvalidCapture(
            "the capture has no depth/ files, and there are no weights to make depth of its "
            f"pictures: one of {', '.join(DEPTH_WEIGHTS)} is needed in {weights_folder(folder)}. "
            "Get them with: worldloom weights convert da3-base FILE; or add depth/00000.png "
            "(16-bit, mm) or .npy (metres) to the capture",
            field="capture",
        )
    from worldloom.generator.capture.da3_depth import open_da3

    return open_da3(present[0], folder)
