"""A seed -> Lyra's networks with tiny random weights: the released code, pictures without meaning.

For tests of the whole path on a CPU. Everything is made from the seed alone, so that equal
requests give equal worlds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from worldloom.generator.depth.da3.load import random_network
from worldloom.generator.depth.da3.nested import Network
from worldloom.generator.video.lyra.clip import ClipVision
from worldloom.generator.video.lyra.clip_keys import CLIPConfig
from worldloom.generator.video.lyra.clip_keys import published_shapes as clip_shapes
from worldloom.generator.video.lyra.config import LYRA_TINY
from worldloom.generator.video.lyra.dit import VideoTransformer
from worldloom.generator.video.lyra.key_table import expected_shapes
from worldloom.generator.video.lyra.loop import Networks
from worldloom.generator.video.lyra.text import TextEncoder
from worldloom.generator.video.lyra.text_keys import TextConfig
from worldloom.generator.video.lyra.text_keys import published_shapes as text_shapes
from worldloom.generator.video.lyra.vae import VideoVAE
from worldloom.generator.video.lyra.vae import published_shapes as vae_shapes
from worldloom.generator.video.lyra.vae_keys import VAEConfig

WEIGHTS_SEED = 20_261_124
"""The weights are the same for every request; the request's seed draws the noise."""
BYTES = 256  # Token numbers of the byte tokenizer.

DIT = LYRA_TINY
VAE: Mapping[str, object] = {"dim": 8, "num_res_blocks": 1}
CLIP: Mapping[str, object] = {
    "image_size": 56, "patch": 14, "dim": 32, "heads": 2, "layers": 2, "ratio": 2,
}  # fmt: skip
TEXT: Mapping[str, object] = {
    "vocab": BYTES + 2, "dim": 32, "dim_attn": 32, "dim_ffn": 64, "num_heads": 2, "num_layers": 1,
}  # fmt: skip


class ByteTokenizer:
    """Text -> its UTF-8 bytes as token numbers, 0 for padding and 1 for the end."""

    def __call__(self, prompts: Sequence[str], length: int) -> tuple[Tensor, Tensor]:
        """Token numbers and mask, int64 [n length] each; long texts are cut."""
        ids = torch.zeros(len(prompts), length, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            text = prompt.encode("utf-8")[: length - 1]
            codes = [*(byte + 2 for byte in text), 1]
            ids[row, : len(codes)] = torch.tensor(codes)
            mask[row, : len(codes)] = 1
        return ids, mask


def tiny_networks() -> Networks:
    """All networks of the loop."""
    vae, clip = VAEConfig.parse(VAE), CLIPConfig.parse(CLIP)
    dit = VideoTransformer(DIT).requires_grad_(False).eval()
    return Networks(
        dit.load(random_tensors(expected_shapes(DIT), WEIGHTS_SEED)),
        VideoVAE.load(VAE, random_tensors(vae_shapes(vae), WEIGHTS_SEED + 1)),
        ClipVision.load(CLIP, random_tensors(clip_shapes(clip), WEIGHTS_SEED + 2)),
    )


def tiny_depth() -> Network:
    """The depth network, with a second one for metres as the released one has."""
    return random_network("tiny-nested", WEIGHTS_SEED)


def tiny_embedding(prompt: str) -> Tensor:
    """Embedding [1 512 D] of a prompt."""
    shapes = text_shapes(TextConfig.parse(TEXT))
    encoder = TextEncoder.load(TEXT, random_tensors(shapes, WEIGHTS_SEED + 3))
    return encoder.embed([prompt], ByteTokenizer())


def random_tensors(shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, Tensor]:
    """Random weights of some shapes, of a size that keeps activations near one."""
    out: dict[str, Tensor] = {}
    for number, (name, shape) in enumerate(sorted(shapes.items())):
        generator = torch.Generator().manual_seed(1000 * seed + number)
        draw = torch.randn(shape, generator=generator)
        if name.endswith(("bias", "modulation")):
            out[name] = 0.02 * draw
        elif sum(n > 1 for n in shape) <= 1:
            out[name] = 1 + 0.02 * draw  # Weights of norms.
        else:
            out[name] = draw / max(1, draw[0].numel()) ** 0.5
    return out
