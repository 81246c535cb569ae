"""Scores of CLIP-IQA+ and the CLIP aesthetic predictor -> WorldScore's subjective quality.

The two networks are not part of worldloom; their scores per frame come from outside. Definition
(WorldScore; spec reconstruction 5.2): z-score with the mean and spread below, mapped linearly so
that the stated range becomes 0.25..0.75, clipped to 0..1; mean of the two, times 100.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from worldloom.scene.errors import InvalidRequest


@dataclass(frozen=True)
class Norm:
    """How the score of one network becomes 0..1."""

    mean: float
    std: float
    low: float
    """z-score that becomes 0.25."""
    high: float
    """z-score that becomes 0.75."""


NORMS = {
    "clip_iqa": Norm(0.5842, 0.0441, -1.8342, 1.8703),
    "aesthetic": Norm(5.5952, 0.2561, -2.9342, 1.9741),
}
"""Constants of WorldScore (spec reconstruction 5.2)."""


def normalised(scores: ArrayLike, norm: Norm) -> float:
    """Mean score of the frames [n], mapped to 0..1.

    Raises:
        InvalidRequest: There is none, or one is not finite.
    """
    values = np.asarray(scores, float).ravel()
    if not values.size or not np.isfinite(values).all():
        raise InvalidRequest(
            f"{values.size} scores were given, {int((~np.isfinite(values)).sum())} of them not "
            "finite; give one finite score per frame"
        )
    z = (values.mean() - norm.mean) / norm.std
    return float(np.clip(0.25 + 0.5 * (z - norm.low) / (norm.high - norm.low), 0.0, 1.0))


def subjective_quality(clip_iqa: ArrayLike, aesthetic: ArrayLike) -> float:
    """Subjective quality 0..100 from both networks' scores per frame.

    Raises:
        InvalidRequest: A list is empty or holds what is not finite.
    """
    given = {"clip_iqa": clip_iqa, "aesthetic": aesthetic}
    return 100.0 * float(np.mean([normalised(given[name], norm) for name, norm in NORMS.items()]))


def read_scores(file: Path) -> dict[str, list[float]]:
    """The scores of a world: JSON with the lists `clip_iqa` and `aesthetic`, one value a frame.

    Raises:
        InvalidRequest: The file cannot be read or lacks a list.
    """
    try:
        raw = json.loads(file.read_text("utf-8"))
        return {name: [float(value) for value in raw[name]] for name in NORMS}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidRequest(
            f"the scores {file} cannot be read ({type(error).__name__}: {str(error)[:120]}); "
            'give JSON as {"clip_iqa": [0.61, ...], "aesthetic": [5.4, ...]}'
        ) from error
