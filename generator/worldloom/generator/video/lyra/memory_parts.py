"""Configurations of the networks -> their parameters and the bytes that a chunk keeps alive.

Counted from the configurations alone, without torch and before anything is loaded. Weights, caches
and results are exact; activations are the tensors that the code holds at its fullest moment, and
what a library allocates inside a call is not seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from worldloom.generator.depth.da3.sizes import gpu_weight_bytes, kept_bytes, moment_bytes
from worldloom.generator.depth.da3.variants import VARIANTS, Variant
from worldloom.generator.video.lyra.config import (
    BUFFER_SLAB,
    LYRA_14B,
    LYRA_TINY,
    TEXT_TOKENS,
    DiTConfig,
)
from worldloom.generator.video.lyra.layout import FRAMES_PER_LATENT, FramePack
from worldloom.generator.video.lyra.vae_keys import VAEConfig
from worldloom.scene.errors import InvalidRequest

BF16, FP32 = 2, 4
CLIP_TOKENS = 257  # Image tokens of ViT-H/14 at 224 pixels.
BLOCK = 8  # Pixels per latent cell and axis.
CACHED_STEPS = 2  # Time steps that a causal convolution of the VAE remembers.
ADAPTER_RANK = 64  # Assumed: the rank of the published adapters is not documented.
ATTENTION_ALIVE = 14
"""Tensors of tokens x dim in bf16 alive at a block's fullest moment, the rotation of the keys:
x, y, what is injected and its sum with y, q, k, v, the rotated q, and three float32 copies."""
SINES_BYTES = 44
"""Bytes alive per correspondence value while its sines are made: the angles in float32, four
functions of them, their joint copy, and both in bf16 (spec generation 11.3)."""
VAE_DECODE_BYTES, VAE_ENCODE_BYTES = 15, 10
"""Bytes alive per pixel, frame and base channel at the fullest level of the VAE: the decoder's last
upsampling runs in float32 at twice the channels."""


@dataclass(frozen=True)
class Models:
    """The networks of one engine."""

    dit: DiTConfig
    vae: VAEConfig
    vae_parameters: int
    text_parameters: int
    clip_parameters: int
    depth: Variant | None
    """The depth network; None where depth is carried along."""
    splats: Variant | None
    """The network with the Gaussian head; None where keyframes become discs."""
    prompts: int
    """Prompts whose keys and values are kept: two with guidance."""
    adapter_rank: int = 0
    """Rank of the adapter that is merged when loading; 0 = none."""


RELEASED = Models(
    dit=LYRA_14B, vae=VAEConfig(), vae_parameters=126_892_531, text_parameters=5_680_910_336,
    clip_parameters=630_766_080, depth=VARIANTS["nested"],
    splats=VARIANTS["nested"], prompts=2,
)  # fmt: skip
"""Wan 2.1's VAE, UMT5-XXL, CLIP ViT-H/14 and DA3NESTED-GIANT-LARGE-1.1 (1.356 + 0.334 B)."""

ENGINES: dict[str, Models] = {
    "lyra2": RELEASED,
    "lyra2-dmd": Models(**{**vars(RELEASED), "prompts": 1, "adapter_rank": ADAPTER_RANK}),
    "lyra2-tiny": Models(
        dit=LYRA_TINY, vae=VAEConfig(dim=8, num_res_blocks=1), vae_parameters=668_043,
        text_parameters=18_656, clip_parameters=36_608, depth=None, splats=None,
        prompts=2,
    ),
}  # fmt: skip
"""Networks of the engines that make video; the tiny one takes its depth from elsewhere."""


def models_of(engine: str) -> Models:
    """The networks of an engine.

    Raises:
        InvalidRequest: It is no video engine.
    """
    if engine not in ENGINES:
        raise InvalidRequest(
            f"{engine!r} has no memory plan; engines with one are {', '.join(ENGINES)}",
            field="engine",
        )
    return ENGINES[engine]


def linear(inputs: int, outputs: int, *, bias: bool = True) -> int:
    """Parameters of a linear layer."""
    return inputs * outputs + (outputs if bias else 0)


