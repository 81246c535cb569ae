"""Cameras of a chunk -> Lyra's frames: the video model at the seam of the pipeline.

Here the world's conventions end: cameras become world to camera in the frame of the photo, in
metres, and colours -1..1 (architecture page, section 2).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldloom.generator.depth.da3.nested import Network
from worldloom.generator.memory.cache import FrameCache
from worldloom.generator.seed import Seed
from worldloom.generator.video.frame import ORIGIN_NONE, Frame
from worldloom.generator.video.lyra.estimated import EstimatedDepth
from worldloom.generator.video.lyra.loop import (
    Hooks,
    LyraOptions,
    Networks,
    Prompts,
    begin,
    step,
)
from worldloom.generator.video.lyra.reprojected import ReprojectedDepth, to_rgb
from worldloom.generator.video.lyra.state import LyraState, load_state, save_state
from worldloom.generator.video.preview import PreviewModel
from worldloom.scene.cameras import Cameras
from worldloom.scene.errors import EngineFailed
from worldloom.scene.frame import invert_rigid
from worldloom.scene.path_files import caption_of_chunk


@dataclass(frozen=True)
class PromptBook:
    """Prompts of a video and how they are embedded."""

    prompts: dict[int, str]
    """By frame from which they apply."""
    embed: Callable[[str], Tensor]
    """Embedding [1 512 D] of a text."""
    negative: Tensor | None
    """Embedding of what the video shall not be."""

    def of(self, chunk: int) -> Prompts:
        """Embeddings of a chunk."""
        return Prompts(self.embed(caption_of_chunk(self.prompts, chunk)), self.negative)


class LyraModel:
    """Makes frames with Lyra's video model; carries a state from chunk to chunk."""

    def __init__(
        self,
        seed: Seed,
        networks: Networks,
        options: LyraOptions,
        book: PromptBook,
        *,
        depth: Network | None = None,
    ) -> None:
        """Args: of the run; without a depth network the photo's depth is carried along."""
        self._seed = seed
        self._networks = networks
        self._options = options
        self._book = book
        self._depth = depth
        # Depth of generated frames stands on the same backdrop as the preview's.
        self._geometry = PreviewModel(seed, seed_number=options.seed)
        self._state: LyraState | None = None

    def first(self) -> Frame:
        """Frame 0: the photo with its depth."""
        return self._geometry.first()

    def chunk(
        self,
        cameras: Cameras,
        cache: FrameCache,
        *,
        on_frame: Callable[[Frame], None] | None = None,
        on_step: Callable[[int, int], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> list[Frame]:
        """Frames at `cameras`; keyframes are remembered in `cache` and returned.

        Raises:
            JobCancelled: `cancelled` became true.
            EngineFailed: The cameras do not follow on the state, or what was made is not finite.
        """
        state = self._state or self._begin()
        if int(cameras.frame_id[0]) != state.last + 1:
            raise EngineFailed(
                f"the chunk starts at frame {cameras.frame_id[0]}, but the video model stands at "
                f"frame {state.last}; its checkpoint is missing or of another job"
            )
        depth = self._depth_of(cameras, cache)
        after, made = step(
            self._networks, self._options, state, self._to_lyra(cameras.c2w), cameras.K,
            self._book.of(state.chunks), depth,
            hooks=Hooks(on_evaluation=on_step, cancelled=cancelled),
        )  # fmt: skip
        if not bool(torch.isfinite(made.frames).all()):
            raise EngineFailed(
                f"the video model made frames from {cameras.frame_id[0]} on that are not finite; "
                "verify its weights with: worldloom weights verify"
            )
        self._state = after
        keyframes = {frame.frame_id: frame for frame in depth.made}
        if on_frame is not None:
            for i in range(cameras.n):
                known = keyframes.get(int(cameras.frame_id[i]))
                on_frame(known or _without_depth(cameras, i, made.frames[0, :, i]))
        return list(keyframes.values())

    def _depth_of(self, cameras: Cameras, cache: FrameCache) -> EstimatedDepth | ReprojectedDepth:
        """Who tells the depth of a chunk's keyframes."""
        if self._depth is None:
            return ReprojectedDepth(self._geometry, cameras, cache)
        return EstimatedDepth(
            self._depth, self._geometry, cameras, cache, self._networks.placement.stage
        )

    def keep(self, folder: Path) -> None:
        """Save the state; before the first chunk there is none."""
        if self._state is not None:
            save_state(self._state, folder)

    def recall(self, folder: Path) -> None:
        """Go on from a saved state.

        Raises:
            CorruptData: It cannot be read.
        """
        if folder.is_dir():
            self._state = load_state(folder, self._networks.placement.device)

    def _begin(self) -> LyraState:
        seed = self._seed
        dtype = next(self._networks.vae.parameters()).dtype
        image = torch.from_numpy(seed.rgb * 2 - 1).permute(2, 0, 1)[None]
        image = image.to(self._networks.placement.device, dtype)
        return begin(self._networks, self._options, image, seed.depth, np.eye(4), seed.K)

    def _to_lyra(self, c2w: NDArray[np.float64]) -> NDArray[np.float64]:
        """World to camera with the photo's camera as the world."""
        return invert_rigid(c2w) @ self._seed.c2w


def _without_depth(cameras: Cameras, i: int, pixels: Tensor) -> Frame:
    """A frame between keyframes, which goes to the video alone."""
    rgb = to_rgb(pixels)
    nothing = np.zeros(rgb.shape[:2], np.float32)
    origin = np.full(rgb.shape[:2], ORIGIN_NONE, np.uint8)
    return Frame(int(cameras.frame_id[i]), rgb, nothing, origin, cameras.c2w[i], cameras.K[i])
