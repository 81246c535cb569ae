"""The depth networks that may be there, best first."""

from __future__ import annotations

from pathlib import Path

from worldloom.generator.depth.model import DepthModel


def choose_model(weights_dir: Path | None = None) -> DepthModel | None:
    """The best depth model whose weights are present, or None for the layout estimate.

    Args:
        weights_dir: Where to look; `$WORLDLOOM_WEIGHTS` or the user's cache by default.
    """
    return None
