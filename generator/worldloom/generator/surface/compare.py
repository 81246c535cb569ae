"""Two surfaces -> how well they agree: accuracy, completeness and F-score at a distance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worldloom.scene.mesh import TriMesh


@dataclass(frozen=True)
class SurfaceScore:
    """Agreement of an estimated surface with the true one."""

    accuracy: float
    """Share of the estimate that lies within the threshold of the truth."""
    completeness: float
    """Share of the truth that the estimate covers within the threshold."""
    f_score: float
    """Harmonic mean of the two."""
    threshold: float
    """Distance [m]."""


def sample_surface(mesh: TriMesh, count: int, seed: int) -> NDArray[np.float64]:
    """Points [count 3] spread evenly over the area of a mesh."""
    area = mesh.areas()
    rng = np.random.default_rng(seed)
    face = rng.choice(len(area), count, p=area / area.sum())
    a, b = rng.random((2, count, 1))
    flip = a + b > 1
    a, b = np.where(flip, 1 - a, a), np.where(flip, 1 - b, b)
    corner = mesh.corners()[face]
    return corner[:, 0] + a * (corner[:, 1] - corner[:, 0]) + b * (corner[:, 2] - corner[:, 0])


def score_surface(
    estimate: NDArray[np.floating], truth: NDArray[np.floating], threshold: float
) -> SurfaceScore:
    """Compare two dense samplings [n 3] and [m 3] of surfaces in the same frame [m]."""
    from scipy.spatial import cKDTree

    to_truth, _ = cKDTree(truth).query(estimate, distance_upper_bound=threshold)
    to_estimate, _ = cKDTree(estimate).query(truth, distance_upper_bound=threshold)
    accuracy = float(np.isfinite(to_truth).mean())
    completeness = float(np.isfinite(to_estimate).mean())
    total = accuracy + completeness
    f_score = 2 * accuracy * completeness / total if total else 0.0
    return SurfaceScore(accuracy, completeness, f_score, threshold)
