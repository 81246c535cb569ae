"""A few captured frames -> where the level metric world lies in the capture's own frame.

Up comes from the capture's `up`, the cameras and the level surfaces (`poses.gravity`); the floor
below the first camera becomes z = 0, the first camera stands above the origin and looks along X.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worldloom.generator.poses.gravity import Up, estimate_up
from worldloom.generator.seed import SCALE_SCHEMA
from worldloom.generator.video.frame import Frame
from worldloom.scene.cameras import unproject
from worldloom.scene.errors import InvalidRequest
from worldloom.scene.frame import level_from_up, rigid
from worldloom.scene.request import ScaleHint

UP_SIGMA_DEG = 0.5  # What the gravity sensor of a phone is off by.
DEPTH_SIGMA, POSES_SIGMA = 0.01, 0.03  # Relative errors of captured depth and captured poses.
HINT_SIGMA = 0.02  # Relative error of a height or distance that a person measures.
LOWEST_PERCENT = 1.0  # Of the heights that are seen: what stands in for a floor nobody saw.
LEAST_HEIGHT_M = 0.05  # A camera lower than this above its floor stands on no floor.


@dataclass(frozen=True)
class Placement:
    """How the capture lies in the world."""

    rotation: NDArray[np.float64]
    """From the capture's axes to the world's, [3 3]."""
    origin: NDArray[np.float64]
    """Centre of the first camera in the capture's frame [its unit], [3]."""
    height: float
    """Height of the first camera above the floor in the world [m]."""
    factor: float
    """Metres in one unit of the capture."""
    scale: dict
    """The content of scale.json (architecture page, section 2)."""
    notes: tuple[str, ...]
    """What the user should know, one sentence each."""

    def place(self, c2w: NDArray[np.float64]) -> NDArray[np.float64]:
        """Cameras [n 4 4] of the capture as cameras of the world."""
        centres = self.factor * (c2w[:, :3, 3] - self.origin) @ self.rotation.T
        centres[:, 2] += self.height
        return rigid(self.rotation @ c2w[:, :3, :3], centres)


def place_capture(
    frames: Sequence[Frame],
    *,
    up: NDArray[np.float64] | None,
    hint: ScaleHint | None,
    source: str,
    pixel_scale: tuple[float, float] = (1.0, 1.0),
) -> Placement:
    """Find up, floor and scale.

    Args:
        frames: Some frames in the capture's own frame, the first one first.
        up: Up in the capture's frame, [3], where the capture says.
        hint: What the user knows of the size; it corrects captures without true metres.
        source: Where the metres come from: `capture-depth` or `capture-poses`.
        pixel_scale: Frame pixels per pixel of the hint, in x and y.

    Raises:
        InvalidRequest: The cameras' up axes cancel out, or a pixel of the hint shows no surface.
    """
    notes: list[str] = []
    found = estimate_up(frames, prior=None if up is None else (up, UP_SIGMA_DEG))
    first = np.asarray(frames[0].c2w, float)
    rotation = level_from_up(first[:3, :3].T @ found.direction) @ first[:3, :3].T
    height = _height(frames, found, notes)
    factor, sigma, sources = _factor(frames[0], height, hint, source, pixel_scale)
    scale = {
        "schema": SCALE_SCHEMA,
        "value": factor,
        "sigma": sigma,
        "sources": sources,
        "status": "calibrated",
        "up_in_photo_camera": (first[:3, :3].T @ found.direction).tolist(),
        "level_rms_deg": round(float(found.sigma_deg), 3),
    }
    return Placement(rotation, first[:3, 3], factor * height, factor, scale, tuple(notes))


def _height(frames: Sequence[Frame], up: Up, notes: list[str]) -> float:
    """Height of the first camera above its floor [unit]."""
    centre = np.asarray(frames[0].c2w, float)[:3, 3]
    if up.floor is not None and (height := up.floor.height(centre)) > LEAST_HEIGHT_M:
        return height
    heights = [
        unproject(frame.depth, frame.K, frame.c2w)[frame.depth > 0] @ up.direction
        for frame in frames
    ]
    lowest = float(np.percentile(np.concatenate(heights), LOWEST_PERCENT))
    notes.append(
        "no floor was seen below the first camera; z = 0 is the lowest surface that was seen"
    )
    return max(float(centre @ up.direction) - lowest, LEAST_HEIGHT_M)


def _factor(
    first: Frame,
    height: float,
    hint: ScaleHint | None,
    source: str,
    pixel_scale: tuple[float, float],
) -> tuple[float, float, list[dict[str, float | str]]]:
    """Metres per unit of the capture, its relative sigma, and what it rests on."""
    sigma = DEPTH_SIGMA if source == "capture-depth" else POSES_SIGMA
    sources: list[dict[str, float | str]] = [{"name": source, "value": 1.0, "sigma": sigma}]
    if hint is not None and hint.camera_height_m is not None:
        value = hint.camera_height_m / height
        sources.insert(0, {"name": "camera-height", "value": value, "sigma": HINT_SIGMA})
    if hint is not None and hint.pixels is not None and hint.distance_m is not None:
        length = _length(first, np.asarray(hint.pixels, float) * pixel_scale)
        value = hint.distance_m / length
        sources.insert(0, {"name": "pixel-distance", "value": value, "sigma": 2 * HINT_SIGMA})
    return float(sources[0]["value"]), float(sources[0]["sigma"]), sources


def _length(frame: Frame, pixels: NDArray[np.float64]) -> float:
    """Distance between the surfaces at two pixels [2 2] of a frame [unit]."""
    rows, columns = np.floor(pixels[:, 1]).astype(int), np.floor(pixels[:, 0]).astype(int)
    height, width = frame.depth.shape
    inside = ((rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)).all()
    if not inside or not (frame.depth[rows, columns] > 0).all():
        raise InvalidRequest(
            f"the scale hint's pixels {pixels.round(1).tolist()} are not both on surfaces with a "
            f"depth in the first frame ({width} x {height} px as it is used); choose others",
            field="scale",
        )
    points = unproject(frame.depth, frame.K, frame.c2w)[rows, columns]
    return max(float(np.linalg.norm(points[1] - points[0])), 1e-6)
