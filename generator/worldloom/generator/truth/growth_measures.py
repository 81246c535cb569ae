"""The state of a finished truth world -> cracks, level, scale, drift and splats against the truth.

These need more than the world's own files: the volume's voxel and the keyframes in full, which the
job's last checkpoint holds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from worldloom.generator.checkpoint import Growth
from worldloom.generator.poses.gravity import estimate_up
from worldloom.generator.poses.scale import camera_height_evidence, fuse
from worldloom.generator.splats.covered import Covered
from worldloom.generator.splats.lift import lift
from worldloom.generator.truth.surface_checks import check_surface
from worldloom.generator.video.frame import Frame
from worldloom.scene.cameras import Cameras
from worldloom.scene.mesh import TriMesh
from worldloom.scene.splats import Splats


def surface_measures(growth: Growth, tiles: Sequence[TriMesh]) -> dict[str, float]:
    """Cracks, invented surface, inward faces and density of a collider's tiles."""
    found = check_surface(tiles, growth.keyframes, plan=growth.volume.plan)
    return {
        "cracks": float(found.crack_edges),
        "invented": found.invented_share,
        "inward": float(found.inward),
        "triangles_per_100_m2": found.per_100_m2,
        "voxel_m": growth.volume.plan.voxel,
    }


def level_measures(growth: Growth, camera_height: float) -> dict[str, float]:
    """Errors of gravity [degree] and scale, found from the keyframes and one camera height [m].

    The world's own frame is level and metric by construction, so both should be nothing.
    """
    up = estimate_up(growth.keyframes)
    off = float(np.degrees(np.arccos(np.clip(up.direction[2], -1, 1))))
    evidence = camera_height_evidence(up, growth.keyframes[0].c2w[:3, 3], camera_height)
    value = fuse([evidence]).value if evidence is not None else float("nan")
    return {"gravity_deg": off, "scale_error": abs(value - 1)}


def lap_measures(growth: Growth, truth: Cameras) -> dict[str, float]:
    """Errors of the last keyframe's camera: height [m] and heading [degree]."""
    last = growth.keyframes[-1]
    true = truth.c2w[np.nonzero(truth.frame_id == last.frame_id)[0][0]]
    heading = _heading(last.c2w) - _heading(true)
    return {
        "last_height_m": abs(float(last.c2w[2, 3] - true[2, 3])),
        "last_heading_deg": abs(float((heading + 180) % 360 - 180)),
    }


def one_per_pixel(frames: Sequence[Frame]) -> Splats:
    """A splat for every pixel of every frame: what merging is compared with."""
    return Splats.concat(
        [lift(f.rgb, f.depth, f.origin, f.c2w, f.K, covered=Covered()) for f in frames]
    )


def _heading(c2w: NDArray[np.float64]) -> float:
    """Direction that a camera looks in, seen from above [degree]."""
    return float(np.degrees(np.arctan2(c2w[1, 2], c2w[0, 2])))
