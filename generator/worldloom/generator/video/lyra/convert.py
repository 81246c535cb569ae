"""A published checkpoint -> one safetensors file of exactly the tensors that a network has.

Names are brought to those of the key tables, counters and wrappers fall away, and every tensor
that is missing, unknown or mis-shaped is named before anything is written.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from worldloom.generator.depth.da3 import keys as da3_keys
from worldloom.generator.depth.da3.variants import VARIANTS, variant_of
from worldloom.generator.video.lyra import clip_keys, lora, text_keys
from worldloom.generator.video.lyra.config import LYRA_14B, DiTConfig
from worldloom.generator.video.lyra.key_table import expected_shapes, parameters
from worldloom.generator.video.lyra.safefile import planned_bytes, write_safetensors
from worldloom.generator.video.lyra.sources import Source, open_source
from worldloom.generator.video.lyra.strict import check_shapes
from worldloom.generator.video.lyra.vae import published_shapes as vae_shapes
from worldloom.generator.video.lyra.vae_keys import VAEConfig
from worldloom.scene.errors import EngineFailed, StorageFull

COUNTERS = ("accum_",)  # Statistics of training; four scalars.
EXTRA = "_extra_state"  # Left by a library of fused kernels.
WRAPPERS = ("_checkpoint_wrapped_module.", "_fsdp_wrapped_module.", "_orig_mod.")
"""Put into names by activation checkpoints, sharding and compilation."""
NEGATIVE_KEY, NEGATIVE = "t5_text_embeddings", "embedding"
"""Name of the negative prompt's embedding as published and as we keep it."""
SPARE = 1 << 26  # Space that is left free beside the new file [bytes].

Table = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Wanted:
    """What the new file shall hold."""

    origin: Mapping[str, str]
    """Name of each tensor in the source."""
    shapes: Table
    dtype: torch.dtype | None
    """Element type of the new file; None keeps each tensor's."""


@dataclass(frozen=True)
class Converted:
    """What was written."""

    sha256: str
    bytes: int
    tensors: int
    parameters: int


def convert_checkpoint(
    kind: str, source: Path, target: Path, config: Mapping[str, Any] | None = None
) -> Converted:
    """Convert one checkpoint.

    Args:
        kind: A key of `KINDS`.
        source: File or folder as published.
        target: The safetensors file to write.
        config: Sizes of the network; those of the release by default.

    Raises:
        NotFound: There is no such source.
        CorruptData: It cannot be read.
        EngineFailed: Its tensors are not those of the network.
        StorageFull: The disk has not enough room.
    """
    opened = open_source(source)
    if kind == "lora":
        opened = _named_adapter(opened, config or {}, source.name)
    wanted = KINDS[kind](opened, config or {})
    found = {name: opened.shapes[old] for name, old in wanted.origin.items()}
    check_shapes(wanted.shapes, {n: _flat(n, s, wanted) for n, s in found.items()}, source.name)
    plan = {
        name: (tuple(shape), wanted.dtype or opened.dtypes[wanted.origin[name]])
        for name, shape in wanted.shapes.items()
    }
    _check_space(target, planned_bytes(plan))
    notes = {"kind": kind, "config": json.dumps(dict(config or {}), sort_keys=True)}

    def read(name: str) -> Tensor:
        return opened.read(wanted.origin[name]).reshape(wanted.shapes[name])

    digest = write_safetensors(target, plan, read, notes)
    return Converted(digest, target.stat().st_size, len(plan), parameters(dict(wanted.shapes)))


def _flat(name: str, shape: tuple[int, ...], wanted: Wanted) -> tuple[int, ...]:
    """Shape after the two changes of form that are known, else as it is.

    The patch embedding of Wan is published as a convolution, the prompt's as a batch of one.
    """
    goal = wanted.shapes.get(name, ())
    if name == "patch_embedding.weight" and len(shape) == 5 and len(goal) == 2:
        return (shape[0], shape[1] * shape[2] * shape[3] * shape[4])
    if name == NEGATIVE and len(shape) == 3 and shape[0] == 1:
        return shape[1:]
    return shape


def _check_space(target: Path, size: int) -> None:
    import shutil

    free = shutil.disk_usage(target.parent).free
    if free < size + SPARE:
        raise StorageFull(
            f"the converted weights take {size / 1e9:.1f} GB, {target.parent} has "
            f"{free / 1e9:.1f} GB free; free space or give another folder with --dir"
        )


