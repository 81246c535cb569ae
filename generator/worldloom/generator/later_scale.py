"""A growing world's keyframes -> what scale.json says after the fact.

The value is fixed when the world is seeded (architecture section 2). Many frames see the floor
better than the photo alone did: the camera height that the user told is compared with the floor of
all of them, and what they say changes sigma and status only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from worldloom.generator.poses.gravity import estimate_up
from worldloom.generator.poses.scale import (
    HINT_SIGMA,
    Scale,
    camera_height_evidence,
    scale_record,
    with_later,
)
from worldloom.generator.video.frame import Frame

SOURCE = "floor-of-all-keyframes"
LEAST_FRAMES = 3  # Fewer frames tell no more than the photo did.
MOST_FRAMES = 12  # More frames of one walk see the same floor again.


def later_scale(
    record: dict[str, Any], frames: Sequence[Frame], camera_height_m: float | None
) -> dict[str, Any]:
    """The content of scale.json with the evidence of the keyframes so far.

    Args:
        record: What the seed said.
        frames: Keyframes in the world, the photo first.
        camera_height_m: Height of the photo's camera above the floor as the user told it [m].
    """
    if camera_height_m is None or len(frames) < LEAST_FRAMES:
        return record
    up = estimate_up(frames[:: -(-len(frames) // MOST_FRAMES)])
    found = camera_height_evidence(up, frames[0].c2w[:3, 3], camera_height_m)
    if found is None:
        return record
    scale = Scale(record["value"], record["sigma"], record["status"], tuple(record["sources"]))
    # The frames are in metres already: the evidence is about what a metre of the world measures.
    evidence = replace(found, name=SOURCE, value=found.value * scale.value)
    joint = with_later(scale, [evidence])
    # Both compare with the same tape measure, whose error no number of frames makes smaller.
    joint = replace(joint, sigma=max(joint.sigma, min(HINT_SIGMA, scale.sigma)))
    return scale_record(joint, record["up_in_photo_camera"], record["level_rms_deg"])
