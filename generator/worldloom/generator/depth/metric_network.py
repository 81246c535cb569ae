"""What a metric depth network says of the photo -> evidence of its scale.

It is asked only where nobody tells the scale: it costs seconds on a CPU, and a person knows better.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from worldloom.generator.depth.model import WeightsRecord
from worldloom.generator.depth.models import choose_metric
from worldloom.generator.poses.scale import Evidence, depth_ratio_evidence
from worldloom.generator.video.frame import ORIGIN_SEEN, Frame

if TYPE_CHECKING:
    from worldloom.generator.depth.da3.single import Da3Metric


def network_evidence(
    rgb: NDArray[np.float32],
    K: NDArray[np.float64],
    depth: NDArray[np.floating],
    weights_dir: Path | None = None,
    *,
    notes: list[str] | None = None,
) -> tuple[Evidence | None, tuple[WeightsRecord, ...]]:
    """Evidence of a metric network, and its weights; (None, ()) where there is none.

    Args:
        rgb: sRGB 0..1 of the photo, [h w 3].
        K: Its intrinsics in pixels, [3 3].
        depth: Its z-depth in some unit, 0 = none, [h w].
        weights_dir: Where the network is looked for; the usual folder by default.
        notes: Receives a sentence when its weights are damaged.

    Raises:
        EngineFailed: The network cannot read the picture.
    """
    model = choose_metric(weights_dir, notes=notes)
    if model is None:
        return None, ()
    found = ratio_evidence(model, rgb, K, depth)
    return found, model.weights if found is not None else ()


def ratio_evidence(
    model: Da3Metric,
    rgb: NDArray[np.float32],
    K: NDArray[np.float64],
    depth: NDArray[np.floating],
) -> Evidence | None:
    """Median ratio of the network's metres to depth in some unit; None where too little is seen.

    Args: As `network_evidence`; `model` is the network.
    """
    from worldloom.generator.depth.da3.sky import SKY_FROM

    seen = model.view(rgb, K)
    metres = np.where(seen.sky < SKY_FROM, seen.depth, 0.0)
    origin = np.full(depth.shape, ORIGIN_SEEN, np.uint8)
    frame = Frame(0, rgb, np.asarray(depth, np.float32), origin, np.eye(4), np.asarray(K))
    return depth_ratio_evidence([frame], [metres], name=model.name)
