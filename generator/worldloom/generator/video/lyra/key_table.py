"""Names and shapes of the video transformer's tensors, from its configuration alone (spec 6.5).

Written as formulas and not read from the network, so that either can be wrong only alone.
"""

from __future__ import annotations

from math import prod

from worldloom.generator.video.lyra.config import DiTConfig
from worldloom.generator.video.lyra.layout import FramePack

RELEASED_PARAMETERS = 17_029_871_424
"""Parameters of the released network (spec 6.1)."""
RELEASED_TENSORS = 1435

Table = dict[str, tuple[int, ...]]


def expected_shapes(config: DiTConfig) -> Table:
    """Shape of every tensor of the network."""
    dim, cells = config.dim, config.patch_cells
    table: Table = {"head.modulation": (1, 2, dim)}
    table |= linear("patch_embedding", config.in_dim * cells, dim)
    table |= linear("text_embedding.0", config.text_dim, dim)
    table |= linear("text_embedding.2", dim, dim)
    table |= linear("time_embedding.0", config.freq_dim, dim)
    table |= linear("time_embedding.2", dim, dim)
    table |= linear("time_projection.1", dim, 6 * dim)
    table |= linear("head.head", dim, config.out_dim * cells)
    if config.model_type == "i2v":
        table |= _image(config)
    if config.framepack_type:
        for index, segment in enumerate(FramePack.parse(config.framepack_type).segments):
            width = config.in_dim * cells * prod(segment.pool())
            table |= linear(f"clean_patch_embeddings.{index}", width, dim)
    block = _block(config)
    for index in range(config.num_layers):
        table |= {f"blocks.{index}.{name}": shape for name, shape in block.items()}
    return table


def parameters(table: Table) -> int:
    """Numbers in all tensors of a table together."""
    return sum(prod(shape) for shape in table.values())


def linear(name: str, inputs: int, outputs: int) -> Table:
    """The two tensors of a linear layer."""
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _image(config: DiTConfig) -> Table:
    table = linear("img_emb.proj.1", config.clip_dim, config.clip_dim)
    table |= linear("img_emb.proj.3", config.clip_dim, config.dim)
    for index, width in ((0, config.clip_dim), (4, config.dim)):
        table |= {f"img_emb.proj.{index}.{kind}": (width,) for kind in ("weight", "bias")}
    return table


def _block(config: DiTConfig) -> Table:
    dim = config.dim
    table: Table = {"modulation": (1, 6, dim)}
    table |= linear("ffn.0", dim, config.ffn_dim) | linear("ffn.2", config.ffn_dim, dim)
    image = config.model_type == "i2v"
    for part in ("self_attn", "cross_attn"):
        with_image = image and part == "cross_attn"
        for name in ("q", "k", "v", "o", *(("k_img", "v_img") if with_image else ())):
            table |= linear(f"{part}.{name}", dim, dim)
        if config.qk_norm:
            norms = ("norm_q", "norm_k", *(("norm_k_img",) if with_image else ()))
            table |= {f"{part}.{norm}.weight": (dim,) for norm in norms}
    if config.cross_attn_norm:
        table |= {"norm3.weight": (dim,), "norm3.bias": (dim,)}
    if config.use_plucker_condition:
        table["cam_encoder.weight"] = (dim, config.camera_width)
    if config.use_correspondence:
        width, squeeze = config.buffer_encoded or config.buffer_width, config.buffer_mlp_squeeze_dim
        if squeeze:
            table["buffer_encoder.0.weight"] = (squeeze, width)
            table["buffer_encoder.1.weight"] = (dim, squeeze)
        else:
            table["buffer_encoder.weight"] = (dim, width)
    return table
