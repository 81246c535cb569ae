"""The parts of one transformer block of Wan 2.1 with Lyra's injections (spec generation 6.2).

Residual stream and projections run in the dtype of the weights; norms, modulation and rotation
in float32. Parameter names are those of the released checkpoints.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from worldloom.generator.video.lyra.config import DiTConfig

FASTEST = (
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
)
"""Attention kernels in the order in which they are preferred on a GPU: on Hopper cuDNN's is the
fastest that comes with PyTorch, and attention is more than half of all work (spec 11.2)."""


class RMSNorm(nn.Module):
    """Root mean square norm over the last axis, with weight."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `x` [... dim] in float32."""
        y = x.float()
        y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + self.eps)
        return y.to(x.dtype) * self.weight


def modulate(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """Layer norm without weights, scaled and shifted in float32; `x` [B L D], rest [B 1 D]."""
    y = F.layer_norm(x.float(), x.shape[-1:], eps=eps)
    return torch.addcmul(shift, y, 1 + scale).to(x.dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the pairs (2j, 2j+1) of `x` [B L heads d] by angles [L 1 d/2], in float32."""
    a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2).to(x.dtype)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention without a mask over [B L heads d], flattened to [B L heads*d]."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    if q.is_cuda:
        with sdpa_kernel(list(FASTEST), set_priority=True):
            out = F.scaled_dot_product_attention(q, k, v)
    else:
        out = F.scaled_dot_product_attention(q, k, v)
    return out.transpose(1, 2).flatten(2)


@dataclass(frozen=True)
class Injection:
    """What is added to the input of Q and K: per token rays and squeezed correspondences."""

    camera: Tensor | None
    """[B L 1536]."""
    matches: tuple[Tensor, ...] | None
    """For every block: correspondences after the first linear layer, validity applied."""


@dataclass(frozen=True)
class ContextKV:
    """Keys and values of one context for one block, [B n heads d]."""

    k: Tensor
    v: Tensor


class SelfAttention(nn.Module):
    """Attention among all tokens."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.heads = config.num_heads
        for name in ("q", "k", "v", "o"):
            setattr(self, name, nn.Linear(config.dim, config.dim))
        self.norm_q, self.norm_k = _norm(config), _norm(config)

    def forward(self, y: Tensor, extra: Tensor | None, kq_only: bool, turn: tuple) -> Tensor:
        """Attend over `y` [B L D]; `extra` is added to the input of q and k, or of v too."""
        guided = y if extra is None else y + extra
        q, k = self.norm_q(self.q(guided)), self.norm_k(self.k(guided))
        v = self.v(y if kq_only else guided)
        q, k, v = (x.unflatten(-1, (self.heads, -1)) for x in (q, k, v))
        return self.o(attend(rotate(q, *turn), rotate(k, *turn), v))


class CrossAttention(nn.Module):
    """Attention to text, and to image tokens beside it."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.heads = config.num_heads
        image = ("k_img", "v_img") if config.model_type == "i2v" else ()
        for name in ("q", "k", "v", "o", *image):
            setattr(self, name, nn.Linear(config.dim, config.dim))
        self.norm_q, self.norm_k = _norm(config), _norm(config)
        if image:
            self.norm_k_img = _norm(config)

    def text_kv(self, text: Tensor) -> ContextKV:
        """Keys and values of embedded text [B n D]: they depend on no step."""
        return self._kv(self.norm_k(self.k(text)), self.v(text))

    def image_kv(self, image: Tensor) -> ContextKV:
        """Keys and values of embedded image tokens [B n D]."""
        return self._kv(self.norm_k_img(self.k_img(image)), self.v_img(image))

    def _kv(self, k: Tensor, v: Tensor) -> ContextKV:
        return ContextKV(k.unflatten(-1, (self.heads, -1)), v.unflatten(-1, (self.heads, -1)))

    def forward(self, x: Tensor, text: ContextKV, image: ContextKV | None) -> Tensor:
        """Attend from `x` [B L D]."""
        q = self.norm_q(self.q(x)).unflatten(-1, (self.heads, -1))
        out = attend(q, text.k, text.v)
        if image is not None:
            out = out + attend(q, image.k, image.v)
        return self.o(out)


class Block(nn.Module):
    """One transformer block."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.eps, self.kq_only = config.eps, config.inject_kq_only
        self.modulation = nn.Parameter(torch.randn(1, 6, config.dim) / config.dim**0.5)
        self.self_attn = SelfAttention(config)
        self.norm3 = (
            nn.LayerNorm(config.dim, config.eps) if config.cross_attn_norm else nn.Identity()
        )
        self.cross_attn = CrossAttention(config)
        self.ffn = nn.Sequential(
            nn.Linear(config.dim, config.ffn_dim),
            nn.GELU(approximate="tanh"),
            nn.Linear(config.ffn_dim, config.dim),
        )
        if config.use_plucker_condition:
            self.cam_encoder = nn.Linear(config.camera_width, config.dim, bias=False)
        if config.use_correspondence:
            self.buffer_encoder = _buffer_encoder(config)

    def squeeze(self, waves: Tensor, valid: Tensor) -> Tensor:
        """First half of the buffer's embedding [B L n]: once per chunk, as no step changes it."""
        first = self.buffer_encoder
        out = first[0](waves) if isinstance(first, nn.Sequential) else first(waves)
        return out * valid if self.kq_only else out

    def injected(self, camera: Tensor | None, matches: Tensor | None) -> Tensor | None:
        """What is added before q and k [B L D]."""
        extra = None if camera is None else self.cam_encoder(camera)
        if matches is None:
            return extra
        second = self.buffer_encoder
        found = second[1](matches) if isinstance(second, nn.Sequential) else matches
        return found if extra is None else extra + found

    def forward(
        self,
        x: Tensor,
        e6: Tensor,
        extra: Tensor | None,
        turn: tuple[Tensor, Tensor],
        text: ContextKV,
        image: ContextKV | None,
    ) -> Tensor:
        """Tokens [B L D] after the block; `e6` [B 6 D] float32 is the time's modulation."""
        b1, s1, g1, b2, s2, g2 = (self.modulation.float() + e6).chunk(6, 1)
        y = modulate(x, b1, s1, self.eps)
        x = x + g1.to(x.dtype) * self.self_attn(y, extra, self.kq_only, turn)
        x = x + self.cross_attn(self.norm3(x), text, image)
        return x + g2.to(x.dtype) * self.ffn(modulate(x, b2, s2, self.eps))


class Head(nn.Module):
    """Tokens -> patches of the velocity, in float32 (spec generation 6.2)."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.eps = config.eps
        self.modulation = nn.Parameter(torch.randn(1, 2, config.dim) / config.dim**0.5)
        self.head = nn.Linear(config.dim, config.out_dim * config.patch_cells)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        """Rows [B n patch*C] of tokens [B n D] at time embedding `e` [B D], float32."""
        shift, scale = (self.modulation.float() + e[:, None]).chunk(2, 1)
        y = modulate(x.float(), shift, scale, self.eps)
        return F.linear(y, self.head.weight.float(), self.head.bias.float())


class ImageEmbedding(nn.Module):
    """CLIP tokens -> image context."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.proj = nn.Sequential(
            nn.LayerNorm(config.clip_dim),
            nn.Linear(config.clip_dim, config.clip_dim),
            nn.GELU(),
            nn.Linear(config.clip_dim, config.dim),
            nn.LayerNorm(config.dim),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Image context [B n D] of CLIP tokens [B n clip_dim]."""
        return self.proj(tokens)


def _norm(config: DiTConfig) -> nn.Module:
    return RMSNorm(config.dim, config.eps) if config.qk_norm else nn.Identity()


def _buffer_encoder(config: DiTConfig) -> nn.Module:
    width, squeeze = config.buffer_encoded or config.buffer_width, config.buffer_mlp_squeeze_dim
    if not squeeze:
        return nn.Linear(width, config.dim, bias=False)
    return nn.Sequential(
        nn.Linear(width, squeeze, bias=False), nn.Linear(squeeze, config.dim, bias=False)
    )
