"""Lyra's zoom script: a first depth -> the camera path in, or out and upwards.

Spec generation 9.2. The script goes in by half the centre depth over 81 frames, or out by one and
a half over 241 frames while it drifts upwards; on request it keeps to the ground plane.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from worldloom.scene.errors import InvalidCameraPath
from worldloom.scene.frame import invert_rigid
from worldloom.scene.lyra_moves import Array
from worldloom.scene.lyra_presets import CENTRE_DEPTH_M, lyra_w2c
from worldloom.scene.path import CameraPath, lyra_frames, path_from_poses

UPWARD_RATIO = 0.15
"""Rise of a zoom out per way back."""
GROUND_RISE = 0.05
"""Rise along the ground's normal of a zoom out that keeps to the ground, in scene units."""
GROUND_SHARE = 0.4
"""Lowest share of the picture in which the ground is looked for."""
GROUND_DEPTHS = (0.01, 500.0)
"""Depths that the ground may have, in scene units."""
GROUND_PIXELS = 50
"""Fewest pixels that make a plane."""
GROUND_ROUNDS = 200
"""Planes that are tried."""
GROUND_TOLERANCE, GROUND_NEAR = 0.05, 0.1
"""Largest distance from the plane as a share of the depth, and the least depth that counts."""


@dataclass(frozen=True)
class ZoomScript:
    """One of the script's two videos."""

    direction: str
    """"in" or "out"."""
    frames: int
    """Frames the script makes."""
    strength: float
    """Way as a multiple of the centre depth."""
    upward_ratio: float
    """Rise per way back."""


ZOOM_SCRIPTS = {
    "zoom_in": ZoomScript("in", 81, 0.5, 0.0),
    "zoom_out": ZoomScript("out", 241, 1.5, UPWARD_RATIO),
}
"""The script's videos by name."""


def script_w2c(
    preset: str = "horizontal_zoom",
    *,
    direction: str,
    strength: float,
    frames: int,
    depth: float,
    upward_ratio: float = 0.0,
    ground_normal: ArrayLike | None = None,
    ground_rise: float = 0.0,
    reference_quirks: bool = False,
) -> Array:
    """World-to-camera poses [n 4 4] of the zoom script in the first camera's axes.

    Args:
        preset: Preset that the script runs.
        direction: "in" or "out" (Lyra: "right" or "left").
        strength: Way as a multiple of `depth`.
        frames: Frames to make.
        depth: Centre depth, any scene unit.
        upward_ratio: Rise per way back.
        ground_normal: Unit normal of the ground in the first camera's axes (y negative = up),
            shape [3]; None does not keep to the ground.
        ground_rise: Rise along that normal at the last frame, in scene units.
        reference_quirks: The released poses; keeping to the ground then undoes the upward drift.

    Raises:
        InvalidCameraPath: As for `lyra_presets.lyra_w2c`.
    """
    w2c, _ = lyra_w2c(
        preset, frames=frames, direction=direction, strength=strength, depth=depth,
        reference_quirks=reference_quirks,
    )  # fmt: skip
    if reference_quirks:
        w2c = drift_upwards(w2c, upward_ratio)
    if ground_normal is not None:
        w2c = raise_along(along_ground(w2c, ground_normal), ground_normal, ground_rise)
    return w2c if reference_quirks else drift_upwards(w2c, upward_ratio)


def zoom_path(
    name: str,
    *,
    frames: int | None = None,
    depth: float = CENTRE_DEPTH_M,
    strength: float | None = None,
    reference_quirks: bool = False,
) -> CameraPath:
    """`zoom_in` or `zoom_out` of Lyra's script as a path relative to the photo's camera [m].

    Args:
        name: A key of ZOOM_SCRIPTS.
        frames: Frames wanted, rounded up to whole chunks; None takes the script's own.
        depth: Centre depth [m].
        strength: Way as a multiple of `depth`; None takes the script's own.
        reference_quirks: The released poses.

    Raises:
        InvalidCameraPath: A number is out of its range.
    """
    script = ZOOM_SCRIPTS[name]
    w2c = script_w2c(
        direction=script.direction,
        strength=script.strength if strength is None else strength,
        frames=lyra_frames(script.frames if frames is None else frames),
        depth=depth,
        upward_ratio=script.upward_ratio,
        reference_quirks=reference_quirks,
    )
    return path_from_poses(invert_rigid(w2c), name=f"lyra:{name}")


