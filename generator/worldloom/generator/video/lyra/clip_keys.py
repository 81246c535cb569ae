"""Names of the CLIP vision tower's tensors: as published <-> as transformers has them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from worldloom.scene.errors import EngineFailed

PREFIX = "visual."  # The published file also holds a text tower, which is not used.
UNUSED = ("head",)
"""Published tensors that come after the tokens that are used."""
ALIASES = {"activation": "act", "norm_eps": "eps"}
"""Other names that configurations have for the same."""
ACTIVATIONS = {"gelu": "gelu", "quick_gelu": "quick_gelu"}

WHOLE = {
    "cls_embedding": "embeddings.class_embedding",
    "pos_embedding": "embeddings.position_embedding.weight",
    "patch_embedding.weight": "embeddings.patch_embedding.weight",
}
EMBEDDED = {"cls_embedding": 2, "pos_embedding": 1}
"""Leading axes of length one that the published embeddings have."""
PARTS = {"pre_norm": "pre_layrnorm", "post_norm": "post_layernorm"}
BLOCK = {
    "norm1": "layer_norm1", "norm2": "layer_norm2", "attn.proj": "self_attn.out_proj",
    "mlp.0": "mlp.fc1", "mlp.2": "mlp.fc2",
}  # fmt: skip
SPLIT = ("q_proj", "k_proj", "v_proj")
"""What the published `to_qkv` holds, in this order."""


@dataclass(frozen=True)
class CLIPConfig:
    """Sizes of the tower; the defaults are those of the release (ViT-H/14)."""

    image_size: int = 224
    """Side of the square input [px]."""
    patch: int = 14
    dim: int = 1280
    heads: int = 16
    layers: int = 32
    ratio: float = 4
    """Width of a block's hidden layer in units of `dim`."""
    act: str = "gelu"
    eps: float = 1e-5

    @property
    def tokens(self) -> int:
        """One for the picture, one per patch."""
        return 1 + (self.image_size // self.patch) ** 2

    @staticmethod
    def parse(values: Mapping[str, object]) -> CLIPConfig:
        """Read the configuration; names that it does not know belong to others.

        Raises:
            EngineFailed: The values cannot make a tower.
        """
        known = CLIPConfig.__dataclass_fields__
        values = {ALIASES.get(k, k): v for k, v in values.items()}
        config = CLIPConfig(**{k: v for k, v in values.items() if k in known})  # type: ignore[arg-type]
        if config.dim % config.heads or config.image_size < config.patch or config.layers < 1:
            raise EngineFailed(
                f"CLIP of width {config.dim} with {config.heads} heads, {config.layers} layers and "
                f"patches of {config.patch} in {config.image_size} px cannot be; the width must be "
                "a multiple of the heads and a patch must fit into the picture"
            )
        if config.act not in ACTIVATIONS:
            raise EngineFailed(
                f"CLIP with activation {config.act!r} is not known; use one of {list(ACTIVATIONS)}"
            )
        return config


def published_shapes(config: CLIPConfig) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor that is used, under its published name without `visual.`."""
    d, hidden = config.dim, int(config.dim * config.ratio)
    shapes: dict[str, tuple[int, ...]] = {
        "cls_embedding": (1, 1, d),
        "pos_embedding": (1, config.tokens, d),
        "patch_embedding.weight": (d, 3, config.patch, config.patch),
    }
    layers = {
        "norm1": (d,), "norm2": (d,), "attn.to_qkv": (3 * d, d), "attn.proj": (d, d),
        "mlp.0": (hidden, d), "mlp.2": (d, hidden),
    }  # fmt: skip
    every = {"pre_norm": (d,), "post_norm": (d,)}
    for index in range(config.layers):
        every |= {f"transformer.{index}.{name}": shape for name, shape in layers.items()}
    for name, shape in every.items():
        shapes[f"{name}.weight"] = shape
        shapes[f"{name}.bias"] = shape[:1]
    return shapes


def vision_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What the tower needs of a published file, without the prefix `visual.`."""
    if any(name.startswith(PREFIX) for name in tensors):
        tensors = {n.removeprefix(PREFIX): t for n, t in tensors.items() if n.startswith(PREFIX)}
    return {name: tensor for name, tensor in tensors.items() if name not in UNUSED}


def to_library(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Published names -> the library's, without copying."""
    out: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name in WHOLE:
            out[WHOLE[name]] = tensor.reshape(tensor.shape[EMBEDDED.get(name, 0) :])
            continue
        stem, _, kind = name.rpartition(".")
        if stem in PARTS:
            out[f"{PARTS[stem]}.{kind}"] = tensor
            continue
        _, index, part = stem.split(".", 2)
        block = f"encoder.layers.{index}"
        if part == "attn.to_qkv":
            for own, rows in zip(SPLIT, tensor.chunk(3), strict=True):
                out[f"{block}.self_attn.{own}.{kind}"] = rows
        else:
            out[f"{block}.{BLOCK[part]}.{kind}"] = tensor
    return out


def from_library(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The library's names -> published ones without `visual.`; `head` is not among them."""
    whole = {new: old for old, new in WHOLE.items()}
    parts = {new: old for old, new in PARTS.items()}
    block = {new: old for old, new in BLOCK.items()}
    out: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        stem, _, kind = name.rpartition(".")
        if name in whole:
            old = whole[name]
            out[old] = tensor.reshape((1,) * EMBEDDED.get(old, 0) + tuple(tensor.shape))
        elif stem in parts:
            out[f"{parts[stem]}.{kind}"] = tensor
        else:
            _, _, index, part = stem.split(".", 3)
            own = part.rpartition(".")[2]
            if own == SPLIT[0]:
                rows = [tensors[name.replace(SPLIT[0], other)] for other in SPLIT]
                out[f"transformer.{index}.attn.to_qkv.{kind}"] = torch.cat(rows)
            elif own not in SPLIT:
                out[f"transformer.{index}.{block[part]}.{kind}"] = tensor
    return out
