"""A clip and a chunk of it -> what the network is shown and what it shall say (spec 8.2, 8.4).

The conditioning is the one of inference, with the clip's own depth and poses, drawn memory frames,
and noise on the memory slots.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor, nn

from worldloom.generator.training.clip import TrainingClip
from worldloom.generator.training.draws import Draws
from worldloom.generator.training.memory import (
    MemoryDraw,
    candidates,
    draw_frames,
    drop_frames,
    remembered,
)
from worldloom.generator.video.lyra.conditioning import MASK_CHANNELS, Past, condition
from worldloom.generator.video.lyra.layout import FramePack, timeline

Stream = tuple  # Opaque state of a video codec between calls.


class Codec(Protocol):
    """What training needs of the video VAE; `VideoVAE` and `LinearCodec` are two."""

    def encode(self, video: Tensor, *, group: int = 1) -> Tensor:
        """Video [1 3 1+4n H W] -> latents."""
        ...

    def decode(self, latents: Tensor, *, group: int = 1) -> Tensor:
        """Latents -> video [1 3 1+4n H W], not clamped."""
        ...

    def encode_stream(
        self, frames: Tensor, state: Stream | None, *, group: int = 1
    ) -> tuple[Tensor, Stream]:
        """The next frames of a video -> their latents and the state to continue with."""
        ...


@dataclass(frozen=True)
class Encoders:
    """Frozen networks around the one that learns."""

    codec: Codec
    image: nn.Module
    """Picture [1 3 H W] -> image tokens [1 n d]."""


@dataclass(frozen=True)
class SampleConfig:
    """How samples are made; the defaults are those of the release."""

    layout: FramePack
    memory: MemoryDraw = field(default_factory=MemoryDraw)
    noise_mean: float | None = -3.0
    """Mean of the log noise level on memory slots; None for no noise."""
    noise_std: float = 2.0
    """Deviation of the log noise level."""
    text_dropout: float = 0.2
    """How often the prompt is replaced by the empty one."""
    warp_chunk: int = 16
    """Views that share one depth maximum in the warps."""
    group: int = 8
    """Latents that the codec takes at a time."""


@dataclass(frozen=True)
class WindowLatents:
    """Latents of a window in the order of time."""

    past: Tensor
    """Of the still pre-roll and all frames before the target, [1 C T h w]."""
    target: Tensor
    """Of the chunk to learn, [1 C new h w]."""


@dataclass(frozen=True)
class Sample:
    """One training sample."""

    segment: int
    history: Tensor
    """Latents of the history slots, memory slots with their noise, [1 C T_hist h w]."""
    clean: Tensor
    """Latents to learn, [1 C new h w]."""
    y: Tensor
    """Mask, conditioning latents, rays of all slots, [1 4+C+384 T h w]."""
    buffer: Tensor
    """Correspondences, [1 slots*256 T h w]."""
    image: Tensor
    """Image tokens of the last known frame, [1 n d]."""
    text: Tensor
    """Prompt embedding [1 512 D]."""
    text_index: int
    """Which caption of the clip; also where it was replaced by the empty one."""
    drawn: tuple[int, ...]
    """Memory frames before some were dropped, in slot order."""
    frames: tuple[int, ...]
    """Frame of the clip for every pixel frame of the window."""

    def packed(self, new: Tensor) -> Tensor:
        """All slots [1 C T h w] with latents `new` as the generated ones."""
        return torch.cat([self.history.to(new), new], 2)

    def velocity(self, model: nn.Module, new: Tensor, timestep: Tensor) -> Tensor:
        """What a network says of noisy latents `new` at `timestep` [1]."""
        return model(
            self.packed(new), timestep.view(1, 1), self.text, y=self.y, clip=self.image,
            buffer=self.buffer,
        )  # fmt: skip

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Sample:
        """The same on a device and in a type."""
        moved = {
            name: value.to(device=device, dtype=dtype)
            for name, value in vars(self).items()
            if isinstance(value, Tensor)
        }
        return replace(self, **moved)


def window_frames(layout: FramePack, clip: TrainingClip, segment: int) -> tuple[int, ...]:
    """Frame of the clip for every pixel frame of a window; the last repeats if need be."""
    return tuple(min(i, len(clip) - 1) for i in timeline(layout, segment))


def encode_past(
    codec: Codec, clip: TrainingClip, segment: int, config: SampleConfig
) -> tuple[Tensor, Stream]:
    """Latents of everything before a chunk, still pre-roll first, and the state after them."""
    known = config.layout.new_frames * segment
    still = clip.video[:, :, :1].expand(-1, -1, config.layout.preroll_frames, -1, -1)
    video = torch.cat([still, clip.video[:, :, : known + 1]], 2)
    return codec.encode_stream(video, None, group=config.group)


def chunk_pixels(layout: FramePack, clip: TrainingClip, segment: int) -> Tensor:
    """Pixels of a chunk [1 3 n H W]; the clip's last frame repeats if need be."""
    return clip.video[:, :, list(window_frames(layout, clip, segment)[-layout.new_frames :])]


