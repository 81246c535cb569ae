"""An engine, a preset and a picture size -> gigabytes per part, place and stage, before loading.

A preset says what stays on the GPU. The plan lists everything that is alive in each stage of a run
and compares the fullest stage with the machine; what cannot fit is refused with these numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

from worldloom.generator.video.lyra.memory_parts import (
    BF16,
    FP32,
    Chunk,
    Models,
    adapter_parameters,
    block_parameters,
    dit_parameters,
    models_of,
)
from worldloom.scene.errors import EngineFailed, InvalidRequest

STAGES = ("load", "text", "depth", "encode", "prepare", "denoise", "decode")
"""In the order of a run: weights; prompts, once; then for every chunk depth of the frames before,
VAE encoding of the conditioning, what no step changes, the steps, decoding and encoding again."""
CONTEXT_GB = 1.2  # CUDA context and the workspaces of its libraries, as commonly seen.
SPARE = 1.05  # Activations are multiplied by this: the allocator rounds and fragments.
CHUNKS = 6  # Length of the run whose history is counted: 481 frames.
DEPTH_FRAMES = 10  # Frames that the depth network sees together (spec generation 3.3).
SPLAT_VIEWS = 40  # Frames of a chunk that become splats together (`da3.window_lifter`).
TEXT_ALIVE = 512 * 4096 * 40 * FP32  # Forty tensors of tokens x width, as an estimate.
TEXT_SMALL = 10**8  # Parameters below which the text encoder's activations do not count.
STREAMED_BLOCKS = 2  # Blocks on the GPU while streaming: one computes, the next arrives.
DEVICE, HOST = "GPU", "host"


@dataclass(frozen=True)
class Preset:
    """What stays on the GPU."""

    name: str
    gpu_gb: float
    """Memory of the card that it is made for [GB]."""
    keep: frozenset[str]
    """What stays on the GPU all the time: networks, and the streams of the VAE. The others are
    there in their stages only, and on the host at all times."""
    streamed: bool
    """Whether the blocks of the video transformer come one after the other from the host."""
    vae_group: int
    """Latents that the VAE takes at a time."""


PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset("resident-80", 80, frozenset({"dit", "vae", "clip", "depth", "streams"}), False, 4),
        Preset("offload-48", 48, frozenset(), False, 1),
        Preset("offload-24", 24, frozenset(), True, 1),
    )
}
"""From the fastest to the smallest. The text encoder is on the GPU in its stage alone."""


@dataclass(frozen=True)
class Item:
    """One thing in memory."""

    part: str
    place: str
    """`GPU` or `host`."""
    bytes: int
    stages: tuple[str, ...]

    @property
    def gb(self) -> float:
        """Size in units of 1e9 bytes."""
        return self.bytes / 1e9


@dataclass(frozen=True)
class MemoryPlan:
    """Everything that a run keeps, when and where."""

    engine: str
    preset: Preset
    size: tuple[int, int]
    tokens: int
    """Tokens of one forward pass."""
    items: tuple[Item, ...]

    def at(self, stage: str, place: str) -> list[Item]:
        """What is alive in a stage at a place."""
        return [item for item in self.items if stage in item.stages and item.place == place]

    def gb(self, stage: str, place: str) -> float:
        """Sum of a stage at a place [GB]."""
        return sum(item.gb for item in self.at(stage, place))

    def fullest(self, place: str) -> str:
        """The stage that needs most at a place."""
        return max(STAGES, key=lambda stage: self.gb(stage, place))

    def peak(self, place: str) -> float:
        """What the fullest stage needs [GB]."""
        return self.gb(self.fullest(place), place)

    def check(self, *, gpu_gb: float | None = None, host_gb: float | None = None) -> None:
        """Refuse what cannot fit.

        Args:
            gpu_gb: Memory of the card [GB]; by default that of the card the preset is made for.
            host_gb: Memory of the machine [GB]; not looked at by default.

        Raises:
            EngineFailed: The fullest stage needs more than there is.
        """
        for place, limit in ((DEVICE, gpu_gb or self.preset.gpu_gb), (HOST, host_gb)):
            if limit is not None and self.peak(place) > limit:
                raise EngineFailed(self._refusal(place, limit))

    def _refusal(self, place: str, limit: float) -> str:
        stage = self.fullest(place)
        largest = sorted(self.at(stage, place), key=lambda item: -item.bytes)[:3]
        parts = ", ".join(f"{item.part} {item.gb:.1f}" for item in largest)
        return (
            f"{self.engine} with {self.preset.name} at {self.size[0]} x {self.size[1]} px needs "
            f"{self.peak(place):.1f} GB of {place} memory in stage {stage} ({parts}); there are "
            f"{limit:.1f} GB. {self._remedy(place, limit)}"
        )

    def _remedy(self, place: str, limit: float) -> str:
        fitting = [
            name
            for name in PRESETS
            if plan_memory(self.engine, name, self.size).peak(place) <= limit
        ]
        if fitting:
            return f"Use the preset {fitting[0]}"
        smaller = largest_size(self.engine, self.size, limit, place)
        if smaller is not None:
            name, (width, height) = smaller
            return f"Use the preset {name} and at most {width} x {height} px"
        return f"No preset and size fits; use a machine with more {place} memory, or a smaller run"


def plan_memory(
    engine: str, preset: str, size: tuple[int, int] = (832, 480), *, models: Models | None = None
) -> MemoryPlan:
    """Plan a run.

    Args:
        engine: `lyra2`, `lyra2-dmd` or `lyra2-tiny`.
        preset: Name of a preset.
        size: Width and height of the frames, multiples of 16 [px].
        models: Networks instead of those of the engine.

    Raises:
        InvalidRequest: Engine or preset is unknown, or the size is no multiple of 16.
    """
    chosen = PRESETS.get(preset)
    if chosen is None:
        raise InvalidRequest(
            f"unknown memory preset {preset!r}; there are {', '.join(PRESETS)}", field="preset"
        )
    if min(size) < 16 or size[0] % 16 or size[1] % 16:
        raise InvalidRequest(
            f"frames of {size[0]} x {size[1]} px cannot be made; both must be multiples of 16",
            field="size",
        )
    chunk = Chunk(models or models_of(engine), size)
    items = (*_weights(chunk, chosen), *_caches(chunk, chosen), *_moments(chunk, chosen))
    return MemoryPlan(
        engine, chosen, size, chunk.tokens, tuple(i for i in items if i.bytes and i.stages)
    )


def _weights(chunk: Chunk, preset: Preset) -> list[Item]:
    models, config = chunk.models, chunk.config
    whole = dit_parameters(config) * BF16
    dit_stages = ("prepare", "denoise") if "dit" not in preset.keep else STAGES
    items = [Item("CUDA context", DEVICE, int(CONTEXT_GB * 1e9), STAGES)]
    if preset.streamed:
        block = block_parameters(config) * BF16
        rest = whole - config.num_layers * block
        items += [
            Item("video transformer, all but its blocks", DEVICE, rest, dit_stages),
            Item(f"{STREAMED_BLOCKS} blocks of it", DEVICE, STREAMED_BLOCKS * block, dit_stages),
        ]
    else:
        items.append(Item("video transformer", DEVICE, whole, dit_stages))
    if "dit" not in preset.keep:
        items.append(Item("video transformer", HOST, whole, STAGES))
    if models.adapter_rank:
        items += _merge(chunk, 0 if "dit" not in preset.keep else whole)
    networks = (
        ("vae", "VAE", models.vae_parameters * BF16, ("encode", "decode")),
        ("clip", "CLIP", models.clip_parameters * BF16, ("encode",)),
        ("depth", "depth network", chunk.depth_weights(), ("depth",)),
        ("splats", "splat network", chunk.splat_weights(), ("depth",)),
        ("text", "text encoder", models.text_parameters * BF16, ("text",)),
    )
    for key, part, size, stages in networks:
        items.append(Item(part, DEVICE, size, STAGES if key in preset.keep else stages))
        if key not in preset.keep:
            # The text encoder is dropped when the prompts are known, the others come again.
            items.append(Item(part, HOST, size, ("text",) if key == "text" else STAGES))
    return items


def _merge(chunk: Chunk, weights: int) -> list[Item]:
    """Merging an adapter on the host: its tensors, and one layer and its change in float32.

    Args:
        chunk: Of the engine.
        weights: Bytes of the weights that are on the host for the merge only.
    """
    config, models = chunk.config, chunk.models
    adapter = adapter_parameters(config, models.adapter_rank) * BF16
    layer = 2 * config.dim * max(config.ffn_dim, 6 * config.dim) * FP32
    return [
        Item("video transformer", HOST, weights, ("load",)),
        Item("adapter", HOST, adapter, ("load",)),
        Item("merging its largest layer", HOST, layer, ("load",)),
    ]


def _caches(chunk: Chunk, preset: Preset) -> list[Item]:
    made, steps = ("prepare", "denoise"), ("denoise",)
    streams = STAGES[2:] if "streams" in preset.keep else ("encode", "decode")
    away = () if "streams" in preset.keep else ("depth", "prepare", "denoise")
    return [
        Item("conditioning of the chunk", DEVICE, chunk.inputs(), ("prepare", "denoise", "decode")),
        Item("squeezed correspondence of all blocks", DEVICE, chunk.matches(), made),
        Item("rays of all tokens", DEVICE, chunk.rays(), made),
        Item("keys and values of the prompts", DEVICE, chunk.text_kv(), steps),
        Item("keys and values of the image", DEVICE, chunk.image_kv(), made),
        Item("embedded history, rotation", DEVICE, chunk.embedded(), made),
        Item("latents of the solver", DEVICE, chunk.solver(), steps),
        Item("VAE streams", DEVICE, chunk.vae_state(), streams),
        Item("VAE streams", HOST, chunk.vae_state(), away),
        Item("warps, correspondence, rays", HOST, chunk.geometry(), ("encode", "prepare")),
        Item(f"history of {CHUNKS} chunks", HOST, chunk.history(CHUNKS), STAGES[2:]),
        Item("frames of the chunk", HOST, 2 * chunk.video(), ("decode",)),
    ]


def _moments(chunk: Chunk, preset: Preset) -> list[Item]:
    """Activations: what is alive at the fullest moment of a stage."""
    text = TEXT_ALIVE if chunk.models.text_parameters > TEXT_SMALL else 0
    found = (
        ("text", text),
        ("depth", chunk.depth_activations(DEPTH_FRAMES, SPLAT_VIEWS)),
        ("encode", chunk.encoding(preset.vae_group)),
        ("prepare", chunk.preparing()),
        ("denoise", chunk.forward()),
        ("decode", max(chunk.decoding(preset.vae_group), chunk.encoding(preset.vae_group))),
    )
    return [Item("activations", DEVICE, int(size * SPARE), (stage,)) for stage, size in found]


def choose_preset(engine: str, size: tuple[int, int], gpu_gb: float) -> MemoryPlan:
    """The fastest plan that fits a card.

    Raises:
        EngineFailed: None does; the text has the numbers of the smallest.
    """
    plans = [plan_memory(engine, name, size) for name in PRESETS]
    for plan in plans:
        if plan.peak(DEVICE) <= gpu_gb:
            return plan
    plans[-1].check(gpu_gb=gpu_gb)
    return plans[-1]


def largest_size(
    engine: str, size: tuple[int, int], limit: float, place: str = DEVICE
) -> tuple[str, tuple[int, int]] | None:
    """Preset and largest size of about the same aspect that fit, or None."""
    for height in range(size[1] - 16, 0, -16):
        width = max(16, round(size[0] * height / size[1] / 16) * 16)
        for name in PRESETS:
            if plan_memory(engine, name, (width, height)).peak(place) <= limit:
                return name, (width, height)
    return None


def table(plan: MemoryPlan) -> tuple[list[str], list[list[str]]]:
    """Header and rows: one line a part and place, one column a stage, sums last [GB]."""
    rows = []
    for place in (DEVICE, HOST):
        for part in dict.fromkeys(item.part for item in plan.items if item.place == place):
            cells = [sum(i.gb for i in plan.at(s, place) if i.part == part) for s in STAGES]
            rows.append([part, place, *(f"{gb:.2f}" if gb else "" for gb in cells)])
        rows.append(["TOTAL", place, *(f"{plan.gb(stage, place):.2f}" for stage in STAGES)])
    return ["part", "place", *STAGES], rows