def block_parameters(config: DiTConfig) -> int:
    """Parameters of one transformer block (spec generation 6.2)."""
    d, image = config.dim, config.model_type == "i2v"
    total = 6 * d + (8 + 2 * image) * linear(d, d)
    total += (4 + image) * d * config.qk_norm + 2 * d * config.cross_attn_norm
    total += linear(d, config.ffn_dim) + linear(config.ffn_dim, d)
    if config.use_plucker_condition:
        total += linear(config.camera_width, d, bias=False)
    if config.use_correspondence:
        width, squeeze = config.buffer_encoded or config.buffer_width, config.buffer_mlp_squeeze_dim
        total += width * squeeze + squeeze * d if squeeze else width * d
    return total


def dit_parameters(config: DiTConfig) -> int:
    """Parameters of the whole video transformer."""
    d, cells = config.dim, config.patch_cells
    total = config.num_layers * block_parameters(config)
    total += linear(config.in_dim * cells, d) + 2 * d + linear(d, config.out_dim * cells)
    total += linear(config.text_dim, d) + linear(d, d)
    total += linear(config.freq_dim, d) + linear(d, d) + linear(d, 6 * d)
    if config.model_type == "i2v":
        clip = config.clip_dim
        total += 2 * clip + linear(clip, clip) + linear(clip, d) + 2 * d
    if config.framepack_type:
        for segment in FramePack.parse(config.framepack_type).segments:
            total += linear(config.in_dim * cells * prod(segment.pool()), d)
    return total


def adapter_parameters(config: DiTConfig, rank: int) -> int:
    """Parameters of an adapter on the linear layers of all blocks."""
    d, square = config.dim, 8 + 2 * (config.model_type == "i2v")
    sides = square * 2 * d + 2 * (d + config.ffn_dim)
    return config.num_layers * rank * sides


