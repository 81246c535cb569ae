"""Evidence of size -> metres per unit, how sure that is, and the content of scale.json.

What people tell and what sensors measured counts before what networks and habits suggest; sources
of the best kind that agree are joined by inverse variance. Nothing here is random.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from worldloom.generator.poses.gravity import Up
from worldloom.generator.video.frame import Frame
from worldloom.scene.errors import InvalidRequest

Kind = Literal["told", "measured", "network", "prior"]

SCALE_SCHEMA = "worldloom.scale/1"
USUAL_HEIGHT_M, USUAL_HEIGHT_SIGMA = 1.4, 0.3
"""Camera height when nobody tells it: hand-held between a sitting and a standing person's eyes
(1.1 to 1.7 m); relative sigma."""
HINT_SIGMA = 0.02  # Relative error of a height or distance that a person measures.
SUPPLIED_SIGMA = 0.01  # Relative error granted to a supplied metric depth.
NETWORK_SIGMA = 0.08  # Relative error of a metric depth network on a scene as a whole.
AGREE_SIGMAS = 3.0  # Sources within this many joint sigmas agree.
NOTHING_SIGMA = 1.0  # Relative error when there is no evidence at all.
LEAST_RATIO_PIXELS = 64  # Fewer pixels with both depths say nothing about their ratio.
WORST_SPREAD = 0.5  # A network whose ratio spreads more over the frames says nothing.


@dataclass(frozen=True)
class Evidence:
    """One statement about the scale."""

    name: str
    value: float
    """Metres per unit."""
    sigma: float
    """Relative standard deviation."""
    kind: Kind
    """Who says so: `told` by the user, `measured` by a sensor, a `network`, or a `prior`."""

    def to_json(self) -> dict[str, float | str]:
        """The entry of scale.json."""
        return {"name": self.name, "value": self.value, "sigma": self.sigma}


@dataclass(frozen=True)
class Scale:
    """How metres came about: the content of scale.json except for the levels."""

    value: float
    """Metres per unit of the depth before scaling."""
    sigma: float
    """Relative standard deviation of `value`."""
    status: str
    """`calibrated`, `estimated` or `unknown`."""
    sources: tuple[dict[str, float | str], ...]
    """Each source as name, value [m] and relative sigma."""


def fuse(evidence: Sequence[Evidence]) -> Scale:
    """The scale that the best evidence gives.

    Told and measured evidence makes it `calibrated`; a network, or two priors that agree, make it
    `estimated`; else it is `unknown`. A user's word beats a sensor that contradicts it.

    Raises:
        InvalidRequest: A value or sigma is not finite and above 0.
    """
    for item in evidence:
        if not (0 < item.value < np.inf and 0 < item.sigma < np.inf):
            raise InvalidRequest(
                f"scale source {item.name!r} says {item.value:g} m a unit, sigma {item.sigma:g}; "
                "both must be finite and above 0",
                field="scale",
            )
    sources = tuple(item.to_json() for item in evidence)
    sure = [item for item in evidence if item.kind in ("told", "measured")]
    if sure:
        return Scale(*_join(sure)[:2], "calibrated", sources)
    if not evidence:
        return Scale(1.0, NOTHING_SIGMA, "unknown", sources)
    value, sigma, agreeing = _join(list(evidence))
    known = any(item.kind == "network" for item in agreeing) or len(agreeing) > 1
    return Scale(value, sigma, "estimated" if known else "unknown", sources)


def with_later(scale: Scale, evidence: Sequence[Evidence]) -> Scale:
    """A scale that is fixed already, with evidence that came later.

    The value stays, since the world is built; sigma covers what the joint evidence says now, and
    an unknown or estimated scale that is confirmed gets the better status (architecture section 2).
    """
    own_kind: Kind = {"calibrated": "told", "estimated": "network"}.get(scale.status, "prior")
    own = Evidence("seed", scale.value, scale.sigma, own_kind)
    now = fuse([own, *evidence])
    sigma = float(np.hypot(now.sigma, np.log(now.value / scale.value)))
    ranks = ("unknown", "estimated", "calibrated")
    status = max(scale.status, now.status, key=ranks.index)
    added = tuple(item.to_json() for item in evidence)
    return replace(scale, sigma=sigma, status=status, sources=(*scale.sources, *added))


def scale_record(scale: Scale, up_in_photo_camera: ArrayLike, level_rms_deg: float) -> dict:
    """The content of scale.json (architecture section 2).

    Args:
        scale: Value, sigma, status and sources.
        up_in_photo_camera: Up in the photo camera's OpenCV axes, shape [3].
        level_rms_deg: How level the world is [degrees].
    """
    return {
        "schema": SCALE_SCHEMA,
        "value": scale.value,
        "sigma": scale.sigma,
        "sources": [dict(entry) for entry in scale.sources],
        "status": scale.status,
        "up_in_photo_camera": [float(x) for x in np.asarray(up_in_photo_camera, float)],
        "level_rms_deg": round(float(level_rms_deg), 3),
    }


def camera_height_evidence(up: Up, centre: ArrayLike, metres: float) -> Evidence | None:
    """A camera's height above the floor, as the user measured it; None where no floor is seen.

    Args:
        up: Up and floor of the frames.
        centre: The camera's centre in the frames' world [unit], shape [3].
        metres: Its height above the floor [m].
    """
    height = _height(up, centre)
    if height is None:
        return None
    sigma = float(np.hypot(HINT_SIGMA, height[1]))
    return Evidence("camera-height", metres / height[0], sigma, "told")


def depth_ratio_evidence(
    frames: Sequence[Frame], metric: Sequence[ArrayLike], *, name: str, kind: Kind = "network"
) -> Evidence | None:
    """The median ratio of metric depth to the frames' own (spec 6.3); None where too few agree.

    Args:
        frames: Frames with depth [unit].
        metric: Depth of the same pixels [m], 0, NaN or infinite where unsure, each [h w].
        name: Of the network or sensor.
        kind: `network`, or `measured` for a sensor.
    """
    logs = []
    for frame, depth in zip(frames, metric, strict=True):
        a, b = np.asarray(frame.depth, float), np.asarray(depth, float)
        good = np.isfinite(a) & np.isfinite(b) & (a > 0) & (b > 0)
        if np.count_nonzero(good) >= LEAST_RATIO_PIXELS:
            logs.append(float(np.median(np.log(b[good] / a[good]))))
    if not logs:
        return None
    middle = float(np.median(logs))
    spread = 1.4826 * float(np.median(np.abs(np.array(logs) - middle)))
    if spread > WORST_SPREAD:
        return None
    least = SUPPLIED_SIGMA if kind == "measured" else NETWORK_SIGMA
    sigma = float(np.hypot(least, spread / np.sqrt(len(logs))))
    return Evidence(name, float(np.exp(middle)), sigma, kind)


def _height(up: Up, centre: ArrayLike) -> tuple[float, float] | None:
    """Height above the floor [unit] and its relative sigma."""
    if up.floor is None:
        return None
    height = up.floor.height(centre)
    return (height, up.floor.height_sigma(centre) / height) if height > 0 else None


def _join(items: list[Evidence]) -> tuple[float, float, list[Evidence]]:
    """Value, sigma and the sources that agree with the first by rank, then by sureness."""
    rank = {"told": 0, "measured": 1, "network": 2, "prior": 3}
    items = sorted(items, key=lambda item: (rank[item.kind], item.sigma))
    agreeing = [item for item in items if _agree(item, items[0])]
    if len(agreeing) == 1:
        # Sources of the same rank that contradict each other make neither surer.
        rivals = [i for i in items[1:] if i.kind == items[0].kind and i.kind != "prior"]
        off = [abs(float(np.log(i.value / items[0].value))) / 2 for i in rivals]
        return items[0].value, float(np.hypot(items[0].sigma, max(off, default=0.0))), agreeing
    weight = np.array([item.sigma**-2 for item in agreeing])
    logs = np.log([item.value for item in agreeing])
    return float(np.exp(weight @ logs / weight.sum())), float(weight.sum() ** -0.5), agreeing


def _agree(first: Evidence, second: Evidence) -> bool:
    off = abs(float(np.log(first.value / second.value)))
    return off <= AGREE_SIGMAS * float(np.hypot(first.sigma, second.sigma))
