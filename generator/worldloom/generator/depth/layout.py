"""RGB [h w 3] and maybe a focal length -> horizon, floor, sky: the layout of a single view.

The horizon comes from straight edges (orientation), the floor and the sky from appearance
(regions). Nothing here is learned and nothing was fitted to a photo.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worldloom.generator.depth.cues import find_looks
from worldloom.generator.depth.geometry import ground_inverse
from worldloom.generator.depth.grid import colour_features
from worldloom.generator.depth.orientation import Orientation, find_orientation
from worldloom.generator.depth.regions import find_floor, find_sky
from worldloom.generator.depth.resample import nearest, resize
from worldloom.generator.depth.room import OpenFloor, open_floor
from worldloom.generator.depth.segments import Segments, find_segments
from worldloom.scene.cameras import pixel_rays

LAYOUT_SIDE = 256  # Longer side at which regions are found [px]: 0.2 to 0.3 degrees a pixel.
ROOM_SIDE = 96  # Longer side at which the open floor is searched [px].
SEGMENT_SIDE = 800  # Longer side at which edges are found [px].


@dataclass(frozen=True)
class Layout:
    """Where the parts of a view are."""

    up: NDArray[np.float64]
    """World up in OpenCV camera axes, unit length, shape [3]."""
    axes: NDArray[np.float64]
    """Up and the two horizontal directions that edges follow, in camera axes, shape [3 3]."""
    K: NDArray[np.float64]
    """Intrinsics [3 3] in pixels of the image; those given, or those that fit best."""
    floor: NDArray[np.bool_]
    """Pixels that show the floor, shape [h w]."""
    sky: NDArray[np.bool_]
    """Pixels that show the sky, shape [h w]."""
    clear: bool
    """Whether floor and rest look so different that the floor surely ends at walls."""
    support: float
    """Share of edge length that agrees with `up`, 0..1: how far the horizon can be trusted."""

    @property
    def pitch_deg(self) -> float:
        """Elevation of the viewing direction [degrees]; negative looks down."""
        return float(np.degrees(np.arcsin(np.clip(self.up[2], -1, 1))))

    def ground_inverse(self) -> NDArray[np.float64]:
        """Inverse z-depth [h w] of a floor one unit below; negative above the horizon."""
        return ground_inverse(self.K, self.up, *self.floor.shape)


def estimate_layout(
    rgb: NDArray[np.floating],
    *,
    K: NDArray[np.floating] | None = None,
    detail: NDArray[np.floating] | None = None,
) -> Layout:
    """Layout of a photo.

    Args:
        rgb: sRGB colours in 0..1, shape [h w 3].
        K: Intrinsics [3 3] in its pixels; None lets straight edges and a usual lens decide.
        detail: The same view at a higher resolution, for its edges, shape [h' w' 3].
    """
    height, width = rgb.shape[:2]
    segments = _segments(rgb if detail is None else detail, width, height)
    focal = None if K is None else float(np.sqrt(K[0, 0] * K[1, 1]))
    centre = None if K is None else (float(K[0, 2]), float(K[1, 2]))
    found = find_orientation(segments, width, height, focal_px=focal, centre_px=centre)
    if K is None:
        f = found.focal_px
        K = np.array([[f, 0, width / 2], [0, f, height / 2], [0, 0, 1.0]])
    K = np.asarray(K, float)
    small = reduced(width, height, LAYOUT_SIDE)
    K_small = K * np.array([[small[0] / width], [small[1] / height], [1.0]])
    ground = ground_inverse(K_small, found.up, small[1], small[0])
    looks = find_looks(rgb, found.axes, K_small, *small)
    room = _open_floor(rgb, K, found)
    inside = nearest(room.inside, *small)
    floor = find_floor(looks, colour_features(rgb, *small), ground, inside, clear=room.clear)
    sky = find_sky(rgb, ground, *small) & (floor < 0.5)
    return Layout(
        up=found.up,
        axes=found.axes,
        K=K,
        floor=_enlarge(floor, width, height) & (ground_inverse(K, found.up, height, width) > 0),
        sky=_enlarge(sky, width, height),
        clear=room.clear,
        support=found.support,
    )


def _open_floor(
    rgb: NDArray[np.floating], K: NDArray[np.floating], found: Orientation
) -> OpenFloor:
    """The rectangle of open floor, at a size where thousands of rectangles can be compared."""
    height, width = rgb.shape[:2]
    size = reduced(width, height, ROOM_SIDE)
    K_small = K * np.array([[size[0] / width], [size[1] / height], [1.0]])
    looks = find_looks(rgb, found.axes, K_small, *size)
    ground = ground_inverse(K_small, found.up, size[1], size[0])
    classes = (looks.colour, looks.texture, looks.upright)
    return open_floor(classes, pixel_rays(K_small, *size), ground, found.axes)


def reduced(width: int, height: int, long_side: int) -> tuple[int, int]:
    """Width and height with at most `long_side` on the longer side."""
    shrink = min(1.0, long_side / max(width, height))
    return max(24, round(width * shrink)), max(24, round(height * shrink))


def _segments(detail: NDArray[np.floating], width: int, height: int) -> Segments:
    """Straight edges of the view in pixels of an image of `height` x `width`."""
    size = reduced(detail.shape[1], detail.shape[0], SEGMENT_SIDE)
    grey = resize(detail, *size) @ np.array([0.299, 0.587, 0.114], np.float32)
    found = find_segments(grey)
    back = np.array([width / size[0], height / size[1]])
    return Segments(found.start * back, found.end * back)


def _enlarge(share: NDArray, width: int, height: int) -> NDArray[np.bool_]:
    return resize(share.astype(np.float32), width, height) > 0.5
