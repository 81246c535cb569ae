"""Tensors under published names -> a network, strictly: each one that does not fit is named."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from worldloom.generator.depth.da3.keys import expected_shapes, own_names
from worldloom.generator.depth.da3.nested import NestedNetwork, Network
from worldloom.generator.depth.da3.network import Da3Network
from worldloom.generator.depth.da3.variants import Variant, variant_of
from worldloom.generator.video.lyra.strict import check_shapes, fill
from worldloom.scene.errors import CorruptData, NotFound

BOXES = ("module", "model")
"""Sub-dictionaries in which checkpoints of training keep their tensors."""

LAST = ("output_conv2.2.weight", "fc_t.weight", "fc_fov.0.weight")
"""Last layers, which random weights keep small: an exponential follows, or a place in the world."""


def build(variant: Variant) -> Network:
    """The modules of a model, without memory for their weights."""
    with torch.device("meta"):
        return NestedNetwork(variant) if variant.nested else Da3Network(variant.main)


def load(name: str, tensors: Mapping[str, Any]) -> Network:
    """A model with its weights.

    Args:
        name: Name of the variant.
        tensors: Published tensors: as on the hub, or a checkpoint of training with wrappers.

    Raises:
        InvalidRequest: There is no such variant.
        EngineFailed: A tensor is missing, unknown or mis-shaped; each is named.
    """
    variant = variant_of(name)
    inner = unboxed(tensors)
    own = {new: inner[old] for new, old in own_names(inner, variant).items()}
    what = f"Depth Anything 3 {name}"
    check_shapes(expected_shapes(variant), {n: tuple(t.shape) for n, t in own.items()}, what)
    network = build(variant)
    # The heads run in float32 whatever the file holds; the backbone casts by itself.
    fill(network, {n: tensor.float() for n, tensor in own.items()}, what)
    return network


def load_file(name: str, file: Path) -> Network:
    """A model with the weights of a safetensors file.

    Raises:
        NotFound: There is no such file.
        CorruptData: It is no safetensors file.
        EngineFailed: A tensor is missing, unknown or mis-shaped.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file as read

    if not file.is_file():
        raise NotFound(f"there is no weights file {file}; see: worldloom weights list")
    try:
        tensors = read(file)
    except SafetensorError as error:
        raise CorruptData(
            f"{file} ({file.stat().st_size} bytes) is no safetensors file ({str(error)[:120]}); "
            "convert the published weights again with: worldloom weights convert"
        ) from error
    return load(name, tensors)


def for_gpu(network: Network) -> Network:
    """The same network with the backbone's matrices in bfloat16, for half the memory.

    Mixed precision casts exactly these in every call, so answers stay the same; norms, position
    table and everything outside the backbones stay in float32. Not tried on a GPU here.
    """
    for name, module in network.named_modules():
        if "backbone.pretrained" in name and isinstance(module, nn.Linear | nn.Conv2d):
            module.to(torch.bfloat16)
    return network


def unboxed(stored: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a checkpoint, out of the sub-dictionary that may hold them."""
    for box in BOXES:
        inner = stored.get(box)
        if isinstance(inner, Mapping):
            return unboxed(inner)
    return {name: value for name, value in stored.items() if isinstance(value, Tensor)}


def random_network(name: str, seed: int = 0) -> Network:
    """A model with random weights that keep activations near one; it means nothing.

    Raises:
        InvalidRequest: There is no such variant.
    """
    variant = variant_of(name)
    network = build(variant)
    tensors = {
        key: _draw(key, shape, 1000 * seed + number)
        for number, (key, shape) in enumerate(sorted(expected_shapes(variant).items()))
    }
    fill(network, tensors, f"Depth Anything 3 {name}")
    return network


def _draw(name: str, shape: tuple[int, ...], seed: int) -> Tensor:
    draw = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    if name.endswith("fc_fov.0.bias"):
        return torch.ones(shape)  # Fields of view of about one radian.
    if name.endswith("bias"):
        return 0.02 * draw
    if name.endswith("gamma"):
        return 0.2 + 0.02 * draw
    if len(shape) == 1:
        return 1 + 0.02 * draw  # Weights of norms.
    if name.endswith(("token", "pos_embed")):
        return 0.5 * draw
    gain = 0.02 if name.endswith(LAST) else 1.0
    return gain * draw / max(1, draw[0].numel()) ** 0.5
