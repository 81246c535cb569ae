"""A clip and the model -> the same clip with a history of the model's own making (spec 8.3).

At inference the history is what the model made before, with its mistakes. Here a chunk is noised
half way at most, predicted in one step, decoded and written back into the clip; the chunk after it
is then learnt, towards the truth.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from worldloom.generator.training.clip import TrainingClip
from worldloom.generator.training.draws import Draws
from worldloom.generator.training.flow import (
    AUGMENT_MOST,
    TrainingFlow,
    clean_from,
    interpolate,
)
from worldloom.generator.training.sample import (
    Codec,
    Encoders,
    Sample,
    SampleConfig,
    WindowLatents,
    build_sample,
    chunk_pixels,
    encode_past,
    plain_latents,
    window_frames,
)

Velocity = Callable[[Sample, Tensor, Tensor], Tensor]
"""Sample, noisy latents and timestep [1] -> velocity of the latents."""


@dataclass(frozen=True)
class Guess:
    """The one-step prediction of a chunk and how it came about."""

    sample: Sample
    timestep: Tensor
    """Chosen table entry, [1]."""
    told: Tensor
    """What the network was told: the timestep without its fraction, [1]."""
    sigma: Tensor
    noisy: Tensor
    """Latents that the network saw, [1 C new h w]."""
    velocity: Tensor
    clean: Tensor
    """Predicted latents, [1 C new h w]."""


@dataclass(frozen=True)
class Augmented:
    """The sample to learn from, and the steps that led there."""

    sample: Sample
    guess: Guess
    clip: TrainingClip
    """The clip with the model's frames in it."""
    decoded: Tensor
    """Decoded frames of the predicted chunk before clamping, [1 3 n H W]."""


@torch.no_grad()
def augmented_sample(
    clip: TrainingClip,
    segment: int,
    velocity: Velocity,
    encoders: Encoders,
    config: SampleConfig,
    flow: TrainingFlow,
    draws: Draws,
    *,
    empty_text: Tensor | None = None,
    most: float = AUGMENT_MOST,
) -> Augmented:
    """A sample of chunk `segment` + 1 whose chunk `segment` is the model's own.

    Args:
        clip: The true clip.
        segment: Chunk that the model makes.
        velocity: The model, without gradients.
        encoders: Frozen networks.
        config: How samples are made.
        flow: Distribution of noise levels.
        draws: Where chance comes from.
        empty_text: Embedding that replaces the prompt in a share of the samples.
        most: Largest timestep from which the chunk is predicted.
    """
    true = plain_latents(encoders.codec, clip, segment, config)
    sample = build_sample(clip, segment, true, encoders, config, draws)
    guess = guess_chunk(sample, velocity, flow, draws, most=most)
    decoded = encoders.codec.decode(torch.cat([true.past, guess.clean], 2), group=config.group)
    changed = write_back(clip, decoded, segment, config)
    latents = latents_after(encoders.codec, clip, changed, segment, config)
    final = build_sample(
        changed, segment + 1, latents, encoders, config, draws, empty_text=empty_text
    )
    return Augmented(final, guess, changed, decoded[:, :, -config.layout.new_frames :])


def guess_chunk(
    sample: Sample, velocity: Velocity, flow: TrainingFlow, draws: Draws, *, most: float
) -> Guess:
    """Noise a chunk up to `most` at the worst, and predict it in one step."""
    clean = sample.clean
    u = flow.position(draw_position(flow, draws))
    timestep = flow.milder(flow.timestep(u), most=most).to(clean.device)
    sigma = flow.sigma(timestep)
    noise = draws.normal(tuple(clean.shape), "augmentation noise").to(clean)
    noisy = interpolate(clean, noise, sigma)
    told = timestep.floor()
    v = velocity(sample, noisy, told)
    return Guess(sample, timestep, told, sigma, noisy, v, clean_from(noisy, v.to(noisy), sigma))


def draw_position(flow: TrainingFlow, draws: Draws) -> Tensor:
    """The number [1] behind a time: normal or uniform, as the flow's distribution needs."""
    if flow.distribution == "logitnormal":
        return draws.normal((1,), "time")
    return draws.uniform(1, "time")


def write_back(
    clip: TrainingClip, decoded: Tensor, segment: int, config: SampleConfig
) -> TrainingClip:
    """The clip with the last decoded frames, clamped, in the place of its own.

    As many frames as the still pre-roll and one chunk have: known frames become round trips of the
    codec, and the last chunk becomes the model's.
    """
    layout = config.layout
    frames = window_frames(layout, clip, segment)
    count = layout.preroll_frames + layout.new_frames
    video = clip.video.clone()
    # In the order of time: of the many copies of frame 0 the last one stays.
    for t, pixels in zip(frames[-count:], decoded[:, :, -count:].unbind(2), strict=True):
        video[:, :, t] = pixels.clamp(-1, 1)
    return replace(clip, video=video)


def latents_after(
    codec: Codec, clip: TrainingClip, changed: TrainingClip, segment: int, config: SampleConfig
) -> WindowLatents:
    """Latents for chunk `segment` + 1 after chunk `segment` was replaced.

    Both the model's chunk and the target continue from the state of the TRUE frames before them:
    only the last chunk of the history is ever degraded.
    """
    past, state = encode_past(codec, clip, segment, config)
    own, _ = codec.encode_stream(
        chunk_pixels(config.layout, changed, segment), state, group=config.group
    )
    _, state = codec.encode_stream(
        chunk_pixels(config.layout, clip, segment), state, group=config.group
    )
    wanted, _ = codec.encode_stream(
        chunk_pixels(config.layout, clip, segment + 1), state, group=config.group
    )
    return WindowLatents(torch.cat([past, own], 2), wanted)
