"""The sample photo: a real garage with its true depth, shipped inside scikit-image.

Middlebury 2014 stereo, `Motorcycle` at quarter resolution (D. Scharstein et al., GCPR 2014). The
calibration is that data set's `calib.txt`, divided by four as the picture is.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from worldloom.scene.errors import NotFound
from worldloom.scene.request import Intrinsics

FOCAL_PX = 3979.911 / 4
BASELINE_M = 0.193001
OFFSET_PX = 124.343 / 4  # Difference of the two cameras' principal points ("doffs").
CENTRE_PX = (1244.772 / 4, 1019.507 / 4)
CAMERA_HEIGHT_M = 1.08
"""Height of the camera above the garage floor, measured in the true depth."""
PITCH_DEG = 14.9
"""How far the camera looks down, measured in the true depth."""


@dataclass(frozen=True)
class Sample:
    """A photo whose depth and camera are known."""

    photo: Path
    depth: NDArray[np.float32]
    """True z-depth in metres, shape [h w]; 0 where unknown."""
    intrinsics: Intrinsics


def motorcycle() -> Sample:
    """The sample photo with its truth.

    Raises:
        NotFound: scikit-image is not installed, or was installed without its data files.
    """
    folder = _data_folder()
    photo, disparity_file = folder / "motorcycle_left.png", folder / "motorcycle_disp.npz"
    for file in (photo, disparity_file):
        if not file.is_file():
            raise NotFound(f"scikit-image lacks {file.name}; reinstall it, or give another photo")
    with np.load(disparity_file, allow_pickle=False) as data:
        disparity = data[data.files[0]].astype(np.float64)
    known = np.isfinite(disparity) & (disparity > 0)
    depth = np.where(known, FOCAL_PX * BASELINE_M / np.where(known, disparity + OFFSET_PX, 1), 0)
    height, width = depth.shape
    intrinsics = Intrinsics(FOCAL_PX, FOCAL_PX, *CENTRE_PX, width, height)
    return Sample(photo, depth.astype(np.float32), intrinsics)


def _data_folder() -> Path:
    from importlib.util import find_spec

    # Finding the package without importing it keeps its imports out of this process.
    found = find_spec("skimage")
    if found is None or not found.submodule_search_locations:
        raise NotFound(
            "the sample photo is part of scikit-image, which is not installed; "
            "pip install 'worldloom[demo]', or give a photo of your own"
        )
    return Path(next(iter(found.submodule_search_locations))) / "data"
