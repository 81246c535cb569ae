"""Latents, rays, matches, text and image -> the velocity of the latents to generate.

Wan 2.1's image-to-video transformer with Lyra's packed history (spec generation 6). All that
does not depend on the step is computed once, by `prepare`; `velocity` is one step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from worldloom.generator.video.lyra import tokens
from worldloom.generator.video.lyra.config import (
    BUFFER_SLAB,
    CAMERA_CHANNELS,
    TEXT_TOKENS,
    DiTConfig,
)
from worldloom.generator.video.lyra.layers import Block, ContextKV, Head, ImageEmbedding, Injection
from worldloom.generator.video.lyra.layout import FramePack
from worldloom.generator.video.lyra.strict import check_shapes, shapes_of
from worldloom.scene.errors import EngineFailed

COUNTERS = ("accum_", "_extra_state")  # Statistics in checkpoints that are no weights.


@dataclass(frozen=True)
class Scene:
    """All of a chunk that no step and no prompt changes."""

    history: Tensor
    """Embedded history [B L_hist D]; empty without a packed history."""
    known: Tensor
    """Part of the generated tokens that mask and conditioning latents give, bias included."""
    turn: tuple[Tensor, Tensor]
    """cos and sin of the rotary angles [L 1 d/2]."""
    injection: Injection
    image: tuple[ContextKV, ...] | None
    grid: tuple[int, int, int]
    """Tokens of the generated frames in time, height, width."""


@dataclass(frozen=True)
class Prepared:
    """A scene together with one prompt."""

    scene: Scene
    text: tuple[ContextKV, ...]


class VideoTransformer(nn.Module):
    """The network; parameters are named as in the released checkpoints (spec 6.5)."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.config = config
        self.layout = FramePack.parse(config.framepack_type) if config.framepack_type else None
        dim, cells = config.dim, config.patch_cells
        self.patch_embedding = nn.Linear(config.in_dim * cells, dim)
        self.text_embedding = nn.Sequential(
            nn.Linear(config.text_dim, dim), nn.GELU(approximate="tanh"), nn.Linear(dim, dim)
        )
        self.time_embedding = nn.Sequential(
            nn.Linear(config.freq_dim, dim), nn.SiLU(), nn.Linear(dim, dim)
        )
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.head = Head(config)
        if config.model_type == "i2v":
            self.img_emb = ImageEmbedding(config)
        if self.layout:
            base = config.in_dim * cells
            widths = [base * math.prod(segment.pool()) for segment in self.layout.segments]
            self.clean_patch_embeddings = nn.ModuleList(nn.Linear(w, dim) for w in widths)
        self.checkpointing = False
        """Recompute blocks in the backward pass instead of keeping their activations."""

    # ---- once per chunk -----------------------------------------------------------------------

    def prepare(
        self,
        history: Tensor | None,
        text: Tensor,
        *,
        y: Tensor | None = None,
        clip: Tensor | None = None,
        buffer: Tensor | None = None,
        grid: tuple[int, int, int] | None = None,
    ) -> Prepared:
        """Scene and prompt of a chunk.

        Args:
            history: Clean latents of the history slots [1 C T_hist h w]; None for plain Wan.
            text: Prompt embedding [B 512 text_dim].
            y: Mask, conditioning latents and folded rays of all slots [B 4+C+384 T h w].
            clip: Image tokens [B n clip_dim].
            buffer: Correspondence buffer of all slots or the new ones [B C T h w].
            grid: Frames, height and width of the latents, where `y` is None (text to video).
        """
        return Prepared(
            self.scene(history, y=y, clip=clip, buffer=buffer, grid=grid), self.context(text)
        )

    def context(self, text: Tensor) -> tuple[ContextKV, ...]:
        """Keys and values of a prompt embedding [B n text_dim] for every block.

        Raises:
            EngineFailed: An image-to-video network was given other than 512 rows.
        """
        if self.config.model_type == "i2v" and text.shape[1] != TEXT_TOKENS:
            raise EngineFailed(
                f"the prompt embedding has {text.shape[1]} rows; this network takes {TEXT_TOKENS}. "
                "Pad it with zeros"
            )
        embedded = self.text_embedding(text.to(self.dtype))
        return tuple(block.cross_attn.text_kv(embedded) for block in self.blocks)

    def scene(
        self,
        history: Tensor | None,
        *,
        y: Tensor | None = None,
        clip: Tensor | None = None,
        buffer: Tensor | None = None,
        grid: tuple[int, int, int] | None = None,
    ) -> Scene:
        """All of a chunk but its prompt; arguments as for `prepare`.

        Raises:
            EngineFailed: Sizes do not fit the network.
        """
        rays = None
        if self.config.use_plucker_condition and y is not None:
            y, rays = y[:, :-CAMERA_CHANNELS], y[:, -CAMERA_CHANNELS:]
        size = tuple(y.shape[2:]) if y is not None else grid
        self._check(size, history)
        places = self._places(size)
        turn = places.angles[:, None]
        new = size if self.layout is None else (self.layout.new, *size[1:])
        return Scene(
            history=self.embed_history(history, y),
            known=self._known(y),
            turn=(torch.cos(turn), torch.sin(turn)),
            injection=self._injection(rays, buffer),
            image=self._image(clip),
            grid=tuple(n // p for n, p in zip(new, self.config.patch_size, strict=True)),
        )

    def _check(self, size: tuple[int, ...] | None, history: Tensor | None) -> None:
        if size is None:
            raise EngineFailed("a network without conditioning latents needs `grid`, their size")
        if any(n % p for n, p in zip(size, self.config.patch_size, strict=True)):
            raise EngineFailed(
                f"latents of {size} frames, rows and columns do not divide by the patch size "
                f"{self.config.patch_size}; choose frames whose sides are multiples of 16 pixels"
            )
        if self.layout is not None and (size[0] != self.layout.total or history is None):
            raise EngineFailed(
                f"the history layout has {self.layout.total} slots, but {size[0]} came"
            )

    def _places(self, size: tuple[int, ...]) -> tokens.Places:
        device = self.patch_embedding.weight.device
        if self.layout is None:
            grid = tuple(n // p for n, p in zip(size, self.config.patch_size, strict=True))
            return tokens.plain_places(self.config, grid, device)
        return tokens.packed_places(self.config, self.layout, *size[1:], device)

    def embed_history(self, history: Tensor | None, y: Tensor | None) -> Tensor:
        """Tokens of the history slots [B L_hist D], each segment by its own embedding."""
        if self.layout is None or history is None:
            return self.patch_embedding.bias.new_zeros(1, 0, self.config.dim)
        x = torch.cat([history, y[:, :, : self.layout.history]], 1).to(self.dtype)
        parts = [
            embed(tokens.fold_patches(slots, tokens.patch_of(self.config, segment)))
            for embed, (segment, slots) in zip(
                self.clean_patch_embeddings, tokens.split_slots(self.layout, x), strict=True
            )
        ]
        return torch.cat(parts, 1)

    def _known(self, y: Tensor | None) -> Tensor:
        """Linear in its channels, the patch embedding splits into noise and known parts."""
        if y is None:
            return self.patch_embedding.bias
        new = y if self.layout is None else y[:, :, self.layout.history :]
        rows = tokens.fold_patches(new.to(self.dtype), self.config.patch_size)
        weight = self.patch_embedding.weight[:, -rows.shape[-1] :]
        return F.linear(rows, weight, self.patch_embedding.bias)

    def _injection(self, rays: Tensor | None, buffer: Tensor | None) -> Injection:
        camera = None
        if rays is not None:
            camera = tokens.camera_tokens(self.config, self.layout, rays.float()).to(self.dtype)
        if not self.config.use_correspondence or buffer is None or self.layout is None:
            return Injection(camera, None)
        values, valid = tokens.buffer_tokens(self.config, self.layout, buffer.to(self.dtype))
        # In slabs of tokens: the sines of all at once are the largest tensor of a whole run.
        slabs = []
        for value, mark in zip(
            values.split(BUFFER_SLAB, 1), valid.split(BUFFER_SLAB, 1), strict=True
        ):
            waves = tokens.sines(value, self.config.buffer_sincos_multires)
            slabs.append([block.squeeze(waves, mark) for block in self.blocks])
        matches = tuple(torch.cat(parts, 1) for parts in zip(*slabs, strict=True))
        return Injection(camera, matches)

    def _image(self, clip: Tensor | None) -> tuple[ContextKV, ...] | None:
        if self.config.model_type != "i2v":
            return None
        if clip is None:
            raise EngineFailed("an image-to-video network needs the image tokens of `clip`")
        embedded = self.img_emb(clip.to(self.dtype))
        return tuple(block.cross_attn.image_kv(embedded) for block in self.blocks)

    # ---- every step ---------------------------------------------------------------------------

    def velocity(
        self,
        x: Tensor,
        timesteps: Tensor,
        prepared: Prepared,
        *,
        skip: tuple[int, ...] = (),
        on_block: Callable[[int, Tensor], None] | None = None,
    ) -> Tensor:
        """Velocity [B C T h w] of noisy latents `x` of the frames to generate, float32.

        Args:
            x: Noisy latents [B C T h w].
            timesteps: 0..1000, [B 1].
            prepared: What `prepare` returned.
            skip: Blocks to leave out (skip-layer guidance).
            on_block: Called with number and tokens [B L D] after every block.
        """
        scene = prepared.scene
        e, e6 = self.time(timesteps)
        h = torch.cat([scene.history.expand(len(x), -1, -1), self.embed_new(x, scene)], 1)
        for i, block in enumerate(self.blocks):
            if i not in skip:
                h = self._block(i, block, h, e6, prepared)
            if on_block is not None:
                on_block(i, h)
        rows = self.head(h[:, scene.history.shape[1] :], e)
        return tokens.unfold_patches(rows, scene.grid, self.config.patch_size)

    def _block(self, i: int, block: Block, h: Tensor, e6: Tensor, prepared: Prepared) -> Tensor:
        scene, injection = prepared.scene, prepared.scene.injection
        matches = injection.matches[i] if injection.matches else None
        image = scene.image[i] if scene.image else None

        def run(h: Tensor) -> Tensor:
            extra = block.injected(injection.camera, matches)
            return block(h, e6, extra, scene.turn, prepared.text[i], image)

        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(run, h, use_reentrant=False)
        return run(h)

    def embed_new(self, x: Tensor, scene: Scene) -> Tensor:
        """Tokens [B n D] of the noisy latents."""
        rows = tokens.fold_patches(x.to(self.dtype), self.config.patch_size)
        return F.linear(rows, self.patch_embedding.weight[:, : rows.shape[-1]]) + scene.known

    def time(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """Time embedding [B D] and modulation [B 6 D], float32."""
        waves = sinusoid(timesteps.reshape(-1), self.config.freq_dim)
        e = _in_float(self.time_embedding, waves)
        return e, _in_float(self.time_projection, e).unflatten(-1, (6, -1))

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        text: Tensor,
        *,
        y: Tensor | None = None,
        clip: Tensor | None = None,
        buffer: Tensor | None = None,
        skip: tuple[int, ...] = (),
    ) -> Tensor:
        """Velocity of the generated frames of `x` [B C T h w], history slots first."""
        start = self.layout.history if self.layout else 0
        history = x[:, :, :start] if self.layout else None
        grid = tuple(x.shape[2:])
        prepared = self.prepare(history, text, y=y, clip=clip, buffer=buffer, grid=grid)
        return self.velocity(x[:, :, start:], timesteps, prepared, skip=skip)

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights and the residual stream."""
        return self.patch_embedding.weight.dtype

    # ---- weights ------------------------------------------------------------------------------

    def load(self, state: Mapping[str, Tensor]) -> VideoTransformer:
        """Take the weights of a state dict, all of them and no others.

        Raises:
            EngineFailed: A tensor is missing, unknown or of another shape; all are named.
        """
        have = {
            name.removeprefix("net."): tensor
            for name, tensor in state.items()
            if not any(mark in name for mark in COUNTERS)
        }
        found = {name: tuple(tensor.shape) for name, tensor in have.items()}
        check_shapes(shapes_of(self), found, "the video transformer")
        self.load_state_dict(have, strict=True, assign=self.patch_embedding.weight.is_meta)
        return self

    def with_text(self, prepared: Prepared, text: Tensor) -> Prepared:
        """The same scene under another prompt: nothing but the text is computed again."""
        return replace(prepared, text=self.context(text))

    @torch.no_grad()
    def start_clean_embeddings(self) -> None:
        """Derive the history's patch embeddings from the base one (spec generation 2).

        Every value of the base kernel is spread evenly over the cells that take its place in the
        larger patch, so that a constant history embeds as before.
        """
        weight, bias = self.patch_embedding.weight, self.patch_embedding.bias
        base = weight.unflatten(1, (self.config.in_dim, *self.config.patch_size))
        for embed, segment in zip(self.clean_patch_embeddings, self.layout.segments, strict=True):
            pool = segment.pool()
            spread = base / (pool[0] * pool[1] * pool[2])
            for axis, factor in enumerate(pool, start=2):
                spread = spread.repeat_interleave(factor, axis)
            embed.weight.copy_(spread.flatten(1))
            embed.bias.copy_(bias)


def sinusoid(timesteps: Tensor, width: int) -> Tensor:
    """Cos and sin of a timestep at falling frequencies [B width], float32 (spec 6.2)."""
    half = width // 2
    steps = torch.arange(half, dtype=torch.float64, device=timesteps.device)
    angles = torch.outer(timesteps.double(), 10000.0 ** (-steps / half))
    return torch.cat([torch.cos(angles), torch.sin(angles)], 1).float()


def _in_float(layers: nn.Sequential, x: Tensor) -> Tensor:
    """Run linear layers in float32 whatever their weights are stored in (spec 6.2)."""
    for layer in layers:
        if isinstance(layer, nn.Linear):
            x = F.linear(x, layer.weight.float(), layer.bias.float())
        else:
            x = layer(x)
    return x
