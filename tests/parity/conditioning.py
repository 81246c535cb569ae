"""Adapter of a chunk's conditioning: retrieval, slots, warp, buffer, rays."""

from __future__ import annotations

from typing import Any

import torch

from tests.parity.harness import Case
from worldloom.generator.memory.lyra_cache import LyraMemory
from worldloom.generator.video.lyra.conditioning import MASK_CHANNELS, Past, Shot, condition
from worldloom.generator.video.lyra.layout import FramePack
from worldloom.generator.video.lyra.vae import VideoVAE


def vae_weights(case: Case) -> dict[str, torch.Tensor]:
    """The VAE's part of a weights file with or without a prefix."""
    own = {k.removeprefix("vae."): v for k, v in case.weights.items() if k.startswith("vae.")}
    return own or case.weights


def run(case: Case) -> dict[str, Any]:
    """All recorded outputs of a case."""
    c, i = case.config, case.inputs
    layout = FramePack.parse(c["framepack_type"])
    vae = VideoVAE.load(c["vae"], vae_weights(case))
    memory = LyraMemory(stride=c["retrieval_downsample"])
    colours = iter(i["cache_rgb"]) if "cache_rgb" in i else iter(())
    for depth, w2c, K, frame_id in zip(
        i["cache_depth"], i["cache_w2c"], i["cache_K"], i["cache_frame_ids"].tolist(), strict=True
    ):
        pixels = next(colours)[0].numpy() if frame_id < 0 else None
        memory = memory.remember(
            frame_id, depth[0, 0].numpy(), w2c[0].numpy(), K[0].numpy(), pixels=pixels
        )
    shot = Shot(
        i["camera_w2c"][0].double().numpy(), i["intrinsics"][0].double().numpy(), (c["W"], c["H"])
    )
    video = i["video"]
    past = Past(i["history"], lambda f: video[:, :, f], i["buffer_depth"][0, 0].numpy(), memory)
    chunk = (c["known_frames"] - 1) // layout.new_frames
    made = condition(
        layout, vae, past, shot, chunk, views=c["num_retrieval_views"],
        warp_chunk=c["warp_chunk_size"],
    )  # fmt: skip
    empty = made.history.new_zeros(1, made.history.shape[1], layout.new, *made.history.shape[3:])
    return {
        "latents": torch.cat([made.history, empty], 2),
        "cond": made.y[:, MASK_CHANNELS:],
        "mask": made.y[:, :MASK_CHANNELS],
        "buffer": _all_slots(layout, made.buffer),
        "buffer_new": made.buffer[:, :, -layout.new :],
        "frame_ids": torch.tensor(made.retrieved, dtype=torch.int64),
        "warped_last": made.warped,
    }


def _all_slots(layout: FramePack, buffer: torch.Tensor) -> torch.Tensor:
    """The buffer with the zeros of the temporal slots, which we do not keep."""
    places = [*layout.spatial_positions(), *range(layout.history, layout.total)]
    out = buffer.new_zeros(*buffer.shape[:2], layout.total, *buffer.shape[3:])
    out[:, :, places] = buffer
    return out