def drift_upwards(w2c: Array, ratio: float) -> Array:
    """Raise each camera of [n 4 4] by `ratio` of how far it went back along z."""
    centres = invert_rigid(w2c)[:, :3, 3]
    back = np.maximum(0.0, centres[0, 2] - centres[:, 2])
    return _moved(w2c, np.stack([0 * back, -ratio * back, 0 * back], -1))


def along_ground(w2c: Array, normal: ArrayLike) -> Array:
    """Turn the way of each translation of [n 4 4] into the plane of `normal` [3], keeping lengths.

    The way is counted from the first pose. One that points along the normal stays as it is, since
    it has no direction in the plane.
    """
    normal = np.asarray(normal, float) / np.linalg.norm(normal)
    way = w2c[:, :3, 3] - w2c[0, :3, 3]
    flat = way - (way @ normal)[:, None] * normal
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    kept = np.linalg.norm(way, axis=1, keepdims=True)
    lost = length <= 1e-8 * np.maximum(kept, 1e-30)
    out = w2c.copy()
    out[:, :3, 3] = w2c[0, :3, 3] + np.where(
        lost, way, flat * kept / np.where(lost, 1.0, length)
    )
    return out


def raise_along(w2c: Array, normal: ArrayLike, height: float) -> Array:
    """Raise the cameras of [n 4 4] along `normal` [3], steadily up to `height` at the last one."""
    rise = np.linspace(0.0, height, len(w2c))[:, None]
    return _moved(w2c, rise * np.asarray(normal, float))


def fit_ground_normal(
    depth: ArrayLike, K: ArrayLike, *, valid: ArrayLike | None = None, seed: int = 0
) -> Array | None:
    """Unit normal [3] of the ground in camera axes (y negative = up); None without enough pixels.

    Args:
        depth: Depth along the viewing axis, shape [h w], scene units.
        K: Intrinsics in pixels, shape [3 3].
        valid: Where the depth can be trusted, shape [h w]; None trusts all.
        seed: Seed of the planes that are tried.
    """
    points = _low_points(np.asarray(depth, float), np.asarray(K, float), valid)
    if len(points) < GROUND_PIXELS:
        return None
    tolerance = GROUND_TOLERANCE * np.maximum(points[:, 2], GROUND_NEAR)
    rng = np.random.default_rng(seed)
    best = np.zeros(len(points), bool)
    for _ in range(GROUND_ROUNDS):
        a, b, c = points[rng.choice(len(points), 3, replace=False)]
        normal = np.cross(b - a, c - a)
        size = np.linalg.norm(normal)
        if size > 1e-12:
            near = np.abs((points - a) @ (normal / size)) < tolerance
            best = near if near.sum() > best.sum() else best
    if best.sum() < GROUND_PIXELS:
        return None
    plane = points[best] - points[best].mean(0)
    normal = np.linalg.eigh(plane.T @ plane)[1][:, 0]
    return normal if normal[1] < 0 else -normal


def ground_normal(depth: ArrayLike, K: ArrayLike, **settings: object) -> Array:
    """`fit_ground_normal`, where a ground is needed.

    Raises:
        InvalidCameraPath: Too few pixels lie on one plane in the lowest part of the picture.
    """
    normal = fit_ground_normal(depth, K, **settings)  # type: ignore[arg-type]
    if normal is None:
        raise InvalidCameraPath(
            f"no ground plane in the lowest {GROUND_SHARE:.0%} of the picture; at least "
            f"{GROUND_PIXELS} pixels must lie on it. Leave the ground alignment off",
            field="path",
        )
    return normal


def _low_points(depth: Array, K: Array, valid: ArrayLike | None) -> Array:
    """Points [m 3] in camera axes of the lowest rows with a usable depth."""
    height, width = depth.shape
    v, u = np.mgrid[0:height, 0:width].astype(float)
    with np.errstate(invalid="ignore"):
        keep = (v >= (1 - GROUND_SHARE) * height) & np.isfinite(depth)
        keep &= (depth > GROUND_DEPTHS[0]) & (depth < GROUND_DEPTHS[1])
    if valid is not None:
        keep &= np.asarray(valid, float) > 0.5
    z = depth[keep]
    x = (u[keep] - K[0, 2]) / K[0, 0] * z
    y = (v[keep] - K[1, 2]) / K[1, 1] * z
    return np.stack([x, y, z], -1)


def _moved(w2c: Array, offsets: Array) -> Array:
    """Poses [n 4 4] whose centres are moved by `offsets` [n 3], not turned."""
    out = w2c.copy()
    out[:, :3, 3] -= np.einsum("nij,nj->ni", w2c[:, :3, :3], offsets)
    return out
