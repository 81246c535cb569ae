"""Which heights of a collider are floors, and how level they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worldloom.scene.mesh import TriMesh

BIN_M = 0.05
MIN_FLOOR_M2 = 0.5
"""Level area below which a height is furniture, not a floor [m^2]."""
UPRIGHT = 0.9  # z of a unit normal that counts as level; noise tilts single faces.
MIN_STOREY_M = 1.5
"""Floors of one building lie further apart than this; table tops and car roofs do not [m]."""
INLIER_M = 0.01  # A face this near to a plane belongs to it [m].
POINTS, TRIES = 4000, 300
"""Points that stand for the floor, and planes through three of them that are tried."""
SHARE_OF_LARGEST = 0.1  # A floor has at least this share of the largest floor's area.


@dataclass(frozen=True)
class LevelFit:
    """How level the dominant floor is."""

    height: float
    """Its height [m]."""
    tilt_deg: float
    """Its tilt against the horizontal [degrees]."""
    rms_m: float
    """Deviation of the surface from that plane [m]."""


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
    """The plane that holds most of the floor near a height.

    Steps, kerbs and thresholds lie in the same band as the floor, and a least-squares plane over
    all of them would lean from one to the other; so the plane with the largest area within
    INLIER_M wins, and only that area is fitted.
    """
    points = _points_near(mesh, height)
    if len(points) < 3:
        return LevelFit(height, 90.0, 0.0)
    rng = np.random.default_rng(0)
    corners = points[rng.integers(len(points), size=(TRIES, 3))]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normal *= np.where(normal[:, 2:] < 0, -1.0, 1.0)
    length = np.linalg.norm(normal, axis=1)
    upright = normal[:, 2] > UPRIGHT * np.maximum(length, 1e-12)
    if not upright.any():
        return LevelFit(height, 90.0, 0.0)
    normal, origin = normal[upright] / length[upright, None], corners[upright, 0]
    away = np.abs(points @ normal.T - np.sum(normal * origin, -1))
    inside = away[:, (away < INLIER_M).sum(0).argmax()] < INLIER_M
    basis = np.stack([points[:, 0], points[:, 1], np.ones(len(points))], 1)
    plane, *_ = np.linalg.lstsq(basis[inside], points[inside, 2], rcond=None)
    off = points[:, 2] - basis @ plane
    rms = float(np.sqrt(np.mean(off[np.abs(off) < 2 * BIN_M] ** 2)))
    return LevelFit(height, float(np.degrees(np.arctan(np.hypot(*plane[:2])))), rms)


def _points_near(mesh: TriMesh, height: float) -> NDArray[np.float64]:
    """Points [n 3] spread by area over the level faces near a height."""
    cross = mesh.cross()
    length = np.linalg.norm(cross, axis=1)
    corners = mesh.corners()
    near = (cross[:, 2] > UPRIGHT * np.maximum(length, 1e-30)) & (
        np.abs(corners[..., 2].mean(1) - height) < 2 * BIN_M
    )
    if not near.any():
        return np.zeros((0, 3))
    rng = np.random.default_rng(1)
    face = rng.choice(int(near.sum()), POINTS, p=length[near] / length[near].sum())
    u, v = np.sort(rng.random((2, POINTS)), axis=0)
    weights = np.stack([u, v - u, 1 - v], 1)
    return np.einsum("nk,nkd->nd", weights, corners[near][face])
