"""Truth scenes -> endless training clips with exact depth and poses, the same for the same seed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldloom.generator.training.clip import TrainingClip
from worldloom.generator.truth.render import render_view
from worldloom.generator.truth.scene import scene, scene_names
from worldloom.generator.truth.walk import walkthrough
from worldloom.generator.video.lyra.config import TEXT_TOKENS
from worldloom.scene.cameras import intrinsics
from worldloom.scene.frame import invert_rigid, rotation_about

DENSE_FRAMES = 641  # Frames of the walk that clips are cut from: steps of a few centimetres.
STEPS = (1, 4)  # Frames of the dense walk per frame of a clip, at least and at most.
SWAY_DEG = 12.0  # Largest turn beside the walk's own.
PROMPT_ROWS = 8  # Rows of a made-up prompt embedding that are not zero.


@dataclass(frozen=True)
class TruthClips:
    """Clips of all scenes, or of some; item i is the same in every run."""

    frames: int
    """Frames of a clip."""
    size: tuple[int, int]
    """Width and height in pixels."""
    text_dim: int
    seed: int = 0
    scenes: tuple[str, ...] = ()
    """Names of the scenes; all of them when empty."""
    supersample: int = 2
    """Samples along each side of a pixel."""
    fov_deg: float = 35.0
    """Horizontal field of view. Small pictures need a narrow one: a floor that is seen at a grazing
    angle changes its depth by too much from pixel to pixel for the warps to trust it."""
    limit: int = 0
    """Number of different clips, 0 for no end: item i is clip i modulo it."""

    def clip(self, index: int) -> TrainingClip:
        """Clip number `index`: a stretch of a walk, either way, at a speed of its own."""
        number = index % self.limit if self.limit else index
        rng = np.random.default_rng([self.seed, number])
        names = self.scenes or tuple(scene_names())
        name = names[int(rng.integers(len(names)))]
        place = scene(name)
        c2w = self._cameras(place, rng)
        K = intrinsics(self.fov_deg, *self.size)
        views = [render_view(place, c, K, self.size, supersample=self.supersample) for c in c2w]
        rgb = torch.from_numpy(np.stack([view.rgb for view in views]))
        return TrainingClip(
            name=f"{name}-{number}",
            video=(rgb.permute(3, 0, 1, 2)[None] * 2 - 1).contiguous(),
            depth=np.stack([view.depth for view in views]),
            w2c=np.stack([invert_rigid(c) for c in c2w]),
            K=np.tile(K, (self.frames, 1, 1)),
            text=prompt_of(name, self.text_dim),
        ).check()

    def _cameras(self, place, rng: np.random.Generator) -> NDArray[np.float64]:
        """Cameras [frames 4 4], camera to world."""
        dense = walkthrough(place, DENSE_FRAMES, size=self.size).c2w
        step = rng.uniform(*STEPS)
        start = rng.uniform(0, DENSE_FRAMES - 1)
        at = start + step * np.arange(self.frames) * rng.choice([-1, 1])
        # At an end of the walk it is walked back.
        at = np.abs(at) % (2 * (DENSE_FRAMES - 1))
        at = np.where(at < DENSE_FRAMES, at, 2 * (DENSE_FRAMES - 1) - at).round().astype(int)
        sway = np.radians(SWAY_DEG) * rng.uniform(-1, 1)
        period = rng.uniform(20, 60)
        made = dense[at.clip(0, DENSE_FRAMES - 1)].copy()
        for t, pose in enumerate(made):
            turn = rotation_about([0, 0, 1], sway * np.sin(2 * np.pi * t / period))
            pose[:3, :3] = turn @ pose[:3, :3]
        return made


def prompt_of(words: str, width: int) -> Tensor:
    """A made-up prompt embedding [1 512 width]: the same words give the same numbers."""
    seed = int.from_bytes(hashlib.sha256(words.encode()).digest()[:7], "big")
    rows = torch.randn(PROMPT_ROWS, width, generator=torch.Generator().manual_seed(seed))
    out = torch.zeros(1, TEXT_TOKENS, width)
    out[0, :PROMPT_ROWS] = rows
    return out


def empty_prompt(width: int) -> Tensor:
    """The embedding [1 512 width] of no words."""
    return torch.zeros(1, TEXT_TOKENS, width)
