"""A generated world and the scene it shows -> how good it is: depth, pictures, surface.

Only what some camera saw is asked for: visibility comes from the truth, by exact rays, never from
the world that is judged.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from worldloom.generator.surface.compare import sample_surface
from worldloom.generator.truth.cast import seen_by_any, signed_distance
from worldloom.generator.truth.model import KEYFRAME_STRIDE
from worldloom.generator.truth.render import View, depth_view, render_view
from worldloom.generator.truth.scene import TruthScene
from worldloom.generator.truth.walk import VIEW_SIZE
from worldloom.scene.cameras import Cameras, unproject
from worldloom.scene.frame import rigid, rotation_about
from worldloom.scene.mesh import TriMesh

HELD_OUT_PHASE = KEYFRAME_STRIDE // 2
"""Held-out views lie half-way between keyframes: the frames that no keyframe is nearer to."""
OFF_PATH_M, OFF_PATH_DEG = 0.3, 10.0
"""How far views off the path are moved and turned (architecture page 3.3)."""
ROOM_TO_MOVE_M = 0.12  # A view off the path stays this far from every surface [m].
SEEN_SHARE_MIN = 0.02  # Views with fewer seen pixels than this say nothing about seen points.
THRESHOLD_M = 0.05  # Distance of the F-score.
TRUTH_PER_M2, ESTIMATE_PER_M2 = 1000.0, 5000.0
"""Density of the samples; those of the estimate lie 7 mm apart, well below the threshold."""
SAMPLES_MAX = 2_000_000

Draw = Callable[[NDArray[np.float64], NDArray[np.float64], tuple[int, int]], NDArray[np.float32]]
"""Renders the judged world: camera to world [4 4], K [3 3], (w, h) -> rgb [h w 3]."""


@dataclass(frozen=True)
class TruthView:
    """One scored camera and what it truly sees."""

    c2w: NDArray[np.float64]
    """Camera to world, OpenCV axes [m], [4 4]."""
    K: NDArray[np.float64]
    """Intrinsics in pixels, [3 3]."""
    size: tuple[int, int]
    """Width and height in pixels."""
    truth: View


@dataclass(frozen=True)
class PictureScore:
    """PSNR of the splats at held-out views, means over the views [dB]."""

    seen_db: float
    """Where a keyframe saw the point, on the path."""
    whole_db: float
    """Over the whole picture, on the path."""
    off_path_db: float
    """Where a keyframe saw the point, 0.3 m and 10 degrees off the path."""
    seen_share: float
    """Share of the pixels on the path whose point a keyframe saw."""
    views: int


@dataclass(frozen=True)
class DepthScore:
    """Depth of the keyframes against the truth at their true cameras."""

    abs_rel: float
    """Mean of |z - truth| / truth."""
    rms_m: float
    """Root mean square of z - truth within 10 m [m]."""
    within_5_percent: float
    """Share of the pixels that are right within 5 %."""


@dataclass(frozen=True)
class ColliderScore:
    """The collider against the true surface."""

    accuracy_m: float
    """Mean distance from the collider to the truth [m]."""
    completeness_m: float
    """Mean distance from the seen truth to the collider [m], distances capped at 0.5 m."""
    accurate: float
    """Share of the collider within 5 cm of the truth."""
    complete: float
    """Share of the seen truth within 5 cm of the collider."""
    f_score: float
    """Harmonic mean of the two shares."""
    seen_m2: float
    """Area of the truth that is asked for [m^2]."""


def held_out(cameras: Cameras) -> Cameras:
    """The views between keyframes that are scored, at 416 x 240."""
    between = cameras.frame_id % KEYFRAME_STRIDE == HELD_OUT_PHASE
    return cameras.select(between).scaled(*VIEW_SIZE)


def keyframes_of(cameras: Cameras) -> Cameras:
    """The cameras that enter the memory: the photo and every 8th frame."""
    return cameras.select(cameras.frame_id % KEYFRAME_STRIDE == 0)


def off_path(scene: TruthScene, cameras: Cameras) -> Cameras:
    """The same views moved 0.3 m and turned 10 degrees, alternately to either side.

    A view moves up, or down, where a solid is in the way at its side.
    """
    c2w = cameras.c2w.copy()
    for i in range(cameras.n):
        sign = 1.0 if i % 2 else -1.0
        sideways = np.array([[sign, 0, 0], [-sign, 0, 0], [0, -1.0, 0], [0, 1.0, 0]])
        moves = OFF_PATH_M * sideways @ c2w[i, :3, :3].T
        free = signed_distance(scene, c2w[i, :3, 3] + moves) > ROOM_TO_MOVE_M
        # No way out at all leaves the turn alone; that happens only inside a cupboard.
        move = moves[np.argmax(free)] if free.any() else np.zeros(3)
        turn = rotation_about([0, 1, 0], np.radians(OFF_PATH_DEG) * sign)
        c2w[i] = rigid(c2w[i, :3, :3] @ turn, c2w[i, :3, 3] + move)
    return replace(cameras, c2w=c2w)


def seen_points(
    scene: TruthScene, points: NDArray[np.float64], witnesses: Cameras, *, reach_m: float = np.inf
) -> NDArray[np.bool_]:
    """Which surface points [n 3] lie in the picture of some witness, unhidden, within reach."""
    return seen_by_any(
        scene, points, witnesses.w2c, witnesses.K, witnesses.size.astype(float), reach_m
    )


def truth_views(scene: TruthScene, cameras: Cameras) -> list[TruthView]:
    """Render the truth at scored cameras, once for all worlds that are compared."""
    out = []
    for i in range(cameras.n):
        c2w, K = cameras.c2w[i], cameras.K[i]
        size = (int(cameras.size[i, 0]), int(cameras.size[i, 1]))
        out.append(TruthView(c2w, K, size, render_view(scene, c2w, K, size)))
    return out


def score_pictures(
    scene: TruthScene,
    draw: Draw,
    on_path: list[TruthView],
    off_path: list[TruthView],
    witnesses: Cameras,
) -> PictureScore:
    """PSNR of a world's pictures at held-out views.

    Args:
        scene: The truth.
        draw: Renders the world.
        on_path: Held-out views between keyframes.
        off_path: Views beside the path.
        witnesses: Cameras that the world was made from.
    """
    on = [_score_view(scene, draw, view, witnesses) for view in on_path]
    off = [_score_view(scene, draw, view, witnesses) for view in off_path]
    return PictureScore(
        seen_db=_mean([s for s, _, share in on if share >= SEEN_SHARE_MIN]),
        whole_db=_mean([w for _, w, _ in on]),
        off_path_db=_mean([s for s, _, share in off if share >= SEEN_SHARE_MIN]),
        seen_share=_mean([share for _, _, share in on]),
        views=len(on),
    )


def score_depth(
    scene: TruthScene, depth: NDArray[np.float32], K: NDArray[np.float64], cameras: Cameras
) -> DepthScore:
    """Depth of a world's keyframes.

    Args:
        scene: The truth.
        depth: z-depth of the keyframes [m], 0 = none, [k h w].
        K: Intrinsics in pixels of `depth`, [k 3 3].
        cameras: True cameras of the keyframes, k of them.
    """
    size = (depth.shape[2], depth.shape[1])
    truth = np.stack([depth_view(scene, cameras.c2w[k], K[k], size) for k in range(cameras.n)])
    both = (truth > 0) & (depth > 0)
    error = depth[both].astype(float) - truth[both]
    relative = np.abs(error) / truth[both]
    near = truth[both] <= 10.0
    return DepthScore(
        abs_rel=float(relative.mean()),
        rms_m=float(np.sqrt((error[near] ** 2).mean())),
        within_5_percent=float((relative <= 0.05).mean()),
    )


def score_collider(
    scene: TruthScene,
    surface: TriMesh,
    collider: TriMesh,
    witnesses: Cameras,
    *,
    reach_m: float,
    seed: int = 0,
) -> ColliderScore:
    """Accuracy and completeness of a collider over the surface that was seen.

    Args:
        scene: The truth.
        surface: Its mesh.
        collider: The judged surface, world frame.
        witnesses: Cameras that the world was made from.
        reach_m: Depth to which the world promises a surface [m].
        seed: Seed of the samples.
    """
    from scipy.spatial import cKDTree

    truth = sample_surface(surface, _count(surface, TRUTH_PER_M2), seed)
    truth = truth[seen_points(scene, truth, witnesses, reach_m=reach_m)]
    estimate = sample_surface(collider, _count(collider, ESTIMATE_PER_M2), seed + 1)
    to_truth = np.abs(signed_distance(scene, estimate))
    to_estimate, _ = cKDTree(estimate).query(truth, distance_upper_bound=0.5, workers=2)
    accurate = float((to_truth <= THRESHOLD_M).mean())
    complete = float((to_estimate <= THRESHOLD_M).mean())
    return ColliderScore(
        accuracy_m=float(to_truth.mean()),
        completeness_m=float(np.minimum(to_estimate, 0.5).mean()),
        accurate=accurate,
        complete=complete,
        f_score=2 * accurate * complete / max(accurate + complete, 1e-12),
        seen_m2=len(truth) / TRUTH_PER_M2,
    )


def psnr(
    picture: NDArray[np.floating],
    truth: NDArray[np.floating],
    mask: NDArray[np.bool_] | None = None,
) -> float:
    """Peak signal to noise ratio [dB] of sRGB pictures 0..1, [h w 3], over `mask` [h w]."""
    error = (np.clip(picture, 0, 1) - truth) ** 2
    mean = float((error if mask is None else error[mask]).mean())
    return -10 * np.log10(max(mean, 1e-10))


def _score_view(
    scene: TruthScene, draw: Draw, view: TruthView, witnesses: Cameras
) -> tuple[float, float, float]:
    """PSNR over seen points, PSNR over the picture, and the share of seen points."""
    picture = draw(view.c2w, view.K, view.size)
    seen = seen_pixels(scene, view, witnesses)
    truth = view.truth.rgb
    inside = psnr(picture, truth, seen) if seen.any() else float("nan")
    return inside, psnr(picture, truth), float(seen.mean())


def seen_pixels(scene: TruthScene, view: TruthView, witnesses: Cameras) -> NDArray[np.bool_]:
    """Which pixels [h w] of a view show a point that some witness saw; the sky is no point."""
    solid = view.truth.depth > 0
    points = unproject(view.truth.depth, view.K, view.c2w)[solid]
    # The nearest witnesses have most likely seen it: asking them first spares the others.
    away = np.linalg.norm(witnesses.centres - view.c2w[:3, 3], axis=1)
    order = np.argsort(away, kind="stable")
    out = np.zeros(solid.shape, bool)
    out[solid] = seen_points(scene, points, witnesses.select(order))
    return out


def _count(surface: TriMesh, per_m2: float) -> int:
    return int(np.clip(surface.areas().sum() * per_m2, 1000, SAMPLES_MAX))


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else float("nan")
