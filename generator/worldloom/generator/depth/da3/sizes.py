"""Sizes of a network -> bytes of its weights and of what is alive while it runs; without torch.

For memory plans made before anything is loaded. Weights and kept maps are exact, moments are the
tensors that the code holds at its fullest point.
"""

from __future__ import annotations

from math import prod

from worldloom.generator.depth.da3.keys import expected_shapes
from worldloom.generator.depth.da3.variants import PATCH, Da3Config, Variant

FP32, BF16 = 4, 2
HEAD_VIEWS = 8  # Views that a head takes at a time.
TOKENS_ALIVE = 8
"""Tensors of tokens x width in float32 alive in a block: the stream, the last local output, the
normed one, q, k, v, and a float32 copy of two of them; half of these are of half precision."""
MAPS_ALIVE = 5
"""Maps of half the features at full size alive in a head: enlarged, with its position, what the
next convolution makes and packs; 5.6 with all buffers were measured on a CPU."""


def gpu_weight_bytes(variant: Variant) -> int:
    """Weights of a model as `load.for_gpu` leaves them: the backbones' matrices take half."""
    return sum(
        prod(shape) * (BF16 if _halved(name) else FP32)
        for name, shape in expected_shapes(variant).items()
    )


def _halved(name: str) -> bool:
    matrices = (".patch_embed.", ".attn.qkv.", ".attn.proj.", ".mlp.")
    return "backbone.pretrained" in name and any(part in name for part in matrices)


def processed(width: int, height: int) -> tuple[int, int]:
    """Rows and columns of patches of pictures whose sides are kept [px]."""
    return max(1, round(height / PATCH)), max(1, round(width / PATCH))


def kept_bytes(
    config: Da3Config, views: int, size: tuple[int, int], *, splats: bool, width: int = BF16
) -> int:
    """Projected maps that stay between backbone and heads.

    Args:
        config: Of the network.
        views: Pictures of a window.
        size: Width and height of the pictures [px].
        splats: Whether the Gaussian head's maps are kept too.
        width: Bytes of a number.
    """
    rows, columns = processed(*size)
    return views * rows * columns * sum(config.out_channels) * (2 if splats else 1) * width


def moment_bytes(config: Da3Config, views: int, size: tuple[int, int]) -> int:
    """What is alive beside the kept maps at the fullest point of backbone or head."""
    rows, columns = processed(*size)
    tokens = views * (rows * columns + 1)
    hidden = tokens * config.hidden * (3 if config.swiglu else 1) * BF16
    backbone = tokens * config.dim * TOKENS_ALIVE * FP32 + hidden
    pixels = min(views, HEAD_VIEWS) * rows * columns * PATCH**2
    return max(backbone, pixels * config.features // 2 * MAPS_ALIVE * FP32)
