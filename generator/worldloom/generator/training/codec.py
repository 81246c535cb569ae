"""Video <-> latents by fixed linear maps: a stand-in for the VAE where no trained one exists.

The first frame alone, then groups of four, in blocks of 8 x 8 pixels; the maps are the principal
components of real clips. It has the VAE's shapes and its order in time, is the best that 16 numbers
per block can do linearly, and costs nothing. For toys and tests.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from worldloom.generator.video.lyra.layout import FRAMES_PER_LATENT
from worldloom.generator.video.lyra.strict import check_shapes
from worldloom.scene.errors import EngineFailed

BLOCK = 8  # Pixels per latent cell and axis, as the VAE's.
CHANNELS = 16


class LinearCodec(nn.Module):
    """Two linear maps: one for the first frame, one for groups of four."""

    def __init__(self) -> None:
        super().__init__()
        for kind, frames in (("still", 1), ("group", FRAMES_PER_LATENT)):
            values = 3 * frames * BLOCK * BLOCK
            self.register_buffer(f"{kind}_map", torch.zeros(values, CHANNELS))
            self.register_buffer(f"{kind}_mean", torch.zeros(values))
            self.register_buffer(f"{kind}_scale", torch.ones(CHANNELS))

    @staticmethod
    def fit(videos: Iterable[Tensor]) -> LinearCodec:
        """The codec that loses least on `videos`, each [1 3 1+4n H W]."""
        codec = LinearCodec()
        stills, groups = [], []
        for video in videos:
            stills.append(_blocks(video, 1).flatten(0, -2))
            groups.append(_blocks(video[:, :, 1:], FRAMES_PER_LATENT).flatten(0, -2))
        for kind, rows in (("still", torch.cat(stills)), ("group", torch.cat(groups))):
            rows = rows.double()
            mean = rows.mean(0)
            values, vectors = torch.linalg.eigh(torch.cov((rows - mean).T))
            top = vectors[:, -CHANNELS:].flip(1)
            # The sign of an eigenvector is arbitrary: make its largest part positive.
            top = top * torch.sign(top.gather(0, top.abs().argmax(0, keepdim=True)))
            scale = values[-CHANNELS:].flip(0).clamp_min(1e-8).sqrt()
            for name, value in (("map", top), ("mean", mean), ("scale", scale)):
                getattr(codec, f"{kind}_{name}").copy_(value)
        return codec

    @staticmethod
    def from_tensors(tensors: Mapping[str, Tensor]) -> LinearCodec:
        """The codec whose maps were saved.

        Raises:
            EngineFailed: They are no such maps.
        """
        codec = LinearCodec()
        expected = {name: tuple(value.shape) for name, value in codec.state_dict().items()}
        check_shapes(expected, {n: tuple(t.shape) for n, t in tensors.items()}, "linear codec")
        codec.load_state_dict(tensors)
        return codec

    def encode(self, video: Tensor, *, group: int = 1) -> Tensor:
        """Video [b 3 1+4n h w] -> latents [b 16 1+n h/8 w/8]."""
        return self.encode_stream(video, None)[0]

    def decode(self, latents: Tensor, *, group: int = 1) -> Tensor:
        """Latents [b 16 1+n h w] -> video [b 3 1+4n 8h 8w], not clamped."""
        return self.decode_stream(latents, None)[0]

    @torch.no_grad()
    def encode_stream(
        self, frames: Tensor, state: tuple | None, *, group: int = 1
    ) -> tuple[Tensor, tuple]:
        """The next frames -> their latents, and the state to continue with.

        Raises:
            EngineFailed: The number of frames does not fit.
        """
        parts = []
        if state is None:
            parts.append(self._forward("still", frames[:, :, :1], 1))
            frames = frames[:, :, 1:]
        if frames.shape[2] % FRAMES_PER_LATENT:
            raise EngineFailed(
                f"{frames.shape[2]} frames are left over; a video has 1 frame and then groups of 4"
            )
        if frames.shape[2]:
            parts.append(self._forward("group", frames, FRAMES_PER_LATENT))
        return torch.cat(parts, 2), ()

    @torch.no_grad()
    def decode_stream(
        self, latents: Tensor, state: tuple | None, *, group: int = 1
    ) -> tuple[Tensor, tuple]:
        """The next latents -> their frames, and the state to continue with."""
        parts = []
        if state is None:
            parts.append(self._backward("still", latents[:, :, :1], 1))
            latents = latents[:, :, 1:]
        if latents.shape[2]:
            parts.append(self._backward("group", latents, FRAMES_PER_LATENT))
        return torch.cat(parts, 2), ()

    def _parts(self, kind: str) -> tuple[Tensor, Tensor, Tensor]:
        return tuple(getattr(self, f"{kind}_{name}") for name in ("map", "mean", "scale"))

    def _forward(self, kind: str, frames: Tensor, count: int) -> Tensor:
        linear, mean, scale = self._parts(kind)
        rows = (_blocks(frames.to(mean), count) - mean) @ linear / scale
        return rows.permute(0, 4, 1, 2, 3).contiguous()

    def _backward(self, kind: str, latents: Tensor, count: int) -> Tensor:
        linear, mean, scale = self._parts(kind)
        rows = (latents.to(mean).permute(0, 2, 3, 4, 1) * scale) @ linear.T + mean
        b, t, h, w, _ = rows.shape
        cells = rows.view(b, t, h, w, 3, count, BLOCK, BLOCK).permute(0, 4, 1, 5, 2, 6, 3, 7)
        return cells.reshape(b, 3, t * count, h * BLOCK, w * BLOCK)


def _blocks(video: Tensor, count: int) -> Tensor:
    """Blocks of `count` frames of a video [b 3 t*count H W] as rows [b t h w 3*count*64]."""
    b, c, t, h, w = video.shape
    cells = video.view(b, c, t // count, count, h // BLOCK, BLOCK, w // BLOCK, BLOCK)
    return cells.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4)
