"""Relative inverse depth -> inverse depth in camera heights, and the camera height -> metres.

A network's answer d relates to inverse depth by 1/z = a d + b. On floor pixels 1/z is known up to
the camera height from the horizon alone, and it is 0 at the horizon: that gives both a and b.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from worldloom.generator.depth.layout import Layout
from worldloom.generator.poses.scale import (
    HINT_SIGMA,
    SUPPLIED_SIGMA,
    USUAL_HEIGHT_M,
    USUAL_HEIGHT_SIGMA,
    Evidence,
    Scale,
    fuse,
)
from worldloom.scene.request import ScaleHint

LEAST_FLOOR_SHARE = 0.02  # Share of floor pixels that still pins a line fit.
FARTHEST_HEIGHTS = 60.0  # Inverse depths are held above that of this many camera heights.


def align_to_floor(
    relative: NDArray[np.floating], layout: Layout, fallback: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Inverse z-depth [h w] in 1 / camera heights from a relative inverse depth.

    Args:
        relative: The network's answer, shape [h w]; bigger is nearer.
        layout: Horizon and floor of the view.
        fallback: Inverse depth of the layout estimate, used where too little floor is seen.
    """
    ground = layout.ground_inverse()
    use = layout.floor & (ground > 0.02)
    target = ground
    if use.mean() < LEAST_FLOOR_SHARE:
        use, target = ~layout.sky, fallback
    slope, shift = robust_line(target[use], relative[use])
    if slope <= 1e-6 * max(float(np.ptp(relative)), 1e-9):
        slope, shift = robust_line(fallback[~layout.sky], relative[~layout.sky])
    inverse = (relative - shift) / max(slope, 1e-9)
    return np.maximum(inverse, 1.0 / FARTHEST_HEIGHTS)


def robust_line(
    x: NDArray[np.floating], y: NDArray[np.floating], rounds: int = 12
) -> tuple[float, float]:
    """Slope and shift of y = slope x + shift by least absolute deviations, reweighted."""
    x, y = np.asarray(x, float).ravel(), np.asarray(y, float).ravel()
    weight = np.ones_like(x)
    slope, shift = 0.0, float(np.median(y)) if y.size else 0.0
    for _ in range(rounds):
        mass = weight.sum()
        mx, my = weight @ x / mass, weight @ y / mass
        variance = weight @ (x - mx) ** 2
        if variance <= 1e-12:
            return 0.0, shift
        slope = float(weight @ ((x - mx) * (y - my)) / variance)
        shift = float(my - slope * mx)
        residual = np.abs(y - slope * x - shift)
        weight = 1.0 / (residual + 0.1 * np.median(residual) + 1e-9)
    return slope, shift


def choose_scale(
    points: NDArray[np.floating],
    height: float,
    hint: ScaleHint | None,
    *,
    metric: bool,
    network: Evidence | None = None,
) -> Scale:
    """Metres per unit, from the best evidence there is (see `poses.scale.fuse`).

    Args:
        points: Camera-frame points of the two hinted pixels, shape [2 3], in units; may be empty.
        height: Camera height above the fitted floor in units.
        hint: What the user knows.
        metric: Whether the units are metres already, from a supplied depth map.
        network: What a metric depth network says, where it was asked.
    """
    sources: list[Evidence] = []
    if metric:
        sources.append(Evidence("supplied-depth", 1.0, SUPPLIED_SIGMA, "measured"))
    if hint is not None and hint.camera_height_m is not None:
        value = hint.camera_height_m / max(height, 1e-9)
        sources.append(Evidence("camera-height", value, HINT_SIGMA, "told"))
    if hint is not None and hint.distance_m is not None and len(points) == 2:
        length = float(np.linalg.norm(points[1] - points[0]))
        value = hint.distance_m / max(length, 1e-9)
        sources.append(Evidence("pixel-distance", value, 2 * HINT_SIGMA, "told"))
    if network is not None:
        sources.append(network)
    if not any(source.kind in ("told", "measured") for source in sources):
        value = USUAL_HEIGHT_M / max(height, 1e-9)
        sources.append(Evidence("usual-camera-height", value, USUAL_HEIGHT_SIGMA, "prior"))
    return fuse(sources)
