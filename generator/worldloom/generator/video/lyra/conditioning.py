"""Memory, history and cameras -> everything the network is told about one chunk (spec 2, 4, 5).

Built once per chunk; nothing here depends on the sampling step or the prompt.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldloom.generator.memory import correspondence
from worldloom.generator.memory.lyra_cache import LyraMemory
from worldloom.generator.memory.rays import BLOCK, folded_rays
from worldloom.generator.memory.sources import SourceFrame
from worldloom.generator.video.lyra.layout import (
    FRAMES_PER_LATENT,
    FramePack,
    latent_frame,
    retrieval_frames,
)
from worldloom.generator.video.lyra.vae import VideoVAE

MASK_CHANNELS = 4  # All ones, in history and new frames alike (spec generation 2).
RAY_CHANNELS = 6 * BLOCK * BLOCK  # Origin and direction, folded (spec generation 5).
SLOT_CHANNELS = 4 * BLOCK * BLOCK  # x, y, z and depth of a slot, folded (spec generation 4.4).


@dataclass(frozen=True)
class Shot:
    """Cameras of a whole video up to the end of the chunk, world to camera."""

    w2c: NDArray[np.float64]
    """[n 4 4]."""
    K: NDArray[np.float64]
    """In pixels with integer centres for warps, +0.5 for rays: as released (spec 11.1), [n 3 3]."""
    size: tuple[int, int]
    """Width and height of the frames."""


@dataclass(frozen=True)
class Past:
    """What is known before the chunk."""

    latents: Tensor
    """All history latents in the order of time, [1 C T h w]."""
    pixels: Callable[[int], Tensor]
    """Pixels of a known frame [1 3 H W] in -1..1; those of retrieved frames and the last one."""
    depth: NDArray[np.float32]
    """Depth of the last known frame, [H W]."""
    memory: LyraMemory


@dataclass(frozen=True)
class Conditioning:
    """What the network is given for one chunk."""

    history: Tensor
    """Clean latents of the history slots, [1 C T_hist h w]."""
    y: Tensor
    """Mask, conditioning latents and folded rays of all slots, [1 4+C+384 T h w]."""
    buffer: Tensor
    """Correspondences of the memory slots and the new frames, [1 slots*256 spatial+new h w].
    Temporal slots have none."""
    retrieved: tuple[int, ...]
    """Frames in the memory slots before filling up, best last."""
    warped: Tensor
    """Last known frame as the new cameras see it, [1 3 n H W]."""


def condition(
    layout: FramePack,
    vae: VideoVAE,
    past: Past,
    shot: Shot,
    chunk: int,
    *,
    views: int = 1,
    warp_chunk: int = 16,
    retrieved: list[int] | None = None,
    group: int = 1,
) -> Conditioning:
    """Conditioning of chunk number `chunk`.

    Args:
        layout: Of the history.
        vae: Encodes warped and remembered frames.
        past: What is known.
        shot: All cameras up to the chunk's end.
        chunk: Which one, from 0.
        views: Cameras of the chunk for which the memory is asked.
        warp_chunk: Views that share one depth maximum in the warps (quirk of the released code).
        retrieved: Memory frames, best last, instead of asking the memory.
        group: Latents that the VAE encodes at a time.
    """
    reference = layout.new_frames * chunk
    if retrieved is None:
        asked = retrieval_frames(layout, chunk, views)
        retrieved = past.memory.retrieve(shot.w2c[asked], shot.K[asked], shot.size, layout.spatial)
    images = slot_images(layout, vae, past, retrieved)
    selected = past.latents[:, :, layout.select(past.latents.shape[2])]
    history = _pack(layout, selected, images)
    warped = torch.from_numpy(_reference_view(past, shot, layout, reference, warp_chunk))
    warped = warped.permute(3, 0, 1, 2)[None].to(history)
    tail = encode_warped(vae, warped, group=group)
    y = history.new_ones(
        1, MASK_CHANNELS + history.shape[1] + RAY_CHANNELS, layout.total, *history.shape[3:]
    )
    y[:, MASK_CHANNELS:-RAY_CHANNELS] = torch.cat([history, tail], 2)
    rays = torch.from_numpy(_rays(layout, past, shot, chunk, retrieved))
    y[0, -RAY_CHANNELS:] = rays.transpose(0, 1).to(y.device)
    del rays  # As large as all the rest of y.
    return Conditioning(
        history=history,
        y=y,
        buffer=_buffer(layout, past, shot, reference, retrieved, warp_chunk).to(history),
        retrieved=tuple(retrieved),
        warped=warped,
    )


def slot_images(layout: FramePack, vae: VideoVAE, past: Past, retrieved: list[int]) -> Tensor:
    """Latents of the memory slots [1 C slots h w], each frame encoded as a video of its own.

    Slots without a frame, on the left, take frame 0 (spec generation 3.6).
    """
    known: dict[int, Tensor] = {}
    for frame_id in [0, *retrieved] if len(retrieved) < layout.spatial else retrieved:
        if frame_id not in known:
            image = _pixels(past, frame_id).to(past.latents)
            known[frame_id] = vae.encode(image[:, :, None])
    slots = slot_frames(layout, retrieved)
    parts = [known[i] for i in slots]
    return torch.cat(parts, 2) if parts else past.latents[:, :, :0]


def slot_frames(layout: FramePack, retrieved: list[int]) -> list[int]:
    """Frame of every memory slot: the retrieved ones, best last, right-aligned; else frame 0."""
    return [0] * (layout.spatial - len(retrieved)) + list(retrieved)


def encode_warped(vae: VideoVAE, warped: Tensor, *, group: int = 1) -> Tensor:
    """Latents of warped frames [1 3 n H W]: the first frame doubled, its latent dropped (4.3)."""
    doubled = torch.cat([warped[:, :, :1], warped], 2)
    return vae.encode(doubled, group=group)[:, :, 1:]


def _pixels(past: Past, frame_id: int) -> Tensor:
    """Colours of a frame [1 3 H W]; further input views bring their own."""
    if frame_id < 0:
        pixels = past.memory.get(frame_id).pixels
        if pixels is not None:
            return torch.from_numpy(pixels)[None]
    return past.pixels(frame_id)


def _pack(layout: FramePack, temporal: Tensor, images: Tensor) -> Tensor:
    """History latents in the order of the slots."""
    order = torch.empty(layout.history, dtype=torch.long)
    order[layout.temporal_positions()] = torch.arange(layout.temporal)
    order[layout.spatial_positions()] = layout.temporal + torch.arange(layout.spatial)
    return torch.cat([temporal, images], 2)[:, :, order.to(temporal.device)]


def _reference_view(
    past: Past, shot: Shot, layout: FramePack, reference: int, warp_chunk: int
) -> NDArray[np.float32]:
    """Last known frame at all new cameras [n H W 3]."""
    source = SourceFrame(past.depth, shot.w2c[reference], shot.K[reference])
    pixels = past.pixels(reference)[0].permute(1, 2, 0).float().cpu().numpy()
    new = slice(reference + 1, reference + 1 + layout.new_frames)
    return correspondence.warp_reference(
        source, pixels, shot.w2c[new], shot.K[new], shot.size, warp_chunk=warp_chunk
    )


def _rays(
    layout: FramePack, past: Past, shot: Shot, chunk: int, retrieved: list[int]
) -> NDArray[np.float32]:
    """Folded rays of all slots [T 384 h w], relative to the last known frame (spec 5)."""
    reference = layout.new_frames * chunk
    w2c = np.zeros((layout.total, 4, 4))
    K = np.zeros((layout.total, 3, 3))
    latents = layout.history + layout.new * chunk
    for slot, latent in zip(layout.temporal_positions(), layout.select(latents), strict=True):
        frame = latent_frame(layout, latent)
        w2c[slot], K[slot] = shot.w2c[frame], shot.K[frame]
    for slot, frame in zip(layout.spatial_positions(), slot_frames(layout, retrieved), strict=True):
        w2c[slot], K[slot] = _camera(past, shot, frame)
    ends = reference + FRAMES_PER_LATENT * np.arange(1, layout.new + 1)
    w2c[layout.history :], K[layout.history :] = shot.w2c[ends], shot.K[ends]
    relative = shot.w2c[reference] @ np.linalg.inv(w2c)
    focal = np.stack([K[:, 0, 0], K[:, 1, 1], K[:, 0, 2], K[:, 1, 2]], -1)
    return folded_rays(relative, focal, shot.size)


def _camera(past: Past, shot: Shot, frame: int) -> tuple[NDArray, NDArray]:
    if frame < 0:
        found = past.memory.get(frame)
        return found.w2c, found.K
    return shot.w2c[frame], shot.K[frame]


def _buffer(
    layout: FramePack,
    past: Past,
    shot: Shot,
    reference: int,
    retrieved: list[int],
    warp_chunk: int,
) -> Tensor:
    """Correspondences of memory slots and new frames [1 slots*256 T h w] (spec 4.4, 4.5)."""
    h, w = (side // BLOCK for side in reversed(shot.size))
    slots = layout.spatial
    out = np.empty((slots * SLOT_CHANNELS, slots + layout.new, h, w), np.float32)
    found = [past.memory.get(frame) for frame in reversed(retrieved)]
    sources = [SourceFrame(f.depth, f.w2c, f.K) for f in found]
    new = slice(reference + 1, reference + 1 + layout.new_frames)
    correspondence.fill_new(
        out[:, slots:], sources, shot.w2c[new], shot.K[new], shot.size,
        slots=layout.spatial, warp_chunk=warp_chunk,
    )  # fmt: skip
    for i in range(slots):
        correspondence.fill_history_slot(out[:, i], i, slots, shot.size)
    return torch.from_numpy(out)[None]
