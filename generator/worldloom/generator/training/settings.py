"""YAML -> the settings of a training run; every number of the release is a default (spec 8)."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from worldloom.generator.training.data import Frames
from worldloom.generator.training.flow import AUGMENT_MOST, TrainingFlow
from worldloom.generator.training.memory import MemoryDraw
from worldloom.generator.training.sample import SampleConfig
from worldloom.generator.video.lyra.config import DiTConfig
from worldloom.generator.video.lyra.layout import FramePack
from worldloom.scene.errors import EngineFailed, InvalidRequest, NotFound

SCHEMA = "worldloom.training/1"
PRESETS = "worldloom.generator.training.presets"


@dataclass
class NetworkSettings:
    """The video codec or the image tower."""

    kind: str = "vae"
    """`vae` or `linear` for the codec; `clip` for the image tower."""
    weights: str | None = None
    """Safetensors file; None is a linear codec fitted to the data, or a random tower."""
    config: dict[str, Any] = field(default_factory=dict)
    """Sizes, where they are not the released ones."""


@dataclass
class DataSettings:
    """Where clips come from."""

    kind: str = "folder"
    """`folder` (spec 8.6) or `truth` (analytic scenes)."""
    root: str | None = None
    captions: str | None = None
    empty_prompt: str | None = None
    """Safetensors file with the embedding of the empty prompt, [n D]; None is zeros."""
    height: int = 480
    width: int = 832
    resize: tuple[int, int] = (480, 854)
    frames: int = 1000
    scenes: list[str] = field(default_factory=list)
    fov_deg: float = 35.0
    """Horizontal field of view of truth clips."""
    limit: int = 0
    """Different truth clips; 0 is no end."""
    seed: int = 0


@dataclass
class SampleSettings:
    """How a clip becomes a sample."""

    memory_stride: int = 8
    skip_recent: int = 16
    memory_drop: float = 0.1
    memory_noise_mean: float | None = -3.0
    memory_noise_std: float = 2.0
    text_dropout: float = 0.2
    max_segments: int = 13
    warp_chunk: int = 16
    codec_group: int = 8
    every: int = 2
    """Iterations of which one is either a first chunk or self-augmented."""
    first_chunk: float = 0.3
    """Share of those that learn the first chunk after one picture."""
    self_augment: bool = True
    """Whether the others have a history of the model's own making."""
    augment_most: float = AUGMENT_MOST


@dataclass
class FlowSettings:
    """Noise levels."""

    shift: float = 5.0
    distribution: str = "logitnormal"
    weight: str = "reweighting"


@dataclass
class OptimSettings:
    """AdamW and its schedule (spec 8.5)."""

    lr: float = 3e-5
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 1e-3
    warmup: int = 100
    cycle: int = 400_000
    start_factor: float = 1e-6
    top_factor: float = 0.99
    end_factor: float = 0.4
    clip: float = 0.1
    ema: float | None = None
    """Relative width of a power-function average of the weights; the release has none."""


@dataclass
class ShardSettings:
    """Fully sharded data parallelism over the processes of a launch."""

    enabled: bool = False
    group: int = 8
    """Processes that share one copy of the weights; more processes are replicas of it."""


@dataclass
class RunSettings:
    """The run itself."""

    steps: int = 5000
    seed: int = 0
    precision: str = "fp32"
    """`fp32`, or `bf16`: bfloat16 in the network, float32 master weights and gradients."""
    checkpointing: bool = False
    """Recompute blocks in the backward pass."""
    checkpoint_every: int = 100
    keep: int = 2
    """Newest checkpoints that are kept."""
    init: str | None = None
    """Safetensors file of a network to start from; None is a random one."""
    start_clean: bool | None = None
    """Derive the history's embeddings from the base one; None: only for a random start."""