def network_name(name: str) -> str | None:
    """A tensor's name in a video checkpoint -> in the network; None for what is no weight."""
    for wrapper in WRAPPERS:
        name = name.replace(wrapper, "")
    name = name.removeprefix("net.")
    return None if name.startswith(COUNTERS) or EXTRA in name else name


def _renamed(source: Source, rename: Callable[[str], str | None]) -> dict[str, str]:
    names = {old: rename(old) for old in source.shapes}
    return {new: old for old, new in names.items() if new is not None}


def _video(source: Source, config: Mapping[str, Any]) -> Wanted:
    sizes = DiTConfig.from_mapping(config) if config else LYRA_14B
    return Wanted(_renamed(source, network_name), expected_shapes(sizes), torch.bfloat16)


def _wan(source: Source, config: Mapping[str, Any]) -> Wanted:
    sizes = DiTConfig.from_mapping(config) if config else WAN_14B
    return Wanted(_renamed(source, network_name), expected_shapes(sizes), torch.bfloat16)


def _vae(source: Source, config: Mapping[str, Any]) -> Wanted:
    shapes = vae_shapes(VAEConfig.parse(config))
    return Wanted(_renamed(source, str), shapes, None)


def _text(source: Source, config: Mapping[str, Any]) -> Wanted:
    shapes = text_keys.published_shapes(text_keys.TextConfig.parse(config))
    return Wanted(_renamed(source, str), shapes, None)


def _clip(source: Source, config: Mapping[str, Any]) -> Wanted:
    shapes = clip_keys.published_shapes(clip_keys.CLIPConfig.parse(config))
    prefix = clip_keys.PREFIX

    def rename(name: str) -> str | None:
        plain = name.removeprefix(prefix)
        return plain if name.startswith(prefix) and plain not in clip_keys.UNUSED else None

    return Wanted(_renamed(source, rename), shapes, None)


def _negative(source: Source, config: Mapping[str, Any]) -> Wanted:
    sizes = text_keys.TextConfig.parse(config)
    origin = {NEGATIVE: NEGATIVE_KEY} if NEGATIVE_KEY in source.shapes else {}
    # Whether the published one is padded is not stated: fewer rows are padded when they are used.
    rows = prod(source.shapes.get(NEGATIVE_KEY, (0, 0))[:-1])
    rows = rows if 0 < rows <= sizes.text_len else sizes.text_len
    return Wanted(origin, {NEGATIVE: (rows, sizes.dim)}, None)


def _da3(kind: str) -> Callable[[Source, Mapping[str, Any]], Wanted]:
    """A Depth Anything 3 model, published under one of several prefixes."""

    def wanted(source: Source, config: Mapping[str, Any]) -> Wanted:
        variant = variant_of(str(config.get("variant", kind)))
        names = da3_keys.own_names(source.shapes, variant)
        return Wanted(names, da3_keys.expected_shapes(variant), None)

    return wanted


def _lora(source: Source, config: Mapping[str, Any]) -> Wanted:
    """An adapter after `_named_adapter`: all that it holds is wanted."""
    return Wanted({name: name for name in source.shapes}, source.shapes, None)


def _named_adapter(source: Source, config: Mapping[str, Any], what: str) -> Source:
    """An adapter under the network's own names, compared with its layers."""
    table = expected_shapes(DiTConfig.from_mapping(config) if config else LYRA_14B)
    adapter = lora.parse_adapter(
        {name: source.read(name) for name in source.shapes}, lora.layer_names(table), what
    )
    if not adapter.layers and not adapter.biases:
        raise EngineFailed(f"the adapter {what} changes nothing; fetch it again")
    lora.check_fit(adapter, table, what)
    tensors = lora.adapter_tensors(adapter)
    return Source(
        {name: tuple(tensor.shape) for name, tensor in tensors.items()},
        {name: tensor.dtype for name, tensor in tensors.items()},
        tensors.__getitem__,
    )


WAN_14B = DiTConfig(dim=5120, num_heads=40, num_layers=40, ffn_dim=13824)
"""Wan 2.1 image to video, from which Lyra was trained: 16.4 billion parameters."""

KINDS: Mapping[str, Callable[[Source, Mapping[str, Any]], Wanted]] = {
    "video": _video, "wan": _wan, "vae": _vae, "text": _text, "clip": _clip,
    "negative": _negative, "lora": _lora,
    **{f"da3-{name}": _da3(name) for name in VARIANTS},
}  # fmt: skip
"""Kinds of checkpoints and what becomes of each."""
