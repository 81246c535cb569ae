"""Heights on a grid -> the ground under a footprint: its plane, its steps, its noise (numba).

Slope is that of a plane fitted over the robot's footprint, never of a triangle: on a generated
mesh single triangles tilt by tens of degrees while the floor is level (spec navigation 0.4).
"""

from __future__ import annotations

from dataclasses import dataclass

import numba as nb
import numpy as np
from numpy.typing import NDArray

NOISE_SIGMAS = 6.5
"""A rise counts as a step only above this many sigmas of the floor's own noise. A room has some
10^4 mesh vertices, each a 4.5-sigma event away from being an obstacle, and heights between
vertices, from which sigma is taken, vary by only 0.7 of what the vertices do."""
MAX_CLIMB_M = 0.10  # However noisy the floor is, a rise of this much is an obstacle [m].
SLOPE_SLACK = 1.5  # Samples as steep as this times the limit still belong to one surface.
MIN_DISC_M = 0.2  # Slope is measured over a disc of at least this radius, or noise decides [m].
SMOOTH_M = 0.12  # Width of the median that takes out single vertices of noise [m].
STEP_RUN_M = 0.05  # A rise within this length is a step; over more it is a slope [m].
MIN_SAMPLES = 6  # A plane has three unknowns; with fewer samples it only follows the noise.


@dataclass(frozen=True)
class Ground:
    """What is under the robot when its centre is over a cell; arrays are [ny nx]."""

    plane: NDArray[np.float32]
    """Height of the footprint plane at the cell centre [m]; NaN where there is no surface."""
    slope: NDArray[np.float32]
    """Gradient of that plane (rise over run); infinite where it cannot be fitted."""
    edge: NDArray[np.bool_]
    """Cells on either side of a rise or drop that the robot cannot take."""
    noise_m: float
    """Robust sigma of the surface about its own footprint planes [m]."""
    climb_m: float
    """Rise above the plane from which something is an obstacle [m]."""


def fit_ground(
    z: NDArray[np.float32], *, radius: float, cell: float, max_step: float, max_slope_deg: float
) -> Ground:
    """Fit the ground for a robot.

    Args:
        z: Highest surface of the floor at each cell centre [m], NaN = none, [ny nx].
        radius: Of the footprint [m].
        cell: Side of a cell [m].
        max_step: Highest step that the robot takes [m].
        max_slope_deg: Steepest floor that it takes [degrees].
    """
    known = ~np.isnan(z)
    if not known.any():
        nothing = np.full(z.shape, np.nan, np.float32)
        none = np.zeros(z.shape, bool)
        return Ground(nothing, np.full(z.shape, np.inf, np.float32), none, 0.0, max_step)
    smooth = _smooth(z, known, cell)
    gradient = float(np.tan(np.radians(max_slope_deg)))
    first = climb_above_noise(max_step, _sigma((z - smooth)[known]))
    reach = max(radius, MIN_DISC_M) / cell
    plane, slope = _fit_planes(
        np.where(known, z, 0.0).astype(np.float64), smooth, known, reach, cell,
        first, SLOPE_SLACK * gradient,
    )  # fmt: skip
    noise = _sigma((z - plane)[known])
    climb = climb_above_noise(max_step, noise)
    plane[~known] = np.nan
    return Ground(
        plane=plane.astype(np.float32),
        slope=slope.astype(np.float32),
        edge=_edges(smooth, known, cell, climb, gradient),
        noise_m=noise,
        climb_m=climb,
    )


def climb_above_noise(max_step: float, noise: float) -> float:
    """Rise from which something is an obstacle, given a floor's noise [m]."""
    return max(max_step, min(NOISE_SIGMAS * noise, MAX_CLIMB_M))


def fill_nearest(values: NDArray[np.float32], known: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Values [ny nx] with those of the nearest known cell where there is none."""
    from scipy.ndimage import distance_transform_edt

    rows, columns = distance_transform_edt(
        ~known, return_distances=False, return_indices=True
    )
    return values[rows, columns].astype(np.float64)


def _smooth(
    z: NDArray[np.float32], known: NDArray[np.bool_], cell: float
) -> NDArray[np.float64]:
    """Median heights: single vertices of noise go, steps stay sharp."""
    from scipy.ndimage import median_filter

    window = max(3, 2 * round(0.5 * SMOOTH_M / cell) + 1)
    return median_filter(fill_nearest(z, known), window, mode="nearest")


def _sigma(residual: NDArray[np.floating]) -> float:
    """Standard deviation from the median of absolute values, which obstacles cannot sway."""
    return float(1.4826 * np.median(np.abs(residual)))


def _edges(
    smooth: NDArray[np.float64], known: NDArray[np.bool_], cell: float, climb: float,
    gradient: float,
) -> NDArray[np.bool_]:  # fmt: skip
    """Cells in which, or between which, the ground rises too much for its length."""
    edge = np.zeros(smooth.shape, bool)
    for run in range(1, max(1, round(STEP_RUN_M / cell)) + 1):
        # A rise within several cells is marked in their middle: its foot and top are drivable.
        middle = (run // 2, (run + 1) // 2)
        for axis in (0, 1):
            # Transposed views, so that both directions are one piece of code.
            heights, there, marks = (np.moveaxis(a, axis, 0) for a in (smooth, known, edge))
            count = len(heights) - run
            rise = np.abs(heights[run:] - heights[:-run])
            step = there[run:] & there[:-run] & (rise > max(climb, run * cell * gradient))
            for offset in middle:
                marks[offset : offset + count] |= step
    return edge


@nb.njit(cache=True)
def _fit_planes(z, centre, known, reach, cell, climb, gradient):
    """Plane under a disc around every known cell, from the samples of the same surface.

    A sample belongs to the centre's surface when one could drive there from the centre: within
    `climb` plus `gradient` times its distance. Boxes beside the floor and floors below a drop
    therefore do not tilt the plane.
    """
    rows, columns = z.shape
    plane = centre.copy()
    slope = np.full(z.shape, np.inf)
    span = int(np.floor(reach))
    for j in range(rows):
        for i in range(columns):
            if not known[j, i]:
                continue
            n = sx = sy = sz = sxx = syy = sxy = sxz = syz = 0.0
            for v in range(max(0, j - span), min(rows, j + span + 1)):
                for u in range(max(0, i - span), min(columns, i + span + 1)):
                    x, y = float(u - i), float(v - j)
                    away = x * x + y * y
                    if away > reach * reach or not known[v, u]:
                        continue
                    h = z[v, u] - centre[j, i]
                    if abs(h) > climb + gradient * np.sqrt(away) * cell:
                        continue
                    n += 1.0
                    sx += x
                    sy += y
                    sz += h
                    sxx += x * x
                    syy += y * y
                    sxy += x * y
                    sxz += x * h
                    syz += y * h
            if n < MIN_SAMPLES:
                continue
            mx, my, mz = sx / n, sy / n, sz / n
            cxx, cyy, cxy = sxx / n - mx * mx, syy / n - my * my, sxy / n - mx * my
            det = cxx * cyy - cxy * cxy
            if det < 1e-3:
                continue
            cxz, cyz = sxz / n - mx * mz, syz / n - my * mz
            gx, gy = (cxz * cyy - cyz * cxy) / det, (cyz * cxx - cxz * cxy) / det
            plane[j, i] = centre[j, i] + mz - gx * mx - gy * my
            slope[j, i] = np.hypot(gx, gy) / cell
    return plane, slope
