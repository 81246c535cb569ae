"""Low-rank adapters (LoRA) of any usual naming -> the video network's weights, merged once at load.

W' = W + sum of weight * (alpha / rank) * up @ down, over the adapters (spec 1.4).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from worldloom.scene.errors import EngineFailed

LOG = logging.getLogger(__name__)

PREFIXES = ("diffusion_model.", "net.")
"""Put before a layer's name by some trainers; any of them, in any order."""
KOHYA = "lora_unet_"
"""Trainers that start with this join a layer's name by underscores."""
SMALLEST_SPREAD = 0.016
"""A `.diff` or `.diff_b` whose absolute values differ by less is noise of a trainer (spec 1.4)."""

TARGETS = re.compile(
    r"blocks\.\d+\.(self_attn\.[qkvo]|cross_attn\.([qkvo]|[kv]_img)|ffn\.[02]|cam_encoder"
    r"|buffer_encoder(\.[01])?)|time_projection\.1|head\.head|text_embedding\.[02]"
    r"|time_embedding\.[02]|patch_embedding|clean_patch_embeddings\.\d+|img_emb\.proj\.[13]"
)
"""Layers that may be adapted."""
PARTS = {
    "lora_A.weight": "down", "lora_down.weight": "down", "lora_B.weight": "up",
    "lora_up.weight": "up", "alpha": "alpha", "diff_b": "bias", "diff": "diff",
}  # fmt: skip
"""What a key may end with -> what it is."""


@dataclass(frozen=True)
class LowRank:
    """The change of one layer."""

    down: Tensor
    """Shape [rank in]."""
    up: Tensor
    """Shape [out rank]."""
    scale: float
    """alpha / rank; 1 where no alpha is stored."""

    def delta(self) -> Tensor:
        """Change of the weight at strength 1, float32 [out in]."""
        return self.up.float() @ self.down.float() * self.scale


@dataclass(frozen=True)
class Adapter:
    """One adapter file, by the names of the network's layers."""

    layers: Mapping[str, LowRank]
    biases: Mapping[str, Tensor]
    """Changes of biases that are no noise."""


def layer_names(weights: Iterable[str]) -> tuple[str, ...]:
    """The layers of a network that may be adapted, from the names of its tensors."""
    stems = (name.removesuffix(".weight") for name in weights if name.endswith(".weight"))
    return tuple(stem for stem in stems if TARGETS.fullmatch(stem))


def parse_adapter(tensors: Mapping[str, Tensor], layers: Iterable[str], what: str) -> Adapter:
    """Sort the tensors of an adapter file by layer.

    Whole differences (`.diff`) and biases that are noise are left out, as in the release.

    Args:
        tensors: What the file holds.
        layers: Names of the network's layers, as from `layer_names`.
        what: Name of the adapter, for messages.

    Raises:
        EngineFailed: A key belongs to no layer or is of no known kind, or half a pair is missing.
    """
    known = {name: name for name in layers}
    joined = {name.replace(".", "_"): name for name in known}
    found: dict[str, dict[str, Tensor]] = {}
    unknown, ignored = [], []
    for key, tensor in tensors.items():
        layer, part = _place(key, known, joined)
        if part == "diff" or (part == "bias" and not _is_signal(tensor)):
            ignored.append(key)
        elif layer is None:
            unknown.append(key)
        else:
            found.setdefault(layer, {})[part] = tensor
    if unknown:
        raise EngineFailed(
            f"the adapter {what} has {len(unknown)} of {len(tensors)} keys that fit no layer of the"
            f" network, such as {', '.join(sorted(unknown)[:4])}; it was made for another network "
            "or by a trainer that is not known"
        )
    if ignored:
        LOG.info("adapter %s: %d full or tiny differences are left out", what, len(ignored))
    pairs = {layer: parts for layer, parts in found.items() if set(parts) != {"bias"}}
    return Adapter(
        {layer: _low_rank(layer, parts, what) for layer, parts in pairs.items()},
        {layer: parts["bias"] for layer, parts in found.items() if "bias" in parts},
    )


def _place(key: str, known: Mapping[str, str], joined: Mapping[str, str]) -> tuple[str | None, str]:
    """A key -> (layer, kind of tensor); the layer is None for a key that nothing is known about."""
    for ending, part in PARTS.items():
        if key.endswith(f".{ending}"):
            stem = key.removesuffix(f".{ending}")
            while stem.startswith(PREFIXES):
                stem = next(stem.removeprefix(p) for p in PREFIXES if stem.startswith(p))
            if stem.startswith(KOHYA):
                return joined.get(stem.removeprefix(KOHYA)), part
            return known.get(stem), part
    return None, ""


