"""The depth networks that may be there, best first."""

from __future__ import annotations

import logging
from pathlib import Path

from worldloom.generator.depth.model import DepthModel
from worldloom.generator.weights import find_weights, lookup, verify
from worldloom.scene.errors import CorruptData

LOGGER = logging.getLogger(__name__)


def choose_model(
    weights_dir: Path | None = None, *, notes: list[str] | None = None
) -> DepthModel | None:
    """The best depth model whose weights are present, or None for the layout estimate.

    Args:
        weights_dir: Where to look; `$WORLDLOOM_WEIGHTS` or the user's cache by default.
        notes: Receives a sentence when weights are there but damaged, since that is worth knowing.
    """
    name = "tcmonodepth-small"
    if find_weights(name, weights_dir) is None:
        return None
    try:
        file = verify(name, weights_dir)
        from worldloom.generator.depth.tcmono import TCMonoDepth

        return TCMonoDepth.load(file, (lookup(name).record(),))
    except CorruptData as error:
        LOGGER.warning("%s", error)
        if notes is not None:
            notes.append(f"{error}. The layout estimate was used instead")
        return None
