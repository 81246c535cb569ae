"""Names of the UMT5 encoder's tensors: as published <-> as transformers has them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from worldloom.scene.errors import EngineFailed

ENDS = {"token_embedding.weight": "shared.weight", "norm.weight": "encoder.final_layer_norm.weight"}
TIED = "encoder.embed_tokens.weight"
"""The library's second name of the token embedding."""
POSITIONS = "pos_embedding.embedding.weight"
BLOCK = {
    "norm1": "layer.0.layer_norm", "attn.q": "layer.0.SelfAttention.q",
    "attn.k": "layer.0.SelfAttention.k", "attn.v": "layer.0.SelfAttention.v",
    "attn.o": "layer.0.SelfAttention.o", "norm2": "layer.1.layer_norm",
    "ffn.gate.0": "layer.1.DenseReluDense.wi_0", "ffn.fc1": "layer.1.DenseReluDense.wi_1",
    "ffn.fc2": "layer.1.DenseReluDense.wo",
    "pos_embedding.embedding": "layer.0.SelfAttention.relative_attention_bias",
}  # fmt: skip


@dataclass(frozen=True)
class TextConfig:
    """Sizes of the encoder; the defaults are those of the release (UMT5-XXL)."""

    vocab: int = 256384
    dim: int = 4096
    dim_attn: int = 4096
    """Width of all heads together."""
    dim_ffn: int = 10240
    num_heads: int = 64
    num_layers: int = 24
    num_buckets: int = 32
    """Rows of the table of relative positions."""
    max_distance: int = 128
    """Distance from which all positions are alike [tokens]."""
    text_len: int = 512
    """Rows of an embedding, padding included."""
    shared_pos: bool = False
    """One table of relative positions for all layers instead of one each."""
    eps: float = 1e-6

    @staticmethod
    def parse(values: Mapping[str, object]) -> TextConfig:
        """Read the configuration; names that it does not know belong to others.

        Raises:
            EngineFailed: The values cannot make an encoder.
        """
        known = TextConfig.__dataclass_fields__
        config = TextConfig(**{k: v for k, v in values.items() if k in known})  # type: ignore[arg-type]
        if config.dim_attn % config.num_heads or config.num_buckets % 2 or config.text_len < 1:
            raise EngineFailed(
                f"a text encoder with {config.num_heads} heads of {config.dim_attn} channels, "
                f"{config.num_buckets} position buckets and {config.text_len} rows cannot be; the "
                "channels must divide by the heads, the buckets by two"
            )
        return config


def published_shapes(config: TextConfig) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor under its published name."""
    d, attn, ffn = config.dim, config.dim_attn, config.dim_ffn
    shapes: dict[str, tuple[int, ...]] = {
        "token_embedding.weight": (config.vocab, d),
        "norm.weight": (d,),
    }
    table = (config.num_buckets, config.num_heads)
    block: dict[str, tuple[int, ...]] = {
        "norm1": (d,), "attn.q": (attn, d), "attn.k": (attn, d), "attn.v": (attn, d),
        "attn.o": (d, attn), "norm2": (d,), "ffn.gate.0": (ffn, d), "ffn.fc1": (ffn, d),
        "ffn.fc2": (d, ffn),
    }  # fmt: skip
    if config.shared_pos:
        shapes[POSITIONS] = table
    else:
        block["pos_embedding.embedding"] = table
    for index in range(config.num_layers):
        for name, shape in block.items():
            shapes[f"blocks.{index}.{name}.weight"] = shape
    return shapes


def to_library(tensors: Mapping[str, Tensor], config: TextConfig) -> dict[str, Tensor]:
    """Published names -> the library's, without copying."""
    out: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name in ENDS:
            out[ENDS[name]] = tensor
        elif name == POSITIONS:
            for index in range(config.num_layers):
                out[f"encoder.block.{index}.{BLOCK['pos_embedding.embedding']}.weight"] = tensor
        else:
            _, index, part = name.removesuffix(".weight").split(".", 2)
            out[f"encoder.block.{index}.{BLOCK[part]}.weight"] = tensor
    out[TIED] = out[ENDS["token_embedding.weight"]]
    return out


def from_library(tensors: Mapping[str, Tensor], config: TextConfig) -> dict[str, Tensor]:
    """The library's names -> published ones."""
    ends = {new: old for old, new in ENDS.items()}
    block = {new: old for old, new in BLOCK.items()}
    out: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name in ends:
            out[ends[name]] = tensor
        elif name != TIED:
            _, _, index, part = name.removesuffix(".weight").split(".", 3)
            stem = block[part]
            if config.shared_pos and stem == "pos_embedding.embedding":
                out[POSITIONS] = tensor
            else:
                out[f"blocks.{index}.{stem}.weight"] = tensor
    return out
