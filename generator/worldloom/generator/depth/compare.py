"""An estimated depth against a known one -> the errors that depth papers report.

Relative estimates are first aligned: the truth's inverse depth is regressed on the estimate's, so
that only what scale and shift cannot explain counts.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

SMALLEST_SHARE = 0.05
"""Aligned inverse depths are held above this share of the truth's median: a line fit may turn
negative where no depth exists at all."""
DELTA = 1.25  # The usual bound of the "delta 1" accuracy.


def affine_error(
    inverse: NDArray[np.floating],
    truth: NDArray[np.floating],
    valid: NDArray[np.bool_] | None = None,
) -> dict[str, float]:
    """Errors of a relative inverse depth [h w] after the best scale and shift.

    Args:
        inverse: Estimated inverse depth of any scale and shift.
        truth: True z-depth [m]; 0 or less means unknown.
        valid: Pixels that count; all with a true depth by default.

    Returns:
        `r2` and `spearman` of the inverse depth; `abs_rel` and `delta1` of the depth.
    """
    use = _usable(inverse, truth, valid)
    x, z = inverse[use].astype(float), truth[use].astype(float)
    y = 1.0 / z
    design = np.stack([x, np.ones_like(x)], -1)
    coefficients, *_ = np.linalg.lstsq(design, y, rcond=None)
    fitted = design @ coefficients
    residual = np.sum((y - fitted) ** 2) / np.sum((y - y.mean()) ** 2)
    depth = 1.0 / np.maximum(fitted, SMALLEST_SHARE * np.median(y))
    return {"r2": float(1 - residual), "spearman": _spearman(x, y), **_depth_scores(depth, z)}


def depth_error(
    depth: NDArray[np.floating],
    truth: NDArray[np.floating],
    valid: NDArray[np.bool_] | None = None,
) -> dict[str, float]:
    """Errors of a z-depth [h w] in metres against the true one.

    Args:
        depth: Estimated z-depth [m]; 0 means none.
        truth: True z-depth [m]; 0 or less means unknown.
        valid: Pixels that count; all where both have a depth by default.

    Returns:
        `abs_rel` and `delta1` as they stand, `median_ratio` (estimate over truth), `r2` and
        `spearman` of the affine-aligned inverse depth, `abs_rel_aligned`, `delta1_aligned`.
    """
    use = _usable(depth, truth, valid) & (depth > 0)
    estimate, z = depth[use].astype(float), truth[use].astype(float)
    inverse = np.zeros(depth.shape)
    inverse[use] = 1.0 / estimate
    aligned = affine_error(inverse, truth, use)
    return {
        **_depth_scores(estimate, z),
        "median_ratio": float(np.median(estimate / z)),
        "r2": aligned["r2"],
        "spearman": aligned["spearman"],
        "abs_rel_aligned": aligned["abs_rel"],
        "delta1_aligned": aligned["delta1"],
    }


def ramp_error(
    truth: NDArray[np.floating], valid: NDArray[np.bool_] | None = None
) -> dict[str, float]:
    """Errors of the best vertical ramp: what looking at no pixel at all achieves."""
    rows = np.arange(truth.shape[0], dtype=float)[:, None]
    return affine_error(np.broadcast_to(rows, truth.shape), truth, valid)


def summary(errors: Mapping[str, float]) -> str:
    """The errors as one line for people."""
    names = {"r2": "R2", "abs_rel": "AbsRel", "delta1": "delta<1.25", "spearman": "Spearman"}
    return ", ".join(f"{text} {errors[key]:.3f}" for key, text in names.items() if key in errors)


def _usable(
    estimate: NDArray, truth: NDArray, valid: NDArray[np.bool_] | None
) -> NDArray[np.bool_]:
    use = np.isfinite(truth) & (truth > 0) & np.isfinite(estimate)
    return use if valid is None else use & valid


def _depth_scores(depth: NDArray, truth: NDArray) -> dict[str, float]:
    ratio = np.maximum(depth / truth, truth / depth)
    return {
        "abs_rel": float(np.mean(np.abs(depth - truth) / truth)),
        "delta1": float(np.mean(ratio < DELTA)),
    }


def _spearman(x: NDArray, y: NDArray) -> float:
    def ranks(values: NDArray) -> NDArray:
        _, index, counts = np.unique(values, return_inverse=True, return_counts=True)
        return (np.cumsum(counts) - (counts + 1) / 2)[index]

    return float(np.corrcoef(ranks(x), ranks(y))[0, 1])
