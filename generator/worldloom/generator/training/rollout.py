"""A network and a clip's cameras -> its own continuation of the first frame, chunk after chunk.

The loop of inference (spec 1.3) with the clip's exact depth in the memory: what differs from the
clip is the network's doing. The history is what was decoded and encoded again, mistakes included.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from worldloom.generator.memory.lyra_cache import LyraMemory
from worldloom.generator.training.clip import TrainingClip
from worldloom.generator.training.memory import MemoryDraw
from worldloom.generator.training.sample import Encoders, Sample, SampleConfig
from worldloom.generator.video.lyra.conditioning import Past, condition
from worldloom.generator.video.lyra.layout import FramePack
from worldloom.generator.video.lyra.sampler import flow_schedule, seeded_noise, unipc_sample

SHIFT = 5.0  # Of the sampling schedule (spec generation 1.4).

Velocity = Callable[[Sample, Tensor, Tensor], Tensor]
Sampler = Callable[[Callable[[Tensor, Tensor], Tensor], Tensor, int], Tensor]
"""Velocity, starting noise and chunk -> clean latents."""


@dataclass(frozen=True)
class Rollout:
    """What a network made of the first frame."""

    video: Tensor
    """[1 3 1+n H W], frame 0 as given, not clamped."""
    latents: Tensor
    """Sampled latents of all chunks, [1 C n/4 h w]."""


def unipc_sampler(steps: int, *, shift: float = SHIFT) -> Sampler:
    """The released solver with `steps` steps and no guidance."""
    schedule = flow_schedule(steps, shift)
    return lambda velocity, noise, _: unipc_sample(velocity, noise, schedule)


def chunk_sample(
    clip: TrainingClip,
    chunk: int,
    latents: Tensor,
    video: Tensor,
    encoders: Encoders,
    config: SampleConfig,
    memory: LyraMemory,
) -> Sample:
    """What inference shows the network before a chunk; `clean` is empty.

    Args:
        clip: Cameras, depth and prompt.
        chunk: Which one, from 0.
        latents: History in the order of time, [1 C T h w].
        video: Known frames, [1 3 n H W].
        encoders: Frozen networks.
        config: Layout and warps.
        memory: Frames that may be retrieved.
    """
    layout = config.layout
    last = layout.new_frames * chunk
    past = Past(latents, lambda t: video[:, :, t], clip.depth[last], memory)
    made = condition(
        layout, encoders.codec, past, clip.shot(), chunk, warp_chunk=config.warp_chunk,
        group=config.group,
    )  # fmt: skip
    index = clip.text_index(last + 1)
    return Sample(
        segment=chunk, history=made.history, clean=made.history[:, :, :0], y=made.y,
        buffer=made.buffer, image=encoders.image(video[:, :, last]),
        text=clip.text[index : index + 1], text_index=index, drawn=made.retrieved, frames=(),
    )  # fmt: skip


@torch.no_grad()
def roll_out(
    velocity: Velocity,
    clip: TrainingClip,
    encoders: Encoders,
    config: SampleConfig,
    *,
    chunks: int,
    sampler: Sampler,
    seed: int = 1,
) -> Rollout:
    """Continue the first frame of a clip along its cameras.

    Args:
        velocity: The network.
        clip: First frame, cameras, exact depth, prompt.
        encoders: Frozen networks; the codec must decode streams.
        config: Layout and memory.
        chunks: How many to make; the clip must be that long.
        sampler: Turns noise into latents.
        seed: Of the noise; chunk i uses seed + i.
    """
    layout, codec = config.layout, encoders.codec
    video = clip.video[:, :, :1]
    still = video.expand(-1, -1, layout.preroll_frames + 1, -1, -1)
    latents, encoder = codec.encode_stream(still, None, group=config.group)
    _, decoder = codec.decode_stream(latents, None, group=config.group)
    memory, made = _remember(clip, LyraMemory(stride=config.memory.points_stride), 0), []
    for chunk in range(chunks):
        shown = chunk_sample(clip, chunk, latents, video, encoders, config, memory)
        noise = seeded_noise(seed + chunk, (1, latents.shape[1], layout.new, *latents.shape[3:]))
        new = sampler(_bound(velocity, shown), noise.to(latents), chunk).to(latents)
        pixels, decoder = codec.decode_stream(new, decoder, group=config.group)
        again, encoder = codec.encode_stream(pixels, encoder, group=config.group)
        latents, video = torch.cat([latents, again], 2), torch.cat([video, pixels], 2)
        made.append(new)
        for t in _keyframes(layout, chunk, config.memory):
            memory = _remember(clip, memory, t)
    return Rollout(video, torch.cat(made, 2))


def _bound(velocity: Velocity, shown: Sample) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda x, timestep: velocity(shown, x, timestep.float().reshape(1))


def _remember(clip: TrainingClip, memory: LyraMemory, t: int) -> LyraMemory:
    return memory.remember(t, clip.depth[t], clip.w2c[t], clip.K[t])


def _keyframes(layout: FramePack, chunk: int, memory: MemoryDraw) -> list[int]:
    first = layout.new_frames * chunk + 1
    return [t for t in range(first, first + layout.new_frames) if t % memory.stride == 0]


def psnr_per_chunk(video: Tensor, true: Tensor, layout: FramePack) -> list[float]:
    """Peak signal to noise ratio [dB] of each chunk of a rollout against the true frames."""
    count = (video.shape[2] - 1) // layout.new_frames
    out = []
    for chunk in range(count):
        part = slice(1 + chunk * layout.new_frames, 1 + (chunk + 1) * layout.new_frames)
        error = (video[:, :, part].clamp(-1, 1) - true[:, :, part]).square().mean()
        out.append(10 * math.log10(4.0 / max(float(error), 1e-12)))
    return out


def without_noise(config: SampleConfig) -> SampleConfig:
    """The same with clean memory slots and all prompts, for measuring."""
    return replace(config, noise_mean=None, text_dropout=0.0)