@dataclass
class TrainSettings:
    """Everything."""

    schema: str = SCHEMA
    layout: str = "f1k1f4s2f1s1f16k4f2k2f1k1_g20"
    model: dict[str, Any] = field(default_factory=dict)
    codec: NetworkSettings = field(default_factory=NetworkSettings)
    image: NetworkSettings = field(default_factory=lambda: NetworkSettings(kind="clip"))
    data: DataSettings = field(default_factory=DataSettings)
    sample: SampleSettings = field(default_factory=SampleSettings)
    flow: FlowSettings = field(default_factory=FlowSettings)
    optim: OptimSettings = field(default_factory=OptimSettings)
    shard: ShardSettings = field(default_factory=ShardSettings)
    run: RunSettings = field(default_factory=RunSettings)

    def pack(self) -> FramePack:
        """Layout of the history."""
        return FramePack.parse(self.layout)

    def network(self) -> DiTConfig:
        """Sizes of the network that learns; the buffer's width follows from the layout."""
        chosen = {**self.model, "framepack_type": self.layout}
        chosen.setdefault("buffer_in_dim", 256 * self.pack().spatial)
        return DiTConfig.from_mapping(chosen)

    def training_flow(self) -> TrainingFlow:
        """Noise levels."""
        f = self.flow
        return TrainingFlow.make(shift=f.shift, distribution=f.distribution, weight=f.weight)

    def sampling(self) -> SampleConfig:
        """How samples are made."""
        s = self.sample
        return SampleConfig(
            layout=self.pack(),
            memory=MemoryDraw(s.memory_stride, s.skip_recent, s.memory_drop),
            noise_mean=s.memory_noise_mean,
            noise_std=s.memory_noise_std,
            text_dropout=s.text_dropout,
            warp_chunk=s.warp_chunk,
            group=s.codec_group,
        )

    def frames(self) -> Frames:
        """How stored frames become training frames."""
        d = self.data
        return Frames(tuple(d.resize), (d.height, d.width), d.frames)

    def check(self) -> TrainSettings:
        """These settings, when they make sense together.

        Raises:
            InvalidRequest: A value is out of range; the text names field, value and limit.
        """
        layout, d, r = self.pack(), self.data, self.run
        if self.schema != SCHEMA:
            raise _wrong("schema", self.schema, f"this version reads {SCHEMA!r}")
        one_of = {
            "codec.kind": (self.codec.kind, ("vae", "linear")),
            "image.kind": (self.image.kind, ("clip",)),
            "data.kind": (d.kind, ("folder", "truth")),
            "run.precision": (r.precision, ("fp32", "bf16")),
        }
        for name, (value, known) in one_of.items():
            if value not in known:
                raise _wrong(name, value, f"use one of: {', '.join(known)}")
        if d.kind == "folder" and not d.root:
            raise _wrong("data.root", d.root, "name the dataset's folder")
        if d.height % 16 or d.width % 16:
            raise _wrong("data", f"{d.width} x {d.height}", "both must be multiples of 16 pixels")
        need = 1 + 2 * layout.new_frames
        if d.frames < need:
            raise _wrong("data.frames", d.frames, f"two chunks of this layout need {need}")
        if r.steps < 1 or self.optim.lr <= 0 or self.optim.clip <= 0 or self.sample.every < 1:
            raise _wrong(
                "run.steps, optim.lr, optim.clip, sample.every",
                (r.steps, self.optim.lr, self.optim.clip, self.sample.every),
                "all must be above 0",
            )
        if r.precision == "bf16" and r.checkpointing and not self.shard.enabled:
            raise _wrong(
                "run.checkpointing", True,
                "with bf16 it needs shard.enabled; use fp32 or turn one of them off",
            )  # fmt: skip
        if self.optim.ema is not None and self.shard.enabled:
            raise _wrong("optim.ema", self.optim.ema, "it is not kept for sharded weights; null")
        return self


def _wrong(name: str, value: object, remedy: str) -> InvalidRequest:
    return InvalidRequest(f"{name} is {value!r}; {remedy}", field=name)


def preset_names() -> list[str]:
    """Names of the presets that come with the package."""
    folder = resources.files(PRESETS)
    return sorted(f.name[:-5] for f in folder.iterdir() if f.name.endswith(".yaml"))


def read_settings(source: str, overrides: list[str] | None = None) -> TrainSettings:
    """Settings of a preset or a YAML file, with `name.of.field=value` on top.

    Raises:
        NotFound: There is neither a preset nor a file of this name.
        InvalidRequest: A field is unknown, or a value has the wrong type or is out of range.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    text = _text(source)
    try:
        base = OmegaConf.structured(TrainSettings)
        given = OmegaConf.create(text) if text.strip() else OmegaConf.create({})
        merged = OmegaConf.merge(base, given, OmegaConf.from_dotlist(overrides or []))
        settings = OmegaConf.to_object(merged)
    except (OmegaConfBaseException, YAMLError, ValueError) as error:
        words = str(error).strip().splitlines() or [type(error).__name__]
        where = getattr(error, "full_key", None)
        raise InvalidRequest(
            f"training settings {source}: {f'{where}: ' if where else ''}{words[0]}; "
            "compare with the presets",
            field=where,
        ) from error
    try:
        return settings.check()
    except EngineFailed as error:
        raise InvalidRequest(f"training settings {source}: {error}", field="layout") from error


def _text(source: str) -> str:
    if source in preset_names():
        return (resources.files(PRESETS) / f"{source}.yaml").read_text("utf-8")
    file = Path(source)
    if not file.is_file():
        raise NotFound(
            f"there is no training preset or file {source!r}; presets: {', '.join(preset_names())}"
        )
    return file.read_text("utf-8")
