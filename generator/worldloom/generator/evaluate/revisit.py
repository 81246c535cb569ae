"""Cameras of a video -> frames that show a place again, and the pictures to compare.

A pair is a frame and the frame at least half a chunk earlier that was taken from nearly the same
pose: what the distance of the centres moves the picture at the scene's median depth is at most one
pixel, and the turn at most 5 degrees. The turn is undone by the homography of a pure rotation,
which is exact (spec reconstruction 5.5: revisit PSNR, first visit against return at equal pose).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worldloom.generator.evaluate.pixels import Picture, as_pair
from worldloom.generator.evaluate.similarity import psnr
from worldloom.scene.cameras import Cameras, pixel_rays
from worldloom.scene.errors import InvalidRequest
from worldloom.scene.frame import turn_angle

APART_FRAMES = 40  # Half a chunk of 80 frames: what a window of context no longer holds.
PARALLAX_PX = 1.0  # Largest shift by the distance of the centres, at median depth [px].
TURN_DEG = 5.0
PAIRS_MAX = 40  # Pairs that are compared, spread evenly over the returns.
OVERLAP_MIN = 0.5  # Least share of the picture that both frames show.


@dataclass(frozen=True)
class Visit:
    """Two frames that show a place."""

    first: int
    """Row of the first visit in the cameras."""
    again: int
    """Row of the return."""
    away_m: float
    turn_deg: float


def find_visits(cameras: Cameras, depth_m: float) -> list[Visit]:
    """Returns to earlier poses, each with the closest first visit; empty when there is none.

    Args:
        cameras: Cameras of all frames, in order of time.
        depth_m: Median depth of the scene [m].
    """
    reach = PARALLAX_PX * depth_m / float(np.median(cameras.K[:, 0, 0]))
    found = []
    for again in range(cameras.n):
        early = np.nonzero(cameras.frame_id <= cameras.frame_id[again] - APART_FRAMES)[0]
        away = np.linalg.norm(cameras.centres[early] - cameras.centres[again], axis=1)
        early, away = early[away <= reach], away[away <= reach]
        if not early.size:
            continue
        turn = np.degrees(turn_angle(cameras.c2w[early, :3, :3], cameras.c2w[again, :3, :3][None]))
        best = int(np.argmin(away / reach + turn / TURN_DEG))
        if turn[best] <= TURN_DEG:
            found.append(Visit(int(early[best]), again, float(away[best]), float(turn[best])))
    chosen = np.unique(np.linspace(0, len(found) - 1, min(len(found), PAIRS_MAX)).round())
    return [found[int(k)] for k in chosen] if found else []


def turned(
    picture: NDArray[np.float64], cameras: Cameras, source: int, target: int
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """A picture [h w 3] of camera `source` as camera `target` would see it from the same centre.

    Returns the picture and which pixels it covers, [h w].
    """
    from scipy.ndimage import map_coordinates

    height, width = picture.shape[:2]
    local = cameras.scaled(width, height)
    turn = local.c2w[source, :3, :3].T @ local.c2w[target, :3, :3]
    rays = pixel_rays(local.K[target], width, height) @ turn.T
    x = local.K[source, 0, 0] * rays[..., 0] / rays[..., 2] + local.K[source, 0, 2] - 0.5
    y = local.K[source, 1, 1] * rays[..., 1] / rays[..., 2] + local.K[source, 1, 2] - 0.5
    covered = (x >= 0) & (y >= 0) & (x <= width - 1) & (y <= height - 1) & (rays[..., 2] > 0)
    planes = [map_coordinates(picture[..., c], [y, x], order=1, mode="nearest") for c in range(3)]
    return np.stack(planes, -1), covered


def compare_visits(
    visits: list[Visit],
    cameras: Cameras,
    picture_of: Callable[[int], Picture],
    distance: Callable[[Picture, Picture], float] | None = None,
) -> tuple[float, float | None, int]:
    """Mean PSNR [dB], mean LPIPS and the number of pairs over the common part of the pictures.

    Args:
        visits: Pairs, as `find_visits` gives them.
        cameras: The cameras that their rows belong to.
        picture_of: Picture [h w 3] by frame number.
        distance: A perceptual distance; None leaves it out.

    Raises:
        InvalidRequest: No pair shows the same place, or a picture is unusable.
    """
    levels, distances = [], []
    for visit in visits:
        first, again = as_pair(
            picture_of(int(cameras.frame_id[visit.first])),
            picture_of(int(cameras.frame_id[visit.again])),
            ("the first visit", "the return"),
        )
        seen, covered = turned(first, cameras, visit.first, visit.again)
        if covered.mean() < OVERLAP_MIN:
            continue
        levels.append(psnr(seen, again, mask=covered))
        if distance is not None:
            # Outside the common part both pictures are made equal, so that it counts for nothing.
            distances.append(distance(np.where(covered[..., None], seen, again), again))
    if not levels:
        raise InvalidRequest(
            f"none of {len(visits)} returns shows at least {OVERLAP_MIN:.0%} of a first visit; "
            "the path must come back to an earlier pose and heading"
        )
    return float(np.mean(levels)), float(np.mean(distances)) if distances else None, len(levels)
