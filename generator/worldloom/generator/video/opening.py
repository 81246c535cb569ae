"""A request for engine `preview` -> its seed and its model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from worldloom.generator.engines import QualityLevel
from worldloom.generator.seams import Opening
from worldloom.generator.seed import make_seed
from worldloom.generator.video.preview import PreviewModel
from worldloom.scene.limits import Limits
from worldloom.scene.request import WorldRequest


def open_preview(
    request: WorldRequest, inputs: Mapping[str, Path], level: QualityLevel, limits: Limits
) -> Opening:
    """Decode the photo, estimate its depth, and make the model.

    Raises:
        InvalidPhoto: The photo cannot be used.
        InvalidDepth: The supplied depth cannot be used.
    """
    seed = make_seed(
        inputs["photo"],
        long_side=level.long_side,
        depth_file=inputs.get("depth"),
        intrinsics=request.intrinsics,
        scale_hint=request.scale,
        limits=limits,
    )
    return Opening(seed, PreviewModel(seed, seed_number=request.seed))