def _low_rank(layer: str, parts: Mapping[str, Tensor], what: str) -> LowRank:
    if "down" not in parts or "up" not in parts:
        lacking = "down (lora_A)" if "down" not in parts else "up (lora_B)"
        raise EngineFailed(
            f"the adapter {what} lacks the {lacking} matrix of {layer}; the file is incomplete, "
            "fetch it again"
        )
    # Adapters of a convolution over patches are stored with its kernel's axes.
    down, up = parts["down"].flatten(1), parts["up"].flatten(1)
    if down.shape[0] != up.shape[1]:
        raise EngineFailed(
            f"the adapter {what} has ranks {down.shape[0]} and {up.shape[1]} for {layer}; the "
            "matrices of one layer must share their rank"
        )
    alpha = float(parts["alpha"]) if "alpha" in parts else down.shape[0]
    return LowRank(down, up, alpha / down.shape[0])


def _is_signal(tensor: Tensor) -> bool:
    size = tensor.float().abs()
    return bool(size.max() > 0) and float(size.max() - size.min()) >= SMALLEST_SPREAD


def adapter_tensors(adapter: Adapter) -> dict[str, Tensor]:
    """The tensors of a file that `parse_adapter` reads back to the same adapter."""
    out: dict[str, Tensor] = {}
    for layer, change in adapter.layers.items():
        out[f"{layer}.lora_A.weight"] = change.down
        out[f"{layer}.lora_B.weight"] = change.up
        if change.scale != 1:
            out[f"{layer}.alpha"] = torch.tensor(change.scale * change.down.shape[0])
    return out | {f"{layer}.diff_b": bias for layer, bias in adapter.biases.items()}


def check_fit(adapter: Adapter, table: Mapping[str, tuple[int, ...]], what: str) -> None:
    """Compare an adapter with the shapes of a network's tensors.

    Raises:
        EngineFailed: A change does not fit the layer it belongs to.
    """
    changes = {
        f"{layer}.weight": (change.up.shape[0], change.down.shape[1])
        for layer, change in adapter.layers.items()
    } | {f"{layer}.bias": tuple(bias.shape) for layer, bias in adapter.biases.items()}
    for name, shape in changes.items():
        if shape != table.get(name):
            wanted = list(table[name]) if name in table else "no such tensor"
            raise EngineFailed(
                f"the adapter {what} changes {name} of shape {list(shape)}, the network has "
                f"{wanted}; it was made for another network"
            )


def merge(
    weights: Mapping[str, Tensor], adapters: Sequence[tuple[Adapter, float]]
) -> dict[str, Tensor]:
    """Add adapters to a network's weights.

    Sums are made in float32, layer by layer, and rounded once to the type of the weights, which
    are not changed; tensors that no adapter touches are handed on as they are.

    Args:
        weights: The network's tensors by name.
        adapters: Adapters and the strength of each.

    Raises:
        EngineFailed: A change does not fit the layer it belongs to.
    """
    merged = dict(weights)
    touched = {layer for adapter, _ in adapters for layer in (*adapter.layers, *adapter.biases)}
    for layer in sorted(touched):
        changes = [(a.layers[layer].delta(), w) for a, w in adapters if layer in a.layers]
        biases = [(a.biases[layer].float(), w) for a, w in adapters if layer in a.biases]
        _add(merged, f"{layer}.weight", changes)
        _add(merged, f"{layer}.bias", biases)
    LOG.info("merged %d adapters into %d layers", len(adapters), len(touched))
    return merged


def _add(merged: dict[str, Tensor], name: str, changes: list[tuple[Tensor, float]]) -> None:
    if not changes:
        return
    if name not in merged:
        raise EngineFailed(f"an adapter changes {name}, which the network does not have")
    total = merged[name].to(torch.float32, copy=True)
    for change, strength in changes:
        if change.shape != total.shape:
            raise EngineFailed(
                f"an adapter's change of {name} has shape {list(change.shape)}, the network's is "
                f"{list(total.shape)}; it was made for another network"
            )
        total += strength * change.to(total.device)
    merged[name] = total.to(merged[name].dtype)
