"""Converted weights of the release -> networks on their devices, prompts embedded.

Nothing is loaded before the memory plan says that it fits. UMT5 is loaded for the prompts alone and
dropped again; embeddings are kept on disk. Not tried with the real weights, which cannot be reached
where this is built: shapes, names and numbers are held by tests and recorded cases instead.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from worldloom.generator.depth.da3.load import for_gpu, load_file
from worldloom.generator.depth.da3.nested import Network
from worldloom.generator.keep import kept, stamp
from worldloom.generator.video.lyra.clip import ClipVision
from worldloom.generator.video.lyra.config import LYRA_14B, DiTConfig
from worldloom.generator.video.lyra.dit import VideoTransformer
from worldloom.generator.video.lyra.key_table import expected_shapes
from worldloom.generator.video.lyra.loop import Networks
from worldloom.generator.video.lyra.lora import layer_names, merge, parse_adapter
from worldloom.generator.video.lyra.memory_plan import (
    PRESETS,
    Preset,
    choose_preset,
    plan_memory,
)
from worldloom.generator.video.lyra.placement import Placement
from worldloom.generator.video.lyra.prompts import PromptCache
from worldloom.generator.video.lyra.strict import load_strict
from worldloom.generator.video.lyra.text import PromptTokenizer, TextEncoder
from worldloom.generator.video.lyra.vae import VideoVAE
from worldloom.generator.weights import find_weights, lookup, verify, weights_folder
from worldloom.generator.weights_network import noted
from worldloom.scene.errors import EngineFailed, NotFound

LOGGER = logging.getLogger(__name__)

VIDEO, VAE, CLIP, TEXT = "lyra2-video", "wan21-vae", "clip-vit-h14", "umt5-xxl"
NEGATIVE, DEPTH = "lyra2-negative-prompt", "da3-nested"
TOKENIZER_FOLDER = "umt5_xxl_tokenizer"
"""Folder beside the weights that holds the `tokenizer.json` of google/umt5-xxl."""
EMBEDDINGS_FOLDER = "prompt_embeddings"
MEMORY_VARIABLE = "WORLDLOOM_LYRA_MEMORY"
"""Environment variable that names a memory preset instead of the fastest that fits."""


@dataclass(frozen=True)
class Sizes:
    """Configurations of the networks; the defaults are those of the release."""

    dit: DiTConfig = LYRA_14B
    vae: Mapping[str, object] = field(default_factory=dict)
    clip: Mapping[str, object] = field(default_factory=dict)
    text: Mapping[str, object] = field(default_factory=dict)
    depth: str = "nested"
    """Variant of the depth network (`depth.da3.variants`)."""


@dataclass(frozen=True)
class ReleasedParts:
    """What a released engine needs beside the seed."""

    networks: Networks
    embed: Callable[[str], Tensor]
    """Embedding [1 512 4096] of a prompt."""
    negative: Tensor | None
    records: tuple[dict, ...]
    """Weights that take part, for the manifest."""
    depth: Network | None = None
    """The depth network, where it is wanted and its weights are there."""


def open_released(
    engine: str,
    size: tuple[int, int],
    prompts: Sequence[str],
    *,
    adapters: Mapping[str, float],
    guided: bool,
    depth: bool = False,
    folder: Path | None = None,
    memory: str | None = None,
    device: torch.device | None = None,
    sizes: Sizes | None = None,
) -> ReleasedParts:
    """Load the networks of `lyra2` or `lyra2-dmd`.

    Args:
        engine: Name of the engine.
        size: Width and height of the frames [px].
        prompts: Texts to embed before the large networks come.
        adapters: LoRA adapters by catalogue name, and their weights.
        guided: Whether a negative prompt is needed.
        depth: Whether the depth network is wanted, where its weights are present.
        folder: Of the weights; the usual one by default.
        memory: Memory preset; the fastest that fits this machine's GPU by default.
        device: Where to run instead of the GPU, with everything resident.
        sizes: Of other networks than the released ones.

    Raises:
        NotFound: Weights are missing; every one of them is named.
        EngineFailed: There is no GPU, it is too small, or weights do not fit.
        CorruptData: A weights file is damaged.
    """
    names = [VIDEO, VAE, CLIP, TEXT, *adapters, *([NEGATIVE] if guided else [])]
    require(names, folder)
    sizes = sizes or Sizes()
    memory = memory or os.environ.get(MEMORY_VARIABLE)
    preset = PRESETS["resident-80" if device is not None else plan(engine, size, memory)]
    device = device or torch.device("cuda")
    embed = embedder(folder, device, sizes)
    for prompt in {*prompts, ""}:
        embed(prompt)
    negative = negative_prompt(folder) if guided else None
    files = stamp(find_weights(name, folder) for name in (VIDEO, VAE, CLIP, *adapters, DEPTH))
    networks, seer = kept(
        "lyra",
        (files, tuple(adapters.items()), depth, preset.name, str(device), repr(sizes)),
        lambda: _settled(folder, adapters, sizes, preset, device, depth=depth),
    )
    taking_part = [*names, *([DEPTH] if seer is not None else [])]
    return ReleasedParts(
        networks, embed, negative,
        tuple(weights_record(name, folder) for name in taking_part), seer,
    )  # fmt: skip


def _settled(
    folder: Path | None,
    adapters: Mapping[str, float],
    sizes: Sizes,
    preset: Preset,
    device: torch.device,
    *,
    depth: bool,
) -> tuple[Networks, Network | None]:
    """Networks where the memory preset puts them, and the depth network if it is wanted."""
    networks = load_networks(folder, adapters, sizes)
    seer = load_depth(folder, device, sizes) if depth else None
    named = {"dit": networks.dit, "vae": networks.vae, "clip": networks.clip}
    named |= {"depth": seer} if seer is not None else {}
    placement = Placement(device, named, preset.keep & set(named), preset.streamed)
    placement.settle()
    return Networks(networks.dit, networks.vae, networks.clip, placement), seer


def require(names: Sequence[str], folder: Path | None) -> None:
    """Check that all weights are there.

    Raises:
        NotFound: Some are not; all of them are named with the command that brings them.
    """
    missing = [name for name in names if find_weights(name, folder) is None]
    if missing:
        raise NotFound(
            f"{len(missing)} of {len(names)} weights of this engine are not in "
            f"{weights_folder(folder)}: {', '.join(missing)}. Download them under their licences "
            f"and run, for each: worldloom weights convert {missing[0]} SOURCE"
        )


def plan(engine: str, size: tuple[int, int], memory: str | None) -> str:
    """Name of the memory preset that this machine's GPU can hold.

    Raises:
        EngineFailed: There is no GPU, or it cannot hold the engine.
    """
    if not torch.cuda.is_available():
        raise EngineFailed(
            f"engine {engine!r} needs an NVIDIA GPU with CUDA and this machine shows none to "
            "PyTorch; see: worldloom doctor. On a CPU use the engine 'preview'"
        )
    total = torch.cuda.get_device_properties(0).total_memory / 1e9
    if memory is not None:
        plan_memory(engine, memory, size).check(gpu_gb=total)
        return memory
    return choose_preset(engine, size, total).preset.name


def load_networks(folder: Path | None, adapters: Mapping[str, float], sizes: Sizes) -> Networks:
    """Networks in bfloat16 on the host, adapters merged; memory-mapped until they move.

    Raises:
        EngineFailed: A tensor is missing, unknown or mis-shaped.
        CorruptData: A file is no safetensors file.
    """
    shapes = expected_shapes(sizes.dit)
    state = load_strict(shapes, verify(VIDEO, folder))
    parsed = [
        (parse_adapter(_tensors(name, folder), layer_names(shapes), name), weight)
        for name, weight in adapters.items()
    ]
    if parsed:
        state = merge(state, parsed)
    with torch.device("meta"):
        dit = VideoTransformer(sizes.dit)
    dit.load({name: tensor.to(torch.bfloat16) for name, tensor in state.items()})
    vae = VideoVAE.load(sizes.vae, _tensors(VAE, folder)).to(torch.bfloat16)
    clip = ClipVision.load(sizes.clip, _tensors(CLIP, folder))
    return Networks(dit.requires_grad_(False).eval(), vae, clip)


def load_depth(folder: Path | None, device: torch.device, sizes: Sizes) -> Network | None:
    """The depth network on the host, or None where its weights are not there.

    Raises:
        EngineFailed: A tensor is missing, unknown or mis-shaped.
        CorruptData: The file is damaged.
    """
    if find_weights(DEPTH, folder) is None:
        return None
    network = load_file(sizes.depth, verify(DEPTH, folder))
    return for_gpu(network) if device.type == "cuda" else network


def embedder(folder: Path | None, device: torch.device, sizes: Sizes) -> Callable[[str], Tensor]:
    """Prompt -> embedding [1 512 4096], from the disk where it is known."""
    tokenizer = PromptTokenizer(weights_folder(folder) / TOKENIZER_FOLDER)
    cache = PromptCache(
        weights_folder(folder) / EMBEDDINGS_FOLDER, tokenizer_sha256=tokenizer.sha256,
        weights_sha256=noted(lookup(TEXT), _file(TEXT, folder))["sha256"],
    )  # fmt: skip

    def encode(prompt: str) -> Tensor:
        LOGGER.info("loading the text encoder for a new prompt")
        encoder = TextEncoder.load(sizes.text, _tensors(TEXT, folder)).to(device)
        return encoder.embed([prompt], tokenizer)[0].cpu()

    return lambda prompt: cache.embed(prompt, 512, encode)[None]


def negative_prompt(folder: Path | None) -> Tensor:
    """The released embedding of what a video shall not be, padded to [1 512 4096]."""
    (rows,) = _tensors(NEGATIVE, folder).values()
    rows = rows.reshape(-1, rows.shape[-1])
    return torch.cat([rows, rows.new_zeros(512 - len(rows), rows.shape[1])])[None]


def weights_record(name: str, folder: Path | None) -> dict:
    """What the manifest says of one of the weights."""
    entry = lookup(name)
    return entry.record(noted(entry, _file(name, folder))["sha256"]).to_json()


def _file(name: str, folder: Path | None) -> Path:
    file = find_weights(name, folder)
    if file is None:
        raise NotFound(f"weights {name} are not in {weights_folder(folder)}")
    return file


def _tensors(name: str, folder: Path | None) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    # Only what was pinned when it was converted is loaded (architecture page 3.5).
    return load_file(verify(name, folder))
