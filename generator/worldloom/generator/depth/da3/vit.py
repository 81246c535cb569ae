"""Views [v 3 h w] -> tokens of four layers: a ViT that looks at one view and at all in turn.

From the layer `start` on even layers see one view, odd ones all of them, and the cls slot of every
view holds its camera (spec reconstruction 2.2). What becomes of the tokens of an output layer is
told by `tap`, so that they need not be kept whole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from worldloom.generator.depth.da3.reference_view import choose_reference, front_order
from worldloom.generator.depth.da3.rope import Rotation, patch_positions, plain_positions, rotate
from worldloom.generator.depth.da3.variants import PATCH, TABLE_SIDE, Da3Config

BLOCK_EPS = 1e-6  # LayerNorms of the backbone's blocks; every other LayerNorm has 1e-5.
POSITION_OFFSET = 0.1  # Added to the grid before it is divided by the table's side; see below.
FEWEST_FOR_REFERENCE = 3  # Views from which on a reference view is chosen.

Tap = Callable[[int, Tensor], Any]
"""Number of an output (0 to 3) and its tokens [v n c] -> what is kept of them."""


@dataclass(frozen=True)
class Tokens:
    """What the backbone says of v views."""

    levels: tuple[Any, ...]
    """Of the four output layers what `tap` made of the patch tokens [v n c], in input order."""
    camera: Tensor
    """Cls slots of the last output layer [v c], before the final norm."""
    reference: int | None
    """The view that was put first, where one was chosen."""


class Attention(nn.Module):
    """Self-attention with a fused projection, with q/k norm where `normed`."""

    def __init__(self, dim: int, heads: int, *, normed: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.q_norm = nn.LayerNorm(dim // heads) if normed else nn.Identity()
        self.k_norm = nn.LayerNorm(dim // heads) if normed else nn.Identity()
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, rotation: Rotation | None = None) -> Tensor:
        """Tokens [b n d] -> [b n d]; every token sees all of its row."""
        b, n, d = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        q, k = self.q_norm(q), self.k_norm(k)
        if rotation is not None:
            q, k = rotate(q, rotation), rotate(k, rotation)
        # Under autocast the norms answer in float32 and v in half precision.
        mixed = functional.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v)
        return self.proj(mixed.transpose(1, 2).reshape(b, n, d))


class GeluMlp(nn.Module):
    """Two linear layers with GELU between."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(inputs, hidden)
        self.fc2 = nn.Linear(hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Values [... inputs] -> [... outputs]."""
        return self.fc2(functional.gelu(self.fc1(x)))


class SwigluMlp(nn.Module):
    """Gated feed-forward network: w3(SiLU(first half) x second half)."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.w12 = nn.Linear(dim, 2 * hidden)
        self.w3 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Values [... d] -> [... d]."""
        gate, value = self.w12(x).chunk(2, -1)
        return self.w3(functional.silu(gate) * value)


class LayerScale(nn.Module):
    """One factor a channel."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Values [... d] -> [... d]."""
        return x * self.gamma


class Block(nn.Module):
    """One layer: x += g1 Attn(LN x); x += g2 FFN(LN x)."""

    def __init__(
        self, dim: int, heads: int, feed_forward: nn.Module, *, normed: bool, eps: float
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn = Attention(dim, heads, normed=normed)
        self.ls1 = LayerScale(dim)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = feed_forward
        self.ls2 = LayerScale(dim)

    def forward(self, x: Tensor, rotation: Rotation | None = None) -> Tensor:
        """Tokens [b n d] -> [b n d]."""
        x = x + self.ls1(self.attn(self.norm1(x), rotation))
        return x + self.ls2(self.mlp(self.norm2(x)))


class PatchEmbed(nn.Module):
    """Pictures to patches."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, PATCH, PATCH)

    def forward(self, images: Tensor) -> Tensor:
        """Pictures [v 3 h w] -> tokens [v n d], rows first."""
        return self.proj(images).flatten(2).transpose(1, 2)


class VisionTransformer(nn.Module):
    """The backbone's weights; see `Backbone`."""

    def __init__(self, config: Da3Config) -> None:
        super().__init__()
        self.config = config
        dim = config.dim
        self.patch_embed = PatchEmbed(dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        if config.multi_view:
            self.camera_token = nn.Parameter(torch.zeros(1, 2, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, TABLE_SIDE**2 + 1, dim))
        self.blocks = nn.ModuleList(self._block(layer) for layer in range(config.layers))
        self.norm = nn.LayerNorm(dim)

    def _block(self, layer: int) -> Block:
        config = self.config
        feed = (
            SwigluMlp(config.dim, config.hidden)
            if config.swiglu
            else GeluMlp(config.dim, config.hidden, config.dim)
        )
        normed = config.multi_view and layer >= config.start
        return Block(config.dim, config.heads, feed, normed=normed, eps=BLOCK_EPS)

    def embed(self, images: Tensor) -> Tensor:
        """Pictures [v 3 h w] -> tokens [v 1+n d] with their places."""
        grid = (images.shape[-2] // PATCH, images.shape[-1] // PATCH)
        # Under mixed precision the patches are rounded, but what they are added to is not.
        patches = self.patch_embed(images).to(self.cls_token.dtype)
        cls = self.cls_token.expand(len(images), -1, -1)
        return torch.cat([cls, patches], 1) + position_table(self.pos_embed, grid)

    def forward(self, images: Tensor, cameras: Tensor | None, tap: Tap) -> Tokens:
        """Run all layers.

        Args:
            images: Normalised colours [v 3 h w], sides multiples of 14.
            cameras: Camera tokens [v d], or None where no cameras are known.
            tap: What becomes of the patch tokens of an output layer.
        """
        config = self.config
        grid = (images.shape[-2] // PATCH, images.shape[-1] // PATCH)
        x = self.embed(images)
        rotations = _rotations(config, grid, len(images), images.device)
        order: Tensor | None = None
        local, levels, camera = x, [], x[:, 0]
        for layer, block in enumerate(self.blocks):
            if layer == config.start - 1 and cameras is None and len(x) >= FEWEST_FOR_REFERENCE:
                order = front_order(choose_reference(x[:, 0]), len(x)).to(x.device)
                x, local = x[order], local[order]
            if layer == config.start:
                x = torch.cat(
                    [self._camera_slots(cameras, len(x)).to(x.dtype)[:, None], x[:, 1:]], 1
                )
            x, local = self._layer(layer, block, x, local, rotations)
            if layer in config.out_layers:
                both = torch.cat([local, x], -1) if config.multi_view else x
                both = both if order is None else both[torch.argsort(order)]
                camera = both[:, 0]
                levels.append(tap(len(levels), self._normed(both[:, 1:])))
        first = None if order is None else int(order[0])
        return Tokens(tuple(levels), camera, first)

    def _camera_slots(self, cameras: Tensor | None, views: int) -> Tensor:
        """What is written over the cls slots [v d]."""
        if cameras is not None:
            return cameras
        first, others = self.camera_token[:, :1], self.camera_token[:, 1:]
        return torch.cat([first, others.expand(1, views - 1, -1)], 1)[0]

    def _layer(
        self, layer: int, block: Block, x: Tensor, local: Tensor, rotations: tuple[Rotation, ...]
    ) -> tuple[Tensor, Tensor]:
        """Tokens [v n d] after a layer, and after the last layer that saw one view at a time."""
        config = self.config
        if not config.multi_view or layer < config.start:
            x = block(x)
            return x, x
        if layer % 2 == 0:
            x = block(x, rotations[0])
            return x, x
        joined = block(x.reshape(1, -1, x.shape[-1]), rotations[1])
        return joined.reshape(x.shape), local

    def _normed(self, tokens: Tensor) -> Tensor:
        """The final norm, over the current half alone where there are two."""
        if not self.config.multi_view:
            return self.norm(tokens)
        local, current = tokens.chunk(2, -1)
        current = self.norm(current)
        return torch.cat([local.to(current.dtype), current], -1)


class Backbone(nn.Module):
    """The transformer under its published name."""

    def __init__(self, config: Da3Config) -> None:
        super().__init__()
        self.pretrained = VisionTransformer(config)

    def forward(
        self, images: Tensor, cameras: Tensor | None = None, *, tap: Tap = lambda _, tokens: tokens
    ) -> Tokens:
        """See `VisionTransformer.forward`."""
        return self.pretrained(images, cameras, tap)


def position_table(table: Tensor, grid: tuple[int, int]) -> Tensor:
    """Position embeddings [1 1+n d] of a grid of patches from the table [1 1+37x37 d].

    Bicubic by scale factors that are a little too large, as the weights were trained with: giving
    the size instead samples at other places (spec 2.2).
    """
    if grid == (TABLE_SIDE, TABLE_SIDE):
        return table
    cls, patches = table.float().split([1, TABLE_SIDE**2], 1)
    square = patches.reshape(1, TABLE_SIDE, TABLE_SIDE, -1).permute(0, 3, 1, 2)
    factors = tuple((side + POSITION_OFFSET) / TABLE_SIDE for side in grid)
    sampled = functional.interpolate(square, scale_factor=factors, mode="bicubic")
    return torch.cat([cls, sampled.flatten(2).transpose(1, 2)], 1)


def _rotations(
    config: Da3Config, grid: tuple[int, int], views: int, device: torch.device
) -> tuple[Rotation, ...]:
    """Rotations of one view's tokens and of all views' tokens; none for a plain network."""
    if not config.multi_view:
        return ()
    width = config.dim // config.heads
    return (
        Rotation.of(patch_positions(grid), width, device),
        Rotation.of(plain_positions(grid).repeat(views, 1), width, device),
    )
