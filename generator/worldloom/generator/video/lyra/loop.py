"""A state and the cameras of a chunk -> its frames and the next state (spec generation 1.3).

The order is the released one: retrieve, warp and encode, sample, decode, RE-ENCODE the decoded
frames into the history, then depth and memory. The sampled latents themselves are not kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldloom.generator.memory.lyra_cache import VISIBLE_WITHIN, LyraMemory
from worldloom.generator.video.lyra import depth_align, depth_window
from worldloom.generator.video.lyra.clip import ClipVision
from worldloom.generator.video.lyra.conditioning import Conditioning, condition
from worldloom.generator.video.lyra.distilled import distilled_sample, fresh_noise
from worldloom.generator.video.lyra.dit import Prepared, VideoTransformer
from worldloom.generator.video.lyra.layout import FramePack
from worldloom.generator.video.lyra.placement import Placement
from worldloom.generator.video.lyra.sampler import (
    flow_schedule,
    guided,
    seeded_noise,
    unipc_sample,
)
from worldloom.generator.video.lyra.state import LyraState, kept_frames
from worldloom.generator.video.lyra.vae import VideoVAE
from worldloom.scene.errors import EngineFailed, JobCancelled


@dataclass(frozen=True)
class Networks:
    """The networks of a run."""

    dit: VideoTransformer
    vae: VideoVAE
    clip: ClipVision
    placement: Placement = field(default_factory=lambda: Placement(torch.device("cpu")))
    """Brings them to the GPU for their stages where not all fit."""

    @property
    def layout(self) -> FramePack:
        """History layout of the video transformer.

        Raises:
            EngineFailed: It is a plain Wan network.
        """
        if self.dit.layout is None:
            raise EngineFailed(
                "the video transformer has no history layout; set framepack_type in its config"
            )
        return self.dit.layout


@dataclass(frozen=True)
class LyraOptions:
    """How a run samples and remembers; the defaults are those of the release."""

    steps: int = 35
    guidance: float = 5.0
    shift: float = 5.0
    seed: int = 1
    distilled: bool = False
    """Four steps without guidance, for weights with the distillation adapter merged in."""
    views: int = 1
    """Cameras of a chunk for which the memory is asked."""
    warp_chunk: int = 16
    memory_stride: int = depth_window.CACHE_STRIDE
    """Frames at multiples of this enter the memory."""
    point_stride: int = 4
    visible_within: float = VISIBLE_WITHIN
    window: depth_window.DepthWindow = field(default_factory=depth_window.DepthWindow)
    predicted_pose: bool = False
    """Take the cameras that the depth network predicts for the frames of its first window."""
    predicted_pose_continuation: bool = False
    """Take them in later windows too."""
    reference_quirks: bool = False
    """Leave out the guards of depth and scale (spec 11.1)."""
    vae_group: int = 4
    """Latents that the VAE takes at a time: speed and memory, not results."""


@dataclass(frozen=True)
class DepthAnswer:
    """What a depth model says of n frames."""

    depth: NDArray[np.float32]
    """z-depth [n H W]."""
    w2c: NDArray[np.float64] | None = None
    """Its own cameras in its own units [n 4 4]; None: the depth is in units of the run."""
    aligned: bool = True
    """Whether the depth is in units of the run already."""


class DepthModel(Protocol):
    """The seam between the loop and whatever knows depth."""

    def __call__(
        self,
        frames: list[int],
        pixels: Tensor,
        w2c: NDArray[np.float64],
        K: NDArray[np.float64],
    ) -> DepthAnswer:
        """Depth of frames with numbers `frames`, pixels [n 3 H W] in -1..1 and given cameras."""
        ...


@dataclass(frozen=True)
class Prompts:
    """Prompt embeddings of one chunk, each [1 512 D]."""

    positive: Tensor
    negative: Tensor | None = None


@dataclass(frozen=True)
class ChunkResult:
    """What one step made, beside the next state."""

    frames: Tensor
    """Decoded frames [1 3 n H W], not clamped."""
    sampled: Tensor
    """Sampled latents before decoding [1 C T h w]."""
    conditioning: Conditioning
    image: Tensor
    """CLIP tokens of the last known frame."""
    depth: dict[int, NDArray[np.float32]]
    """Depth in units of the run of the frames that the depth model saw, 0 = none."""


@dataclass(frozen=True)
class Hooks:
    """How a caller watches or stops a step."""

    on_evaluation: Callable[[int, int], None] | None = None
    """Called with evaluations done and all of the chunk."""
    on_velocity: Callable[[Tensor, Tensor], None] | None = None
    """Called with timestep and conditional velocity of every evaluation."""
    cancelled: Callable[[], bool] | None = None
    fresh: Callable[[int], Tensor] | None = None
    """Noise of the distilled sampler instead of that of the seed."""


@torch.no_grad()
def begin(
    networks: Networks,
    options: LyraOptions,
    image: Tensor,
    depth: NDArray[np.float32],
    w2c: NDArray[np.float64],
    K: NDArray[np.float64],
) -> LyraState:
    """The state before the first chunk: a still pre-roll encoded, both caches primed (spec 1.2).

    Args:
        networks: Of the run.
        options: Of the run.
        image: First frame [1 3 H W] in -1..1, on the device of the VAE.
        depth: Its depth [H W].
        w2c: Its camera, world to camera [4 4].
        K: Its intrinsics [3 3].
    """
    vae, group = networks.vae, options.vae_group
    still = image[:, :, None].expand(-1, -1, networks.layout.preroll_frames + 1, -1, -1)
    with networks.placement.stage("encode"):
        latents, encoder = vae.encode_stream(still, None, group=group)
        _, decoder = vae.decode_stream(latents, None, group=group)
    memory = LyraMemory(stride=options.point_stride, visible_within=options.visible_within)
    return LyraState(
        chunks=0, latents=(latents,), pixels={0: image.cpu()}, encoder=encoder, decoder=decoder,
        w2c=np.array(w2c, np.float64)[None], K=np.array(K, np.float64)[None],
        memory=memory.remember(0, depth, w2c, K), depth=np.asarray(depth, np.float32),
    )  # fmt: skip


@torch.no_grad()
def step(
    networks: Networks,
    options: LyraOptions,
    state: LyraState,
    w2c: NDArray[np.float64],
    K: NDArray[np.float64],
    prompts: Prompts,
    depth_model: DepthModel | None,
    *,
    real_frames: int | None = None,
    hooks: Hooks | None = None,
) -> tuple[LyraState, ChunkResult]:
    """Make one chunk.

    Args:
        networks: Of the run.
        options: Of the run.
        state: Where the run stands.
        w2c: Cameras of the chunk's frames, world to camera [n 4 4].
        K: Their intrinsics [n 3 3].
        prompts: Of this chunk.
        depth_model: None leaves depth and memory as they are, as the release does at the end.
        real_frames: Frames of the whole path before it was padded to chunks: later ones are made
            but never remembered.
        hooks: Progress, cancelling, recorded noise.

    Raises:
        EngineFailed: The number of cameras is not that of a chunk, or sampling failed.
        JobCancelled: `hooks.cancelled` became true.
    """
    layout, hooks = networks.layout, hooks or Hooks()
    if len(w2c) != layout.new_frames:
        raise EngineFailed(
            f"{len(w2c)} cameras were given for a chunk of {layout.new_frames} frames; "
            "resample the path to 1 + n chunks"
        )
    if state.padded:
        raise EngineFailed(
            f"the chunk before ends in padding at frame {state.last}, which is no history; go on "
            "from the state before it along a path of whole chunks"
        )
    with networks.placement.stage("encode"):
        made = condition(
            layout,
            networks.vae,
            state.past(),
            state.shot(w2c, K),
            state.chunks,
            views=options.views,
            warp_chunk=options.warp_chunk,
            group=options.vae_group,
        )
        image = networks.clip(state.pixels[state.last].to(made.history))
    with networks.placement.stage("denoise"):
        sampled = sample(networks, options, made, image, prompts, state.chunks, hooks)
    group = options.vae_group
    with networks.placement.stage("decode"):
        sampled = sampled.to(made.history)
        frames, decoder = networks.vae.decode_stream(sampled, state.decoder, group=group)
        latents, encoder = networks.vae.encode_stream(frames, state.encoder, group=group)
    first = state.last + 1
    kept = kept_frames(layout, first, options.memory_stride, options.window.interval)
    if real_frames is not None:
        last = depth_window.last_real_frame(state.last + layout.new_frames, real_frames)
        kept = sorted({*kept, *(f for f in options.window.frames(last) if f >= first)})
    after = replace(
        state, chunks=state.chunks + 1, latents=(*state.latents, latents), encoder=encoder,
        decoder=decoder, w2c=np.concatenate([state.w2c, w2c]), K=np.concatenate([state.K, K]),
        pixels={**state.pixels, **{f: frames[:, :, f - first].cpu() for f in kept}},
    )  # fmt: skip
    depth: dict[int, NDArray[np.float32]] = {}
    if depth_model is not None:
        after, depth = remember(options, after, state.last, depth_model, real_frames)
    if real_frames is not None and real_frames <= after.last:
        after = replace(after, padded=True)
    return after, ChunkResult(frames, sampled, made, image, depth)


def sample(
    networks: Networks,
    options: LyraOptions,
    made: Conditioning,
    image: Tensor,
    prompts: Prompts,
    chunk: int,
    hooks: Hooks,
) -> Tensor:
    """Latents of the new frames [1 C T h w], float32.

    Everything but the noise is prepared once; the branches of the guidance share all but the text.
    """
    dit = networks.dit
    device = dit.patch_embedding.weight.device
    scene = dit.scene(
        made.history.to(device), y=made.y.to(device), clip=image.to(device),
        buffer=made.buffer.to(device),
    )  # fmt: skip
    shape = (1, made.history.shape[1], dit.layout.new, *made.history.shape[3:])
    noise = seeded_noise(options.seed + chunk, shape).to(device)
    guidance = 1.0 if options.distilled else options.guidance
    total = 4 if options.distilled else options.steps * (2 if guidance != 1 else 1)
    done = 0

    def branch(text: Tensor, watched: bool) -> Callable[[Tensor, Tensor], Tensor]:
        prepared = Prepared(scene, dit.context(text.to(device)))

        def velocity(x: Tensor, timestep: Tensor) -> Tensor:
            nonlocal done
            if hooks.cancelled is not None and hooks.cancelled():
                raise JobCancelled("cancelled while sampling")
            v = dit.velocity(x, timestep.reshape(1, 1), prepared)
            done += 1
            if watched and hooks.on_velocity is not None:
                hooks.on_velocity(timestep, v)
            if hooks.on_evaluation is not None:
                hooks.on_evaluation(done, total)
            return v

        return velocity

    positive = branch(prompts.positive, True)
    if options.distilled:
        fresh = hooks.fresh or fresh_noise(options.seed + chunk, shape)
        return distilled_sample(positive, noise, fresh)
    negative = None
    if guidance != 1:
        if prompts.negative is None:
            raise EngineFailed(
                f"guidance {guidance:g} needs a negative prompt embedding; give one, or set "
                "guidance to 1"
            )
        negative = branch(prompts.negative, False)
    velocity = guided(positive, negative, guidance)
    return unipc_sample(velocity, noise, flow_schedule(options.steps, options.shift))


def remember(
    options: LyraOptions,
    state: LyraState,
    anchor: int,
    depth_model: DepthModel,
    real_frames: int | None,
) -> tuple[LyraState, dict[int, NDArray[np.float32]]]:
    """Ask for depth of the newest frames and let them into the memory (spec 3.3).

    Args:
        options: Of the run.
        state: After the chunk's frames came in.
        anchor: Last frame before the chunk.
        depth_model: Knows depth.
        real_frames: Frames of the path before it was padded.
    """
    quirks = options.reference_quirks
    real = None if quirks else real_frames
    frames = depth_window.depth_frames(
        options.window, state.last, cached=state.memory.ids, real_frames=real,
        reference_quirks=quirks,
    )  # fmt: skip
    frames = [f for f in frames if f in state.pixels]
    pixels = torch.cat([state.pixels[f] for f in frames])
    answer = depth_model(frames, pixels, state.w2c[frames], state.K[frames])
    state, depth = _in_units(options, state, anchor, frames, answer)
    maps = {f: d.astype(np.float32) for f, d in zip(frames, depth, strict=True)}
    memory = state.memory
    for f in depth_window.new_entries(
        frames, memory.ids, stride=options.memory_stride, real_frames=real
    ):
        memory = memory.remember(f, maps[f], state.w2c[f], state.K[f])
    newest = depth_window.last_real_frame(state.last, real)
    return replace(state, memory=memory, depth=maps[newest]), maps


def _in_units(
    options: LyraOptions, state: LyraState, anchor: int, frames: list[int], answer: DepthAnswer
) -> tuple[LyraState, NDArray[np.float64]]:
    """The answer in units of the run, and the state with predicted cameras where wanted."""
    quirks = options.reference_quirks
    known = {f.frame_id: f.depth for f in state.memory.frames}
    depth = answer.depth
    first = anchor == 0
    if (
        answer.w2c is not None
        and options.predicted_pose
        and (first or options.predicted_pose_continuation)
    ):
        found = depth_align.predicted_poses(
            frames, state.w2c[frames], answer.w2c, depth, known, anchor=anchor,
            running=state.scale, reference_quirks=quirks,
        )  # fmt: skip
        depth, _ = depth_align.in_run_units(depth, found.scale, reference_quirks=quirks)
        w2c = state.w2c.copy()
        new = [i for i, f in enumerate(frames) if f > anchor]
        w2c[[frames[i] for i in new]] = found.w2c[new]
        memory = state.memory
        if first and frames[0] == 0:
            memory = memory.replace_first(depth[0], state.w2c[0])
        return replace(state, w2c=w2c, memory=memory, scale=found.scale.value), depth
    if answer.w2c is None or answer.aligned:
        return state, depth_window.usable_depth(depth, reference_quirks=quirks)[0]
    scale = depth_align.window_scale(
        frames, state.w2c[frames], answer.w2c, depth, known, running=state.scale,
        reference_quirks=quirks,
    )  # fmt: skip
    depth, _ = depth_align.in_run_units(depth, scale, reference_quirks=quirks)
    return replace(state, scale=scale.value), depth