def plain_latents(
    codec: Codec, clip: TrainingClip, segment: int, config: SampleConfig
) -> WindowLatents:
    """Latents of a window without any augmentation."""
    past, state = encode_past(codec, clip, segment, config)
    pixels = chunk_pixels(config.layout, clip, segment)
    return WindowLatents(past, codec.encode_stream(pixels, state, group=config.group)[0])


@torch.no_grad()
def build_sample(
    clip: TrainingClip,
    segment: int,
    latents: WindowLatents,
    encoders: Encoders,
    config: SampleConfig,
    draws: Draws,
    *,
    empty_text: Tensor | None = None,
    still_only: bool = False,
) -> Sample:
    """Assemble the sample of a chunk.

    Args:
        clip: Pixels of the history and the memory frames, depth, cameras, captions.
        segment: Chunk to learn.
        latents: Of its window.
        encoders: Frozen networks.
        config: How samples are made.
        draws: Where chance comes from.
        empty_text: Embedding [1 512 D] that replaces the prompt in a share of the samples.
        still_only: Remember nothing but frame 0: the first chunk after one picture.
    """
    layout = config.layout
    first = layout.new_frames * segment + 1
    last = min(first + layout.new_frames, len(clip)) - 1
    numbers = [0] if still_only else candidates(len(clip), first, last, config.memory)
    drawn = draw_frames(clip, numbers, last, layout.spatial, config.memory, draws)
    kept = drop_frames(drawn, config.memory, draws)
    past = Past(
        latents.past, lambda t: clip.video[:, :, t], clip.depth[first - 1],
        remembered(clip, kept, config.memory),
    )  # fmt: skip
    made = condition(
        layout, encoders.codec, past, clip.shot(), segment, warp_chunk=config.warp_chunk,
        retrieved=kept, group=config.group,
    )  # fmt: skip
    history, y = noisy_memory(made.history, made.y, config, draws)
    index = clip.text_index(first)
    text = _prompt(clip.text[index : index + 1], empty_text, config, draws)
    return Sample(
        segment=segment, history=history, clean=latents.target, y=y, buffer=made.buffer,
        image=encoders.image(clip.video[:, :, first - 1]), text=text, text_index=index,
        drawn=tuple(drawn), frames=window_frames(layout, clip, segment),
    )  # fmt: skip


def _prompt(text: Tensor, empty_text: Tensor | None, config: SampleConfig, draws: Draws) -> Tensor:
    if empty_text is None or config.text_dropout <= 0:
        return text
    dropped = float(draws.uniform(1, "drop text")) < config.text_dropout
    return empty_text if dropped else text


def noisy_memory(
    history: Tensor, y: Tensor, config: SampleConfig, draws: Draws
) -> tuple[Tensor, Tensor]:
    """History and conditioning with noise ADDED to the memory slots, the same to both (8.4).

    The noise is not variance preserving, and inference has none.
    """
    slots = config.layout.spatial_positions()
    if config.noise_mean is None or not slots:
        return history, y
    level = normal_quantile(draws.uniform(len(slots), "memory noise level").double())
    sigma = torch.exp(config.noise_mean + config.noise_std * level).float()
    shape = (*history.shape[:2], len(slots), *history.shape[3:])
    noise = (sigma.view(1, 1, -1, 1, 1) * draws.normal(shape, "memory noise")).to(history)
    history, y = history.clone(), y.clone()
    history[:, :, slots] += noise
    y[:, MASK_CHANNELS : MASK_CHANNELS + history.shape[1], slots] += noise
    return history, y


def normal_quantile(u: Tensor) -> Tensor:
    """The value that a standard normal number stays below with probability `u`."""
    return math.sqrt(2) * torch.erfinv(2 * u - 1)
