"""The numbers that a Lyra 2.0 network is built from; nothing in the code is fixed to 14B."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from worldloom.scene.errors import EngineFailed

CAMERA_CHANNELS = 384  # Six ray channels folded from 8 x 8 pixels (spec generation 5).
TEXT_TOKENS = 512  # Rows of a prompt embedding, padding included (spec generation 1.5).
BUFFER_SLAB = 8192
"""Tokens whose correspondences are embedded together: their sines are a run's largest tensor."""
RELEASED_LAYOUT = "f1k1f4s2f1s1f16k4f2k2f1k1_g20"  # Spec generation 2.


@dataclass(frozen=True)
class DiTConfig:
    """Dimensions and switches of the video transformer (spec generation 6.1)."""

    dim: int
    num_heads: int
    num_layers: int
    ffn_dim: int
    in_dim: int = 36
    """Channels of noise, mask and conditioning latents; rays are not counted."""
    out_dim: int = 16
    freq_dim: int = 256
    text_dim: int = 4096
    clip_dim: int = 1280
    model_type: str = "i2v"
    """`i2v` attends to image tokens beside the text, `t2v` to text alone."""
    patch_size: tuple[int, int, int] = (1, 2, 2)
    eps: float = 1e-6
    qk_norm: bool = True
    cross_attn_norm: bool = True
    framepack_type: str | None = None
    """Layout of the history; None is plain Wan 2.1."""
    use_plucker_condition: bool = False
    use_correspondence: bool = False
    buffer_in_dim: int = 0
    buffer_sincos_multires: int = 0
    buffer_mlp_squeeze_dim: int = 0
    """Width between the two linear layers of the buffer; 0 is a single layer."""
    buffer_pixelshuffle: bool = True
    inject_kq_only: bool = True

    def __post_init__(self) -> None:
        if self.dim % self.num_heads or (self.dim // self.num_heads) % 2:
            raise EngineFailed(
                f"dim {self.dim} is not an even multiple of num_heads {self.num_heads}; every head "
                "needs an even width for its rotary pairs. Correct the network's configuration"
            )
        if self.model_type not in ("i2v", "t2v"):
            raise EngineFailed(
                f"model_type is {self.model_type!r}; this network is either 'i2v' or 't2v'"
            )
        if self.use_correspondence and not self.buffer_pixelshuffle:
            raise EngineFailed(
                "buffer_pixelshuffle is false; the released networks fold their correspondence "
                "buffer by pixel shuffle and nothing else is supported"
            )

    @staticmethod
    def from_mapping(values: Mapping[str, Any]) -> DiTConfig:
        """A configuration out of a dictionary; keys that are not of the network are ignored."""
        known = {f.name for f in fields(DiTConfig)}
        chosen = {key: value for key, value in values.items() if key in known}
        if "patch_size" in chosen:
            chosen["patch_size"] = tuple(chosen["patch_size"])
        return DiTConfig(**chosen)

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.dim // self.num_heads

    @property
    def patch_cells(self) -> int:
        """Latent cells of one base token."""
        return self.patch_size[0] * self.patch_size[1] * self.patch_size[2]

    @property
    def camera_width(self) -> int:
        """Ray values of one base token."""
        return CAMERA_CHANNELS * self.patch_cells

    @property
    def buffer_width(self) -> int:
        """Correspondence values of one base token, before their sines and cosines."""
        return self.buffer_in_dim * self.patch_cells

    @property
    def buffer_encoded(self) -> int:
        """Values of one token after sines and cosines."""
        return self.buffer_width * 2 * max(self.buffer_sincos_multires, 0)


LYRA_14B = DiTConfig(
    dim=5120, num_heads=40, num_layers=40, ffn_dim=13824, framepack_type=RELEASED_LAYOUT,
    use_plucker_condition=True, use_correspondence=True, buffer_in_dim=1280,
    buffer_sincos_multires=2, buffer_mlp_squeeze_dim=256,
)  # fmt: skip
"""The released network: 17,029,871,424 parameters (spec generation 6.1)."""

LYRA_TINY = DiTConfig(
    dim=48, num_heads=2, num_layers=2, ffn_dim=96, freq_dim=32, text_dim=32, clip_dim=32,
    framepack_type=RELEASED_LAYOUT, use_plucker_condition=True, use_correspondence=True,
    buffer_in_dim=1280, buffer_sincos_multires=2, buffer_mlp_squeeze_dim=8,
)  # fmt: skip
"""The network of `lyra2-tiny`, for tests of the whole path on a CPU."""