@dataclass(frozen=True)
class Chunk:
    """Sizes of one chunk of an engine at a picture size; all results are in bytes."""

    models: Models
    size: tuple[int, int]
    """Width and height [px]."""

    @property
    def config(self) -> DiTConfig:
        """The video transformer's."""
        return self.models.dit

    @property
    def layout(self) -> FramePack:
        """History layout."""
        return FramePack.parse(str(self.config.framepack_type))

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of base tokens."""
        _, ph, pw = self.config.patch_size
        return self.size[1] // BLOCK // ph, self.size[0] // BLOCK // pw

    @property
    def history_tokens(self) -> int:
        """Tokens of the packed history."""
        return sum(segment.tokens(*self.grid) for segment in self.layout.segments)

    @property
    def new_tokens(self) -> int:
        """Tokens of the frames to make."""
        return self.layout.new // self.config.patch_size[0] * prod(self.grid)

    @property
    def tokens(self) -> int:
        """Tokens of a forward pass."""
        return self.history_tokens + self.new_tokens

    @property
    def pixels(self) -> int:
        """Pixels of a frame."""
        return self.size[0] * self.size[1]

    def latents(self, channels: int, frames: int, *, width: int = BF16) -> int:
        """A tensor of so many channels at the size of the latents."""
        return channels * frames * self.pixels // BLOCK**2 * width

    # ---- kept during all steps ------------------------------------------------------------------

    def matches(self) -> int:
        """Squeezed correspondences of all blocks: made once per chunk instead of in every step."""
        width = self.config.buffer_mlp_squeeze_dim or self.config.dim
        return self.config.num_layers * self.tokens * width * BF16

    def rays(self) -> int:
        """Rays of all tokens."""
        return self.tokens * self.config.camera_width * BF16

    def text_kv(self) -> int:
        """Keys and values of the prompts."""
        per_prompt = 2 * self.config.num_layers * TEXT_TOKENS * self.config.dim * BF16
        return self.models.prompts * per_prompt

    def image_kv(self) -> int:
        """Keys and values of the image tokens."""
        return 2 * self.config.num_layers * CLIP_TOKENS * self.config.dim * BF16

    def embedded(self) -> int:
        """History tokens, known part of the new ones, cosines and sines of the rotation."""
        angles = self.tokens * self.config.head_dim * FP32
        return self.tokens * self.config.dim * BF16 + angles

    def inputs(self) -> int:
        """Conditioning on the device: history, mask, latents, rays, correspondence, warps."""
        warped = 3 * self.layout.new_frames * self.pixels * BF16
        slots = self.layout.spatial + self.layout.new
        buffer = self.latents(self.config.buffer_in_dim, slots)
        return self.latents(16 + 4 + 16 + 384, self.layout.total) + buffer + warped

    # ---- alive for a moment ---------------------------------------------------------------------

    def preparing(self) -> int:
        """While the correspondence values of a slab of tokens become sines and cosines."""
        slab = min(self.tokens, BUFFER_SLAB) * SINES_BYTES + self.tokens * BF16
        return self.config.buffer_width * slab

    def forward(self) -> int:
        """Activations of one forward pass; the two branches of the guidance run in turn."""
        stream = self.tokens * self.config.dim * BF16
        hidden = 2 * self.tokens * self.config.ffn_dim * BF16
        return max(ATTENTION_ALIVE * stream, 3 * stream + hidden)

    def solver(self) -> int:
        """Latents of the solver in float32: sample, two predictions, corrections, velocities."""
        return self.latents(16 * 8, self.layout.new, width=FP32)

    def geometry(self) -> int:
        """Host arrays of warps, correspondence and rays in float32 (memory.correspondence)."""
        warped = 3 * self.layout.new_frames * self.pixels * FP32
        slots = self.layout.spatial + self.layout.new
        buffer = self.latents(self.config.buffer_in_dim, slots, width=FP32)
        return self.latents(384, self.layout.total, width=FP32) + buffer + warped

    def encoding(self, group: int) -> int:
        """VAE activations while `group` latents are encoded, and the frames that go in."""
        frames = group * FRAMES_PER_LATENT * self.pixels
        return frames * self.models.vae.dim * VAE_ENCODE_BYTES + self.video()

    def decoding(self, group: int) -> int:
        """VAE activations while `group` latents are decoded, and the frames that come out."""
        frames = group * FRAMES_PER_LATENT * self.pixels
        return frames * self.models.vae.dim * VAE_DECODE_BYTES + 2 * self.video()

    def video(self) -> int:
        """Frames of a chunk in bf16."""
        return 3 * self.layout.new_frames * self.pixels * BF16

    def vae_state(self) -> int:
        """What the convolutions of encoder and decoder remember between chunks."""
        encoder, decoder = vae_state_values(self.models.vae)
        return int((encoder + decoder) * self.pixels * BF16)

    def depth_weights(self) -> int:
        """Weights of the depth network."""
        return gpu_weight_bytes(self.models.depth) if self.models.depth else 0

    def splat_weights(self) -> int:
        """Weights of the network with the Gaussian head."""
        return gpu_weight_bytes(self.models.splats) if self.models.splats else 0

    def depth_activations(self, frames: int, views: int) -> int:
        """What a depth network keeps and what is alive beside that, at the fuller of two moments.

        Args:
            frames: Frames whose depth is estimated together.
            views: Frames of a window that becomes splats.
        """
        moments = [0]
        if self.models.depth is not None:
            main = self.models.depth.main
            kept = kept_bytes(main, frames, self.size, splats=False, width=FP32)
            moments.append(kept + moment_bytes(main, frames, self.size))
        if self.models.splats is not None:
            main = self.models.splats.main
            kept = kept_bytes(main, views, self.size, splats=True)
            moments.append(kept + moment_bytes(main, views, self.size))
        return max(moments)

    def history(self, chunks: int) -> int:
        """Host memory of the past: latents, and for every eighth frame pixels, depth, points."""
        frames = chunks * self.layout.new_frames // 8 + 1
        each = self.pixels * (3 * FP32 + FP32) + self.pixels // 16 * 3 * FP32
        return frames * each + self.latents(16, self.layout.history + chunks * self.layout.new)


def vae_state_values(config: VAEConfig) -> tuple[float, float]:
    """Values per pixel that encoder and decoder remember; a convolution keeps two time steps."""
    widths = [config.dim * m for m in config.dim_mult]
    levels, blocks, two = len(widths), config.num_res_blocks, CACHED_STEPS
    top = 4.0 ** (levels - 1)
    encoder, decoder = 3.0 * two, config.z_dim * two / top
    before = config.dim
    for level, width in enumerate(widths):
        area = 4.0**level
        encoder += two * (before + (2 * blocks - 1) * width) / area
        if level < levels - 1 and config.temporal_downsample[level]:
            encoder += width / (4 * area)
        before = width
    encoder += two * 5 * widths[-1] / top
    decoder += two * 4 * widths[-1] / top
    before = widths[-1]
    for step, width in enumerate(reversed(widths)):
        area = 4.0 ** (levels - 1 - step)
        decoder += two * (before + (2 * blocks + 1) * width) / area
        if step < levels - 1:
            if config.temporal_downsample[levels - 2 - step]:
                decoder += two * width / area
            before = width // 2
    return encoder, decoder + two * widths[0]
