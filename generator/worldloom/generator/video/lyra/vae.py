"""Video [b 3 1+4n h w] in [-1, 1] <-> normalised latents [b z 1+n h/8 w/8], whole or as a stream.

The layers are those of diffusers' `AutoencoderKLWan`, driven by us: the library encodes and
decodes whole clips only, clamps its output, and keeps its caches to itself. Here the caches are a
value that goes in and comes out, so that a video of any length continues where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worldloom.generator.video.lyra.strict import check_shapes, fill, shapes_of
from worldloom.generator.video.lyra.vae_keys import VAEConfig, library_name, published_names
from worldloom.scene.errors import EngineFailed

WAITING = "Rep"  # What the library puts into the slot of a time up-sampler after the first latent.
KINDS = (None, "tensor", WAITING)
"""What a slot of a state holds, by the number that a saved state has for it."""

State = tuple[Tensor | str | None, ...]
"""Caches of the causal convolutions, opaque to everybody else; never changed in place."""


@dataclass(frozen=True)
class FrameStatistics:
    """A second normalisation of whole clips, which the release leaves out (0 and 1)."""

    image_mean: Tensor
    """For a single latent, shape [1 z 1 1 1]; `image_std` alike."""
    image_std: Tensor
    video_mean: Tensor
    """Per latent of a clip, shape [1 z t 1 1]; `video_std` alike."""
    video_std: Tensor

    def of(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation for `latents` [b z t h w].

        Raises:
            EngineFailed: The clip has more latents than there are statistics.
        """
        count = latents.shape[2]
        if count == 1:
            return self.image_mean.to(latents), self.image_std.to(latents)
        if count > self.video_mean.shape[2]:
            raise EngineFailed(
                f"a clip has {count} latents, the frame statistics cover "
                f"{self.video_mean.shape[2]}; encode it as a stream"
            )
        return self.video_mean[:, :, :count].to(latents), self.video_std[:, :, :count].to(latents)


class VideoVAE(nn.Module):
    """The Wan 2.1 VAE.

    Numbers are as released: the posterior's mean, no sampling, output not clamped, and in bfloat16
    also the channel means, deviations and their reciprocals.
    """

    def __init__(self, config: VAEConfig, model: nn.Module) -> None:
        super().__init__()
        self.config = config
        self.model = model
        self.statistics: FrameStatistics | None = None
        """Second normalisation of `encode` and `decode`; not for streams."""
        self.register_buffer("mean", torch.tensor(config.channel_mean), persistent=False)
        self.register_buffer("std", torch.tensor(config.channel_std), persistent=False)

    @staticmethod
    def load(config: Mapping[str, object], tensors: Mapping[str, Tensor]) -> VideoVAE:
        """Build the VAE from published tensors.

        Args:
            config: `dim`, `z_dim`, `dim_mult`, `num_res_blocks`, `temporal_downsample`,
                `channel_mean`, `channel_std`; what is left out is as released.
            tensors: Every tensor under its published name; their type is kept.

        Raises:
            EngineFailed: The sizes make no VAE, or a tensor is missing, unknown or mis-shaped.
        """
        sizes = VAEConfig.parse(config)
        model = _build(sizes)
        fitting = published_shapes(sizes, model)
        check_shapes(fitting, {n: tuple(t.shape) for n, t in tensors.items()}, "the video VAE")
        fill(model, {library_name(n, sizes): t for n, t in tensors.items()}, "the video VAE")
        vae = VideoVAE(sizes, model)
        first = next(iter(tensors.values()))
        return vae.to(device=first.device, dtype=first.dtype)

    def published(self) -> dict[str, Tensor]:
        """All tensors under their published names."""
        state = self.model.state_dict()
        names = published_names(self.config, state)
        return {names[name]: value for name, value in state.items()}

    def encode(self, video: Tensor, *, group: int = 1) -> Tensor:
        """Video [b 3 1+4n h w] in [-1, 1] -> latents [b z 1+n h/8 w/8].

        Raises:
            EngineFailed: The shape is not that of a video of 1+4n frames.
        """
        latents, _ = self.encode_stream(video, None, group=group, statistics=self.statistics)
        return latents

    def decode(self, latents: Tensor, *, group: int = 1) -> Tensor:
        """Latents [b z 1+n h w] -> video [b 3 1+4n 8h 8w], about -1 to 1, not clamped.

        Raises:
            EngineFailed: The shape is not that of latents.
        """
        if self.statistics is not None:
            mean, std = self.statistics.of(latents)
            latents = latents * std + mean
        return self.decode_stream(latents, None, group=group)[0]

    @torch.no_grad()
    def encode_stream(
        self,
        frames: Tensor,
        state: State | None,
        *,
        group: int = 1,
        statistics: FrameStatistics | None = None,
    ) -> tuple[Tensor, State]:
        """Encode the next frames of a video.

        Args:
            frames: [b 3 t h w] in [-1, 1]; t = 1+4n for the first call, 4n for later ones.
            state: What the call before returned; None starts a video.
            group: Latents made at a time; more are faster, take more memory and give the same.
            statistics: A second normalisation of a whole clip.

        Returns:
            Latents [b z n h/8 w/8], one more on the first call, and the state to continue with.

        Raises:
            EngineFailed: The frames or the state do not fit.
        """
        step = self.config.frames_per_latent
        first = state is None
        slots = self._slots(frames, state, "encoder", channels=3)
        if frames.shape[2] % step != (1 % step if first else 0) or frames.shape[2] == 0:
            raise EngineFailed(
                f"{frames.shape[2]} frames cannot be encoded at the {'start' if first else 'end'} "
                f"of a video; give {'1 + ' if first else ''}a multiple of {step}"
            )
        moments = _in_groups(
            lambda part: self.model.quant_conv(_run(self.model.encoder, part, slots)),
            frames, first, group * step,
        )  # fmt: skip
        mean, scale = self._normal()
        latents = (moments[:, : self.config.z_dim] - mean) * scale
        if statistics is not None:
            second_mean, second_std = statistics.of(latents)
            latents = (latents - second_mean) / second_std
        return latents, tuple(slots)

    @torch.no_grad()
    def decode_stream(
        self, latents: Tensor, state: State | None, *, group: int = 1
    ) -> tuple[Tensor, State]:
        """Decode the next latents of a video.

        Args:
            latents: [b z n h w].
            state: What the call before returned; None starts a video.
            group: Latents decoded at a time; more are faster, take more memory and give the same.

        Returns:
            Frames [b 3 4n 8h 8w], three fewer on the first call, not clamped, and the state to
            continue with.

        Raises:
            EngineFailed: The latents or the state do not fit.
        """
        slots = self._slots(latents, state, "decoder", channels=self.config.z_dim)
        mean, scale = self._normal()
        frames = _in_groups(
            lambda part: _run(self.model.decoder, self.model.post_quant_conv(part), slots),
            latents / scale + mean, state is None, group,
        )  # fmt: skip
        return frames, tuple(slots)

    def _normal(self) -> tuple[Tensor, Tensor]:
        """Mean and reciprocal deviation per channel, in the type of the weights [1 z 1 1 1]."""
        shape = (1, -1, 1, 1, 1)
        return self.mean.view(shape), (1.0 / self.std).view(shape)

    def _slots(
        self, values: Tensor, state: State | None, side: str, *, channels: int
    ) -> list[Tensor | str | None]:
        if values.ndim != 5 or values.shape[1] != channels or values.shape[2] < 1:
            raise EngineFailed(
                f"the VAE's {side} got the shape {list(values.shape)}; "
                f"give [batch, {channels}, time >= 1, height, width]"
            )
        smallest = self.config.pixels_per_latent if side == "encoder" else 1
        if min(values.shape[-2:]) < smallest:
            raise EngineFailed(
                f"a picture of {values.shape[-1]} x {values.shape[-2]} is too small for the VAE's "
                f"{side}; its sides must be at least {smallest}"
            )
        count = self.model._cached_conv_counts[side]
        if state is not None and len(state) != count:
            raise EngineFailed(
                f"a state with {len(state)} slots was given to the VAE's {side}, which has {count};"
                " give the state that its call before returned"
            )
        return [None] * count if state is None else list(state)


