"""A world's video -> the cameras that it really shows, as far as somebody can tell.

On a truth scene with noise the cameras of the keyframes are what the world was told of its poses,
errors included. Elsewhere they are estimated from the video alone by Depth Anything 3, which is
not told the commanded cameras, where its weights are present (spec reconstruction 5.5).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from worldloom.generator.evaluate.world import EvaluatedWorld, spread
from worldloom.generator.weights import catalogue, find_weights
from worldloom.scene.errors import NotFound
from worldloom.scene.frame import invert_rigid

ESTIMATORS = ("da3-base", "da3-small")
"""Networks that estimate poses, the better one first; both are free to use (Apache-2.0)."""
VIEWS_MAX = 32  # Frames that the network sees at once; its cost grows with their square.
SAME_M = 1e-6  # Keyframes nearer to the commanded poses than this have no error [m].


@dataclass(frozen=True)
class FoundPoses:
    """Cameras of some frames in a world of their own."""

    c2w: NDArray[np.float64]
    """Camera to its own world, unit of its own, [n 4 4]."""
    frame_id: NDArray[np.int64]
    """Numbers of the frames, [n]."""
    source: str
    """Where the poses come from, for reports."""
    note: str = ""


def found_poses(world: EvaluatedWorld, scene: str | None, folder: Path | None = None) -> FoundPoses:
    """Cameras to hold against the commanded ones.

    Args:
        world: What is judged.
        scene: The truth scene that the world shows, if any.
        folder: Where to look for weights besides the usual folder.

    Raises:
        NotFound: Nothing here can tell them.
        CorruptData: The weights are damaged.
    """
    for name in ESTIMATORS:
        file = _weights(name, folder)
        if file is not None:
            return estimated_poses(world, name, file)
    if scene is None:
        raise NotFound(
            "needs poses estimated from the video, and da3-small weights for that; bring them "
            "with: worldloom weights convert da3-small SOURCE"
        )
    return held_poses(world, scene)


def held_poses(world: EvaluatedWorld, scene: str) -> FoundPoses:
    """The poses that the keyframes of a truth world have.

    Raises:
        NotFound: They are the commanded ones, so that nothing is found by comparing them.
    """
    c2w = np.stack([view.c2w for view in world.views])
    commanded = world.cameras.c2w[[world.row(int(number)) for number in world.keyframe_id]]
    if np.allclose(c2w, commanded, rtol=0, atol=SAME_M):
        raise NotFound(
            "the keyframes have exactly the commanded poses, so the score would be 100 by "
            "construction; a scene with noise, or da3-small weights, tells more"
        )
    note = "what the world was told of its cameras, not what its video shows"
    return FoundPoses(c2w, world.keyframe_id, f"keyframes of truth scene {scene}", note)


def estimated_poses(world: EvaluatedWorld, name: str, file: Path) -> FoundPoses:
    """Poses of frames spread over the whole video, by a Depth Anything 3 network.

    Raises:
        CorruptData: The weights are damaged.
        EngineFailed: The frames cannot be used.
    """
    import torch

    from worldloom.generator.depth.da3.preprocess import prepare
    from worldloom.generator.depth.da3.single import read_network

    numbers = spread(world.video_id.tolist(), VIEWS_MAX)
    frames = world.frames(numbers)
    ready = prepare(np.stack([frames[number] for number in numbers]))
    with torch.no_grad():
        found = read_network(name, file)(ready.images)
    c2w = invert_rigid(found.w2c.double().cpu().numpy())
    # Float32 quaternions leave rotations a little off; the nearest rotation is meant.
    u, _, vh = np.linalg.svd(c2w[:, :3, :3])
    c2w[:, :3, :3] = u @ vh
    source = f"poses estimated from the video by {name}, unconditioned"
    return FoundPoses(c2w, np.array(numbers, np.int64), source, "not DROID-SLAM, as in the paper")


def _weights(name: str, folder: Path | None) -> Path | None:
    if name not in {entry.name for entry in catalogue()}:
        return None
    return (find_weights(name, folder) if folder else None) or find_weights(name)
