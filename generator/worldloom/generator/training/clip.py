"""What is learnt from: a video with exact or estimated depth, cameras and captions."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from worldloom.generator.video.lyra.conditioning import Shot
from worldloom.scene.errors import InvalidRequest


@dataclass(frozen=True)
class TrainingClip:
    """One clip."""

    name: str
    video: Tensor
    """Pixels in -1..1, [1 3 T H W]."""
    depth: NDArray[np.float32]
    """z-depth, 0 where there is none, [T H W]."""
    w2c: NDArray[np.float64]
    """World to camera, OpenCV axes, [T 4 4]."""
    K: NDArray[np.float64]
    """Intrinsics in pixels, [T 3 3]."""
    text: Tensor
    """Prompt embeddings, [k 512 D]."""
    text_keys: tuple[int, ...] = (0,)
    """First frame from which each embedding counts."""

    def __len__(self) -> int:
        return self.video.shape[2]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.video.shape[-1], self.video.shape[-2]

    def check(self) -> TrainingClip:
        """This clip, when its parts fit together.

        Raises:
            InvalidRequest: They do not, or a camera is not finite.
        """
        n, (w, h) = len(self), self.size
        found = {
            "depth": (self.depth.shape, (n, h, w)), "w2c": (self.w2c.shape, (n, 4, 4)),
            "K": (self.K.shape, (n, 3, 3)),
        }  # fmt: skip
        for name, (shape, wanted) in found.items():
            if tuple(shape) != wanted:
                raise InvalidRequest(
                    f"clip {self.name}: {name} has shape {list(shape)}, the video of {n} frames of "
                    f"{w} x {h} needs {list(wanted)}; prepare the clip again"
                )
        if w % 16 or h % 16:
            raise InvalidRequest(
                f"clip {self.name} is {w} x {h}; both sides must be multiples of 16 pixels"
            )
        if not (np.isfinite(self.w2c).all() and np.isfinite(self.K).all()):
            raise InvalidRequest(f"clip {self.name} has a camera that is not finite; leave it out")
        if len(self.text) != len(self.text_keys) or list(self.text_keys) != sorted(self.text_keys):
            raise InvalidRequest(
                f"clip {self.name} has {len(self.text)} captions for the keys {self.text_keys}; "
                "give one caption for each key, keys rising"
            )
        return self

    def shot(self) -> Shot:
        """Its cameras, those after the target included: the memory may look from there."""
        return Shot(self.w2c, self.K, self.size)

    def text_index(self, frame: int) -> int:
        """Which caption counts at a frame: that of the largest key up to it (spec 8.6)."""
        known = [i for i, key in enumerate(self.text_keys) if key <= frame]
        return known[-1] if known else 0

    def since(self, start: int) -> TrainingClip:
        """The clip from frame `start` on, which becomes frame 0."""
        if start == 0:
            return self
        return replace(
            self, video=self.video[:, :, start:], depth=self.depth[start:], w2c=self.w2c[start:],
            K=self.K[start:], text_keys=tuple(key - start for key in self.text_keys),
        )  # fmt: skip

    def extended(self, frames: int) -> TrainingClip:
        """This clip, played back and forth until it has `frames` frames (spec 8.2)."""
        n = len(self)
        if n >= frames or n < 2:
            return self
        period = 2 * (n - 1)
        at = np.arange(frames) % period
        at = np.where(at < n, at, period - at)
        return replace(
            self, video=self.video[:, :, at], depth=self.depth[at], w2c=self.w2c[at], K=self.K[at]
        )
