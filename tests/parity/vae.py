"""Recorded cases of the video VAE -> what ours makes of their inputs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from worldloom.generator.video.lyra.vae import FrameStatistics, VideoVAE


def run(case: Any) -> dict[str, Tensor]:
    """Every output of a VAE case, under its name without `out.`."""
    if not case.outputs:
        return {}
    vae = VideoVAE.load(case.config, case.weights)
    if "latent_history" in case.outputs:
        return _streaming(vae, case)
    if "img_mean" in case.inputs:
        return _second_normalisation(vae, case)
    return _whole(vae, case)


def _whole(vae: VideoVAE, case: Any) -> dict[str, Tensor]:
    made = {}
    for name, value in case.inputs.items():
        if name.startswith("latent"):
            made[name.replace("latent", "recon", 1)] = vae.decode(value)
            continue
        tail = name.removeprefix("video")
        latents = vae.encode(value)
        made[f"latent{tail}"] = latents
        made[f"recon{tail}"] = vae.decode(latents)
        mean, scale = vae._normal()
        made[f"raw{tail}"] = latents / scale + mean
    return {name: made[name] for name in case.outputs}


def _second_normalisation(vae: VideoVAE, case: Any) -> dict[str, Tensor]:
    names = ("img_mean", "img_std", "video_mean", "video_std")
    vae.statistics = FrameStatistics(*(case.inputs[name] for name in names))
    video = case.inputs["video"]
    clip, image = vae.encode(video), vae.encode(video[:, :, :1])
    return {
        "latent": clip, "latent_first": image,
        "recon": vae.decode(clip), "recon_first": vae.decode(image),
    }  # fmt: skip


def _streaming(vae: VideoVAE, case: Any) -> dict[str, Tensor]:
    video = case.inputs["video"]
    step = vae.config.frames_per_latent
    parts = [case.outputs[f"latent_{n}"].shape[2] for n in ("history", "chunk1", "chunk2")]
    sizes = [1 + step * (parts[0] - 1), step * parts[1], step * parts[2]]
    history, chunk1, chunk2 = video.split(sizes, dim=2)
    out: dict[str, Tensor] = {}
    out["latent_history"], state0 = vae.encode_stream(history, None)
    out["latent_chunk1"], state1 = vae.encode_stream(chunk1, state0)
    out["latent_chunk2"], _ = vae.encode_stream(chunk2, state1)
    out["latent_chunk2_zero_pixels"], _ = vae.encode_stream(torch.zeros_like(chunk2), state1)
    out["latent_whole"] = vae.encode(video)
    state = None
    for name in ("history", "chunk1", "chunk2"):
        out[f"recon_{name}"], state = vae.decode_stream(out[f"latent_{name}"], state)
    # The training helper: a clip, and the same with zeros where its last chunk is.
    latents = case.outputs["shared_prefix_latents"].shape[2]
    clip = video[:, :, : 1 + step * (latents - 1)]
    known = clip.shape[2] - step * parts[1]
    start, state = vae.encode_stream(clip[:, :, :known], None)
    zeros, _ = vae.encode_stream(torch.zeros_like(clip[:, :, known:]), state)
    out["shared_prefix_latents"] = vae.encode(clip)
    out["shared_prefix_cond"] = torch.cat([start, zeros], 2)
    return out
