"""The network's cameras and the given ones -> its cameras and depth in the given world (spec 1.3).

The network is sure of shape, the caller of the world: one similarity takes the given path onto the
predicted one, and its inverse brings the prediction home. Where the cameras hardly move, depth that
is known already tells the scale, or the network's own metres do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from worldloom.generator.poses.similarity import Similarity
from worldloom.generator.poses.umeyama import camera_errors, fit_centres, fit_similarity
from worldloom.generator.video.lyra.depth_align import (
    BASELINE_SHARE,
    WindowScale,
    baseline_share,
    bounded,
    overlap_scale,
)
from worldloom.scene.errors import EngineFailed
from worldloom.scene.frame import invert_rigid, rigid

ROUNDS = 3  # Times that weights and similarity take turns.
OUTLIER = 3.0  # Distances from the path, in medians, from which on a camera counts less.

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Aligned:
    """A prediction brought into the given world."""

    scale: float
    """Network units in one unit of the world; depth is divided by it."""
    c2w: Array
    """Predicted cameras in the given world [v 4 4]."""
    source: str
    """What the scale was read from: `poses`, `overlap` or `network`."""


def align(
    given_w2c: ArrayLike,
    predicted_w2c: ArrayLike,
    depth: ArrayLike,
    *,
    known: Mapping[int, ArrayLike] | None = None,
    metric: float | None = None,
    centres_only: bool = False,
) -> Aligned:
    """Bring predicted cameras into the world of given ones.

    Args:
        given_w2c: Cameras that the network was conditioned on [v 4 4].
        predicted_w2c: Its own [v 4 4].
        depth: Its depth [v h w].
        known: Depth in units of the world by number of the view, each [h w].
        metric: Network units in a metre where the network knows them and the world is in metres.
        centres_only: Fit the centres alone, as released.

    Raises:
        EngineFailed: The cameras do not move and nothing else tells the scale.
    """
    given, predicted = invert_rigid(given_w2c), invert_rigid(predicted_w2c)
    if centres_only and len(given) > 2:
        found = fit_centres(given, predicted)
        return _home(found, predicted, "poses")
    found = robust_similarity(given, predicted)
    ratio = overlap_scale(dict(enumerate(np.asarray(depth, float))), known or {})
    scale = _scale(found, given_w2c, predicted_w2c, depth, ratio, metric)
    # Another scale turns about the middle of the path.
    middle = given[:, :3, 3].mean(0)
    shift = found.apply(middle) - scale.value * found.R @ middle
    return _home(Similarity(scale.value, found.R, shift), predicted, scale.source)


def robust_similarity(source_c2w: ArrayLike, target_c2w: ArrayLike) -> Similarity:
    """The similarity of two paths [v 4 4], in which cameras that lie off count less."""
    found = fit_similarity(source_c2w, target_c2w)
    if len(np.asarray(source_c2w)) <= 3:
        return found
    for _ in range(ROUNDS):
        away, _ = camera_errors(found.apply_cameras(source_c2w), target_c2w)
        limit = OUTLIER * max(float(np.median(away)), 1e-12)
        found = fit_similarity(
            source_c2w, target_c2w, weights=np.minimum(1, limit / np.maximum(away, limit))
        )
    return found


def _scale(
    found: Similarity,
    given_w2c: ArrayLike,
    predicted_w2c: ArrayLike,
    depth: ArrayLike,
    ratio: float | None,
    metric: float | None,
) -> WindowScale:
    """The scale of the similarity where the cameras move enough, else from other evidence."""
    units = np.asarray(depth, float)
    moves = baseline_share(predicted_w2c, units) >= BASELINE_SHARE
    moves &= baseline_share(given_w2c, units / found.scale) >= BASELINE_SHARE
    if moves and len(np.asarray(given_w2c)) > 1:
        # The network's metres do not bound it: the world's may be off, and all of it with them.
        return bounded(WindowScale(found.scale, "poses"), ratio)
    if ratio is not None:
        return WindowScale(ratio, "overlap")
    if metric is not None:
        return WindowScale(metric, "network")
    raise EngineFailed(
        f"the {len(np.asarray(given_w2c))} cameras of the window stand still, so the scale of the "
        "depth network is unknown; give depth of one of the views, a nested (metric) model, or "
        "views that move"
    )


def _home(found: Similarity, predicted: Array, source: str) -> Aligned:
    scale = max(found.scale, 1e-6)
    centres = (predicted[:, :3, 3] - found.t) @ found.R / scale
    return Aligned(scale, rigid(found.R.T @ predicted[:, :3, :3], centres), source)
