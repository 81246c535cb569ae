"""Recorded cases of the CLIP vision tower -> what ours makes of their inputs."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from worldloom.generator.video.lyra.clip import ClipVision, preprocess


def run(case: Any) -> dict[str, Tensor]:
    """Every output of a CLIP case, under its name without `out.`."""
    tower = ClipVision.load(case.config, case.weights)
    image = case.inputs["image"]
    pixels = preprocess(image, tower.config.image_size)
    return {
        "features": tower(image),
        "preprocessed": pixels,
        "all_blocks": tower.tokens(pixels, tower.config.layers),
    }
