"""Which heights of a collider are floors, and how level they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from worldloom.scene.mesh import TriMesh

BIN_M = 0.05
MIN_FLOOR_M2 = 0.5
"""Level area below which a height is furniture, not a floor [m^2]."""
UPRIGHT = 0.9  # z of a unit normal that counts as level; noise tilts single faces.
MIN_STOREY_M = 1.5
"""Floors of one building lie further apart than this; table tops and car roofs do not [m]."""
SHARE_OF_LARGEST = 0.1  # A floor has at least this share of the largest floor's area.


@dataclass(frozen=True)
class LevelFit:
    """How level the dominant floor is."""

    height: float
    """Its height [m]."""
    tilt_deg: float
    """Its tilt against the horizontal [degrees]."""
    rms_m: float
    """Deviation of its vertices from its own plane [m], area weighted."""


def find_levels(mesh: TriMesh, robot_height: float) -> list[float]:
    """Heights of floors, lowest first; a storey or the robot's height apart at least."""
    cross = mesh.cross()
    length = np.linalg.norm(cross, axis=1)
    level = cross[:, 2] > UPRIGHT * np.maximum(length, 1e-30)
    if not level.any():
        return []
    height = mesh.corners()[level, :, 2].mean(1)
    area = 0.5 * length[level]
    low = float(height.min())
    index = ((height - low) / BIN_M).astype(int)
    # Neighbouring bins count together, or a floor on a bin's border would be cut in two.
    total = np.convolve(np.bincount(index, area), np.ones(3), mode="same")
    weighted = np.convolve(np.bincount(index, area * height), np.ones(3), mode="same")
    found: list[float] = []
    gap = max(robot_height, MIN_STOREY_M)
    bound = max(MIN_FLOOR_M2, SHARE_OF_LARGEST * total.max())
    for best in np.argsort(-total, kind="stable"):
        if total[best] < bound:
            break
        z = float(weighted[best] / total[best])
        if all(abs(z - other) > gap for other in found):
            found.append(z)
    return sorted(found)


def fit_level(mesh: TriMesh, height: float) -> LevelFit:
    """Plane of the faces near a floor's height, by area-weighted least squares."""
    cross = mesh.cross()
    length = np.linalg.norm(cross, axis=1)
    centre = mesh.corners().mean(1)
    near = (cross[:, 2] > UPRIGHT * np.maximum(length, 1e-30)) & (
        np.abs(centre[:, 2] - height) < 2 * BIN_M
    )
    if not near.any():
        return LevelFit(height, 90.0, 0.0)
    weight = np.sqrt(length[near])
    points = centre[near]
    basis = np.stack([points[:, 0], points[:, 1], np.ones(len(points))], 1)
    plane, *_ = np.linalg.lstsq(basis * weight[:, None], points[:, 2] * weight, rcond=None)
    off = points[:, 2] - basis @ plane
    rms = float(np.sqrt(np.average(off**2, weights=length[near])))
    return LevelFit(height, float(np.degrees(np.arctan(np.hypot(*plane[:2])))), rms)
