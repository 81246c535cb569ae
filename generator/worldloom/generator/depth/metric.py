"""Relative inverse depth -> inverse depth in camera heights, and the camera height -> metres.

A network's answer d relates to inverse depth by 1/z = a d + b. On floor pixels 1/z is known up to
the camera height from the horizon alone, and it is 0 at the horizon: that gives both a and b.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worldloom.generator.depth.layout import Layout
from worldloom.scene.request import ScaleHint

USUAL_HEIGHT_M, USUAL_HEIGHT_SIGMA = 1.4, 0.3
"""Camera height when nobody tells it: hand-held between a sitting and a standing person's eyes
(1.1 to 1.7 m); relative sigma."""
HINT_SIGMA = 0.02  # Relative error of a height or distance that a person measures.
SUPPLIED_SIGMA = 0.01  # Relative error granted to a supplied metric depth.
LEAST_FLOOR_SHARE = 0.02  # Share of floor pixels that still pins a line fit.
FARTHEST_HEIGHTS = 60.0  # Inverse depths are held above that of this many camera heights.


@dataclass(frozen=True)
class Scale:
    """How metres came about: the content of scale.json except for the levels."""

    value: float
    """Metres per unit of the depth before scaling."""
    sigma: float
    """Relative standard deviation of `value`."""
    status: str
    """`calibrated`, `estimated` or `unknown`."""
    sources: tuple[dict[str, float | str], ...]
    """Each source as name, value [m] and relative sigma."""


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
    points: NDArray[np.floating], height: float, hint: ScaleHint | None, *, metric: bool
) -> Scale:
    """Metres per unit, from the best evidence there is.

    Args:
        points: Camera-frame points of the two hinted pixels, shape [2 3], in units; may be empty.
        height: Camera height above the fitted floor in units.
        hint: What the user knows.
        metric: Whether the units are metres already, from a supplied depth map.
    """
    sources: list[dict[str, float | str]] = []
    if metric:
        sources.append({"name": "supplied-depth", "value": 1.0, "sigma": SUPPLIED_SIGMA})
    if hint is not None and hint.camera_height_m is not None:
        value = hint.camera_height_m / max(height, 1e-9)
        sources.append({"name": "camera-height", "value": value, "sigma": HINT_SIGMA})
    if hint is not None and hint.distance_m is not None and len(points) == 2:
        length = float(np.linalg.norm(points[1] - points[0]))
        value = hint.distance_m / max(length, 1e-9)
        sources.append({"name": "pixel-distance", "value": value, "sigma": 2 * HINT_SIGMA})
    if sources:
        best = sources[0]
        return Scale(float(best["value"]), float(best["sigma"]), "calibrated", tuple(sources))
    value = USUAL_HEIGHT_M / max(height, 1e-9)
    prior = {"name": "usual-camera-height", "value": value, "sigma": USUAL_HEIGHT_SIGMA}
    return Scale(value, USUAL_HEIGHT_SIGMA, "unknown", (prior,))