def _run(part: nn.Module, values: Tensor, slots: list[Tensor | str | None]) -> Tensor:
    """One call of the library's encoder or decoder; `slots` are replaced, their tensors kept."""
    return part(values, feat_cache=slots, feat_idx=[0])


def _in_groups(call: Callable[[Tensor], Tensor], values: Tensor, first: bool, size: int) -> Tensor:
    """Apply `call` along time (axis 2): a video's first step alone, then `size` steps at a time."""
    if size < 1:
        raise EngineFailed(f"a group of {size} latents was asked of the VAE; the least is 1")
    sizes = [1] if first else []
    rest = values.shape[2] - len(sizes)
    sizes += [min(size, rest - start) for start in range(0, rest, size)]
    return torch.cat([call(part) for part in values.split(sizes, dim=2)], dim=2)


def state_to_tensors(state: State) -> dict[str, Tensor]:
    """A state -> named tensors that a safetensors file can hold."""
    kinds = [KINDS.index("tensor" if isinstance(slot, Tensor) else slot) for slot in state]
    tensors = {"kinds": torch.tensor(kinds, dtype=torch.uint8)}
    for index, slot in enumerate(state):
        if isinstance(slot, Tensor):
            tensors[f"slot.{index:02d}"] = slot.contiguous()
    return tensors


def state_from_tensors(tensors: Mapping[str, Tensor]) -> State:
    """The reverse of `state_to_tensors`.

    Raises:
        EngineFailed: They are no saved state.
    """
    try:
        kinds = [KINDS[int(kind)] for kind in tensors["kinds"]]
        return tuple(
            tensors[f"slot.{index:02d}"] if kind == "tensor" else kind
            for index, kind in enumerate(kinds)
        )
    except (KeyError, IndexError) as error:
        raise EngineFailed(
            f"a saved VAE state lacks {error}; it has {len(tensors)} tensors. Start the video again"
        ) from error


def published_shapes(
    config: VAEConfig, model: nn.Module | None = None
) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor under its published name."""
    shapes = shapes_of(_build(config) if model is None else model)
    names = published_names(config, shapes)
    return {names[name]: shape for name, shape in shapes.items()}


def _build(config: VAEConfig) -> nn.Module:
    """The library's network without memory for its weights."""
    from diffusers import AutoencoderKLWan

    with torch.device("meta"):
        return AutoencoderKLWan(
            base_dim=config.dim,
            z_dim=config.z_dim,
            dim_mult=list(config.dim_mult),
            num_res_blocks=config.num_res_blocks,
            attn_scales=[],
            temperal_downsample=list(config.temporal_downsample),
        )
