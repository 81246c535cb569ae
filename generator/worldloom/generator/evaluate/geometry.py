"""A world's cameras, depth and collider -> measurements, against the truth where it is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from worldloom.generator.evaluate import depth_agreement, reprojection
from worldloom.generator.evaluate.controllability import camera_score
from worldloom.generator.evaluate.correspond import DepthView
from worldloom.generator.evaluate.measures import Measure, unmeasured
from worldloom.generator.evaluate.networks import Networks
from worldloom.generator.evaluate.poses import found_poses
from worldloom.generator.evaluate.revisit import APART_FRAMES, compare_visits, find_visits
from worldloom.generator.evaluate.world import EvaluatedWorld
from worldloom.scene.errors import InvalidRequest, NotFound
from worldloom.scene.mesh import TriMesh

CAMERA = ("camera", "camera_rotation", "camera_translation")
COLLIDER = ("collider_f", "collider_accuracy", "collider_completeness")
REACH_ENGINE = "preview"
"""Engine whose `far_m` says how far a collider must reach, as in `bench truth`."""


def geometry_measures(
    world: EvaluatedWorld, networks: Networks, scene: str | None
) -> list[Measure]:
    """Control, reprojection, depth consistency and revisits.

    Args:
        world: What is judged.
        networks: Metrics' networks, for revisit LPIPS.
        scene: The truth scene that the world shows, if any.
    """
    return [
        *camera_measures(world, scene, networks.folder), *reprojection_measures(world, scene),
        *depth_measures(world), *revisit_measures(world, networks),
    ]  # fmt: skip


def camera_measures(
    world: EvaluatedWorld, scene: str | None, folder: Path | None = None
) -> list[Measure]:
    """Cameras found in the video, or held by a truth world, against the commanded ones."""
    try:
        found = found_poses(world, scene, folder)
        rows = [world.row(int(number)) for number in found.frame_id]
        score = camera_score(world.cameras.c2w[rows], found.c2w)
    except (NotFound, InvalidRequest) as error:
        return unmeasured(CAMERA, str(error))
    data = f"{found.source}, {score.cameras} frames, scale {score.scale:.4f}"
    values = (score.score, score.rotation_deg, score.translation)
    return [Measure(k, v, data, note=found.note) for k, v in zip(CAMERA, values, strict=True)]


def reprojection_measures(world: EvaluatedWorld, scene: str | None) -> list[Measure]:
    """Reprojection error against the true geometry, and there and back by the world's own."""
    views = world.views
    found = []
    if scene is None:
        found += unmeasured(("reprojection_exact",), "needs known geometry: --truth SCENE")
    else:
        try:
            truth = true_views(world, scene)
            exact = reprojection.exact(views, truth, pixel=world.pixel)
            data = f"truth scene {scene}, {len(views)} keyframes, {exact.points:,} points"
            found.append(Measure("reprojection_exact", exact.mean_px, data))
        except InvalidRequest as error:
            found += unmeasured(("reprojection_exact",), str(error))
    try:
        trip = reprojection.round_trip(views, pixel=world.pixel)
    except InvalidRequest as error:
        return found + unmeasured(("reprojection",), str(error))
    data = f"its own {len(views)} keyframes, {trip.points:,} points"
    note = (
        f"mean residual there and back by depth (median {trip.median_px:.3f}); "
        "not the residual of DROID-SLAM"
    )
    return [*found, Measure("reprojection", trip.mean_px, data, note=note)]


def depth_measures(world: EvaluatedWorld) -> list[Measure]:
    """Depth consistency between neighbours and between visits."""
    found = []
    for key, make in (
        ("depth_steady", lambda: depth_agreement.between_neighbours(world.views)),
        (
            "depth_visits",
            lambda: depth_agreement.between_visits(
                world.views, world.keyframe_id.tolist(), apart=APART_FRAMES
            ),
        ),
    ):
        try:
            score = make()
        except InvalidRequest as error:
            found += unmeasured((key,), str(error))
            continue
        data = f"{score.pairs} ordered pairs of keyframes, {score.points:,} points"
        note = f"{score.within_5_percent:.1%} of the points agree within 5 %"
        found.append(Measure(key, 100 * score.median, data, note=note))
    return found


def revisit_measures(world: EvaluatedWorld, networks: Networks) -> list[Measure]:
    """PSNR and LPIPS between a first visit and a return at nearly equal pose."""
    keys = ("revisit_psnr", "revisit_lpips")
    in_video = np.isin(world.cameras.frame_id, world.video_id)
    cameras = world.cameras.select(in_video)
    visits = find_visits(cameras, world.median_depth)
    if not visits:
        return unmeasured(keys, "the path never comes back to an earlier pose and heading")
    rows = [row for visit in visits for row in (visit.first, visit.again)]
    frames = world.frames(cameras.frame_id[rows].tolist())
    try:
        metric, missing = networks.lpips("alex").distance, ""
    except NotFound as error:
        metric, missing = None, str(error)
    try:
        level, distance, count = compare_visits(visits, cameras, frames.__getitem__, metric)
    except InvalidRequest as error:
        return unmeasured(keys, str(error))
    data = f"its own video, {count} returns after {APART_FRAMES} frames or more"
    return [
        Measure("revisit_psnr", level, data),
        Measure("revisit_lpips", distance, data if metric else "", reason=missing),
    ]


def collider_measures(world: EvaluatedWorld, scene: str | None) -> list[Measure]:
    """The collider against the true surface that the keyframes saw."""
    if scene is None:
        return unmeasured(COLLIDER, "needs the true surface: --truth SCENE")
    from worldloom.generator.engines import load_engine
    from worldloom.generator.truth.measure import score_collider
    from worldloom.generator.truth.opening import named_scene
    from worldloom.generator.truth.surface import mesh

    place, _ = named_scene(scene)
    surface: TriMesh = mesh(place)
    reach = load_engine(REACH_ENGINE).qualities[world.manifest.request["quality"]].far_m
    rows = [world.row(int(number)) for number in world.keyframe_id]
    score = score_collider(
        place, surface, world.collider, world.cameras.select(rows), reach_m=reach
    )
    data = f"truth scene {scene}: {score.seen_m2:.1f} m2 that keyframes saw within {reach:g} m"
    values = (score.f_score, 100 * score.accuracy_m, 100 * score.completeness_m)
    return [Measure(key, value, data) for key, value in zip(COLLIDER, values, strict=True)]


def true_views(world: EvaluatedWorld, scene: str) -> list[DepthView]:
    """The keyframes as they truly are: exact depth at the commanded cameras."""
    from worldloom.generator.truth.opening import named_scene
    from worldloom.generator.truth.render import depth_view

    place, _ = named_scene(scene)
    out = []
    for number, view in zip(world.keyframe_id, world.views, strict=True):
        c2w = world.cameras.c2w[world.row(int(number))]
        size = (view.depth.shape[1], view.depth.shape[0])
        out.append(DepthView(depth_view(place, c2w, view.K, size), view.K, c2w))
    return out
