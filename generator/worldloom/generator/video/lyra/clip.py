"""Last history frame [b 3 h w] in [-1, 1] -> CLIP tokens [b 1+patches d] for the video network.

Layers are those of transformers' CLIP. The tokens are taken before the last block and without the
final norm (spec 6.3), so the last block and what follows are not run.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from worldloom.generator.video.lyra.clip_keys import (
    ACTIVATIONS,
    CLIPConfig,
    from_library,
    published_shapes,
    to_library,
    vision_tensors,
)
from worldloom.generator.video.lyra.strict import check_shapes, fill
from worldloom.scene.errors import EngineFailed

COLOUR_MEAN = (0.48145466, 0.4578275, 0.40821073)
"""Mean of the colours in [0, 1] that CLIP was trained with (red, green, blue)."""
COLOUR_STD = (0.26862954, 0.26130258, 0.27577711)


def preprocess(image: Tensor, size: int) -> Tensor:
    """Colours [b 3 h w] in [-1, 1] -> CLIP's input [b 3 size size].

    Bicubic without antialiasing and without keeping the aspect, as the released network had it.

    Raises:
        EngineFailed: It is no batch of RGB pictures.
    """
    if image.ndim != 4 or image.shape[1] != 3 or 0 in image.shape:
        raise EngineFailed(
            f"CLIP got a picture of shape {list(image.shape)}; give [batch, 3, height, width]"
        )
    small = functional.interpolate(
        image.float(), size=(size, size), mode="bicubic", align_corners=False
    )
    mean = torch.tensor(COLOUR_MEAN, device=image.device).view(1, 3, 1, 1)
    std = torch.tensor(COLOUR_STD, device=image.device).view(1, 3, 1, 1)
    return ((small + 1) / 2 - mean) / std


class ClipVision(nn.Module):
    """The vision tower; it runs in the type of its weights."""

    def __init__(self, config: CLIPConfig, core: nn.Module) -> None:
        super().__init__()
        self.config = config
        self.core = core

    @staticmethod
    def load(config: Mapping[str, object], tensors: Mapping[str, Tensor]) -> ClipVision:
        """Build the tower from published tensors.

        Args:
            config: `image_size`, `patch`, `dim`, `heads`, `layers`, `ratio`, `act`; what is left
                out is as released.
            tensors: Published tensors, with or without `visual.`; text tensors are passed over.

        Raises:
            EngineFailed: The sizes make no tower, or a tensor is missing, unknown or mis-shaped.
        """
        sizes = CLIPConfig.parse(config)
        own = vision_tensors(tensors)
        found = {name: tuple(tensor.shape) for name, tensor in own.items()}
        check_shapes(published_shapes(sizes), found, "the CLIP vision tower")
        core = _build(sizes)
        fill(core, to_library(own), "the CLIP vision tower")
        # This one is computed, not loaded, and was made without memory as well.
        device = next(iter(own.values())).device
        places = torch.arange(sizes.tokens, device=device).expand(1, -1)
        core.embeddings.register_buffer("position_ids", places, persistent=False)
        return ClipVision(sizes, core)

    def published(self) -> dict[str, Tensor]:
        """All tensors under their published names, without `visual.` and the unused `head`."""
        return from_library(self.core.state_dict())

    def forward(self, image: Tensor) -> Tensor:
        """Colours [b 3 h w] in [-1, 1] -> tokens [b 1+patches d] after the last block but one.

        Raises:
            EngineFailed: It is no batch of RGB pictures.
        """
        return self.tokens(preprocess(image, self.config.image_size), self.config.layers - 1)

    @torch.no_grad()
    def tokens(self, pixels: Tensor, blocks: int) -> Tensor:
        """CLIP's input [b 3 size size] -> tokens [b 1+patches d] after `blocks` blocks."""
        values = self.core.pre_layrnorm(self.core.embeddings(pixels))
        for layer in self.core.encoder.layers[:blocks]:
            values = values + layer.self_attn(layer.layer_norm1(values))[0]
            values = values + layer.mlp(layer.layer_norm2(values))
        return values


def _build(config: CLIPConfig) -> nn.Module:
    """The library's tower without memory for its weights."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    sizes = CLIPVisionConfig(
        hidden_size=config.dim,
        intermediate_size=int(config.dim * config.ratio),
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        image_size=config.image_size,
        patch_size=config.patch,
        hidden_act=ACTIVATIONS[config.act],
        layer_norm_eps=config.eps,
    )
    with torch.device("meta"):
        model = CLIPVisionModel(sizes)
    # Before its fifth version the library wrapped the tower once more.
    return getattr(model, "vision_model", model)
