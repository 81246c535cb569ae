"""Numbers of a camera move -> world-to-camera poses in the first camera's axes.

The building blocks of Lyra's camera presets (spec generation 9.1), shared by our presets and by
the released ones. Axes are the first camera's OpenCV axes (x right, y down, z forward). An offset
is in units of the centre depth; a share runs from 0 at the first frame to 1 at the full move.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from worldloom.scene.frame import rigid

Array = NDArray[np.float64]

AXES = {"x": 0, "y": 1, "z": 2}
"""Index of an axis by name."""
BEND_IN, BEND_OUT = 0.04, 0.12
"""Sideways share of a bent move, inwards and outwards (spec generation 9.1, beta)."""
CENTRE_QUANTILE = 0.25
"""Quantile of the valid depth that is the centre depth (spec generation 9.1, c)."""
SPOT_STEP = 2 * np.pi * 0.001
"""Angle a frame [rad] of the tiny circle of the noisy turn on the spot."""
SPOT_RADIUS = 0.1
"""Radius of that circle in units of its noise level."""


def centre_depth(depth: ArrayLike, valid: ArrayLike) -> float:
    """The centre depth: the lower quartile of the valid depths.

    Args:
        depth: Depth along the viewing axis, shape [h w], any unit.
        valid: Where the depth can be trusted (> 0.5 or True), shape [h w].
    """
    depth, valid = np.asarray(depth, float), np.asarray(valid, float) > 0.5
    return float(np.quantile(depth[valid & np.isfinite(depth)], CENTRE_QUANTILE))


def look_at_w2c(eye: ArrayLike, target: ArrayLike, *, raw: bool = False) -> Array:
    """World-to-camera [... 4 4] at `eye` [... 3] looking at `target` [... 3], y staying down.

    Args:
        eye: Camera centres.
        target: What they face; not straight above or below.
        raw: Put the centre itself where the translation belongs, as the released `back` does.
    """
    eye, target = np.broadcast_arrays(np.asarray(eye, float), np.asarray(target, float))
    with np.errstate(invalid="ignore", divide="ignore"):
        forward = target - eye
        forward = forward / np.linalg.norm(forward, axis=-1, keepdims=True)
        right = np.cross([0.0, 1.0, 0.0], forward)
        right = right / np.linalg.norm(right, axis=-1, keepdims=True)
    rotation = np.stack([right, np.cross(forward, right), forward], -2)
    return rigid(rotation, eye if raw else -np.einsum("...ij,...j->...i", rotation, eye))


def circle(
    angle: ArrayLike, radii: Sequence[float], *, sign: float = 1.0, centred: bool = False
) -> Array:
    """Offsets [n 3] on an ellipse at `angle` [n] in radians.

    Args:
        angle: Angles; at 0 the offset is zero, or the end of the x radius when `centred`.
        radii: Radii along x, y and optionally z.
        sign: Side of the ellipse's centre along x: -1 is right. Not used when `centred`.
        centred: Circle around the origin instead of starting there.
    """
    angle = np.asarray(angle, float)
    rx, ry, rz = (*radii, 0.0)[:3]
    x = rx * np.cos(angle) if centred else sign * rx * (np.cos(angle) - 1)
    return np.stack([x, ry * np.sin(angle), rz * np.sin(angle)], -1)


def line(share: ArrayLike, axis: str, distance: float) -> Array:
    """Offsets [n 3] along an axis: `share` [n] of `distance`, which may be negative."""
    out = np.zeros((len(np.asarray(share)), 3))
    out[:, AXES[axis]] = distance * np.asarray(share, float)
    return out


def bent_line(share: ArrayLike, axis: str, bend_axis: str, distance: float) -> Array:
    """Offsets [n 3] along `axis` that drift along `bend_axis` in proportion."""
    beta = BEND_IN if distance >= 0 else BEND_OUT
    return line(share, axis, distance) + line(share, bend_axis, beta * distance)


def jitter(axis: str, noise: ArrayLike, sigma: float) -> Array:
    """Offsets [n 3] of `sigma` times `noise` [n 2] on the two axes other than `axis`."""
    noise = np.asarray(noise, float)
    out = np.zeros((len(noise), 3))
    out[:, [i for name, i in AXES.items() if name != axis]] = sigma * noise
    return out


def facing(
    offsets: Array, depth: float, *, ahead: float = 1.0, outward: float = 0.0, raw: bool = False
) -> Array:
    """Poses [n 4 4] at `offsets` [n 3] facing one point ahead.

    Args:
        offsets: Camera centres in units of `depth`.
        depth: Centre depth.
        ahead: Distance of the faced point in units of `depth`.
        outward: The faced point moves by this multiple of each offset; 2 looks outwards.
        raw: See `look_at_w2c`.
    """
    target = np.array([0.0, 0.0, ahead]) + outward * offsets
    return look_at_w2c(depth * offsets, depth * target, raw=raw)


def gazing(offsets: Array) -> Array:
    """Poses [n 4 4] that stay and look at the point one depth ahead moved by `offsets` [n 3]."""
    return look_at_w2c(np.zeros(3), np.array([0.0, 0.0, 1.0]) + offsets)


def sliding(offsets: Array, depth: float) -> Array:
    """Poses [n 4 4] at `offsets` [n 3] in units of `depth`, never turning."""
    return rigid(np.broadcast_to(np.eye(3), (len(offsets), 3, 3)), -depth * offsets)


def turning(angle_rad: ArrayLike) -> Array:
    """Poses [n 4 4] that turn on the spot to the right by `angle_rad` [n]."""
    return rigid(_turn(angle_rad), np.zeros((len(np.asarray(angle_rad)), 3)))


def turning_noisy(angle_rad: ArrayLike, depth: float, level: float, *, centred: bool) -> Array:
    """Poses [n 4 4] that turn right while the centre creeps on a tiny circle.

    Args:
        angle_rad: Turn of each frame, shape [n].
        depth: Distance of the point that the untouched camera faces.
        level: Noise level; the circle's radius is a tenth of it times `depth`.
        centred: Circle around the origin, as released, instead of starting there.
    """
    steps = SPOT_STEP * np.arange(len(np.asarray(angle_rad)))
    radius = SPOT_RADIUS * level
    offsets = circle(steps, (radius, radius), centred=centred)
    return turning(angle_rad) @ facing(offsets, depth)


def turn_and_move(
    angle_rad: ArrayLike, distance: ArrayLike, *, released: bool = False
) -> Array:
    """Poses [n 4 4] turned right by `angle_rad` [n] and moved by `distance` [n] along the view.

    Args:
        angle_rad: Turn of each frame.
        distance: Way along the turned viewing axis, negative = back.
        released: The released code takes the transposed rotation for the translation, which
            moves 2 x the turn off the viewing axis.
    """
    rotation = _turn(angle_rad)
    centre = rotation[:, 2] * np.asarray(distance, float)[:, None]
    way = np.swapaxes(rotation, -1, -2) if released else rotation
    return rigid(rotation, -np.einsum("nij,nj->ni", way, centre))


def arc(angle_rad: ArrayLike, axis: str, *, sign: float = 1.0) -> Array:
    """Offsets [n 3] on the unit circle around the point one depth ahead.

    Args:
        angle_rad: Angle on the circle, shape [n].
        axis: Where the arc leaves to: "x" or "y".
        sign: 1 goes right or down, -1 left or up.
    """
    angle = np.asarray(angle_rad, float)
    return line(sign * np.sin(angle), axis, 1.0) + line(1 - np.cos(angle), "z", 1.0)


def over(angle_rad: ArrayLike, depth: float) -> Array:
    """Poses [n 4 4] of an orbit upwards by `angle_rad` [n], free of the look-at's pole."""
    angle = np.asarray(angle_rad, float)
    cosine, sine, zero, one = np.cos(angle), np.sin(angle), 0 * angle, 1 + 0 * angle
    rows = [[one, zero, zero], [zero, cosine, -sine], [zero, sine, cosine]]
    rotation = np.stack([np.stack(row, -1) for row in rows], -2)
    centre = depth * arc(angle, "y", sign=-1.0)
    return rigid(rotation, -np.einsum("nij,nj->ni", rotation, centre))


def _turn(angle_rad: ArrayLike) -> Array:
    """World-to-camera rotations [n 3 3] of a view turned right by `angle_rad` [n]."""
    angle = np.asarray(angle_rad, float)
    cosine, sine, zero, one = np.cos(angle), np.sin(angle), 0 * angle, 1 + 0 * angle
    rows = [[cosine, zero, -sine], [zero, one, zero], [sine, zero, cosine]]
    return np.stack([np.stack(row, -1) for row in rows], -2)
