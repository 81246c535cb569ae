"""Settings -> the parts of a run: the network that learns, frozen networks, clips, empty prompt."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worldloom.generator.training.clip import TrainingClip
from worldloom.generator.training.codec import LinearCodec
from worldloom.generator.training.data import FolderClips
from worldloom.generator.training.sample import Codec, Encoders
from worldloom.generator.training.settings import NetworkSettings, TrainSettings
from worldloom.generator.training.walks import TruthClips, empty_prompt
from worldloom.generator.video.lyra.clip import ClipVision
from worldloom.generator.video.lyra.clip_keys import CLIPConfig, published_shapes
from worldloom.generator.video.lyra.config import TEXT_TOKENS
from worldloom.generator.video.lyra.dit import VideoTransformer
from worldloom.generator.video.lyra.vae import VideoVAE
from worldloom.scene.errors import CorruptData, InvalidRequest, NotFound

FIT_CLIPS = 16  # Clips that a linear codec is fitted to.
INJECTIONS = ("cam_encoder", "buffer_encoder")
EMBEDDINGS = ("text_embedding", "time_embedding")


class Clips(Protocol):
    """An endless row of clips."""

    def clip(self, index: int) -> TrainingClip:
        """Clip number `index`, always the same."""
        ...


def make_clips(settings: TrainSettings) -> Clips:
    """Where clips come from.

    Raises:
        NotFound: The dataset lacks a list or videos.
    """
    d = settings.data
    if d.kind == "truth":
        return TruthClips(
            d.frames, (d.width, d.height), settings.network().text_dim, d.seed, tuple(d.scenes),
            fov_deg=d.fov_deg, limit=d.limit,
        )  # fmt: skip
    captions = Path(d.captions) if d.captions else None
    return FolderClips(Path(d.root), captions=captions, frames=settings.frames())


def make_network(settings: TrainSettings) -> VideoTransformer:
    """The network that learns: from a file, or random by the run's seed.

    Raises:
        NotFound: The file is not there.
        EngineFailed: Its tensors do not fit the settings.
    """
    run = settings.run
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        model = VideoTransformer(settings.network())
        if run.init is None:
            start_weights(model)
    if run.init is not None:
        model.load({k: v.float() for k, v in tensors_of(run.init, "run.init").items()})
    # A start from weights that know the history must not overwrite what they know.
    if run.start_clean or (run.start_clean is None and run.init is None):
        model.start_clean_embeddings()
    model.checkpointing = run.checkpointing
    return model


@torch.no_grad()
def start_weights(model: VideoTransformer) -> None:
    """Random weights as Wan starts: Xavier, small embeddings, a silent head; injections as Lyra."""
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear):
            continue
        if any(part in name for part in INJECTIONS):
            std = 1 / math.sqrt(model.config.dim)
            nn.init.trunc_normal_(module.weight, std=std, a=-3 * std, b=3 * std)
        elif name.startswith(EMBEDDINGS):
            nn.init.normal_(module.weight, std=0.02)
        else:
            nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    nn.init.zeros_(model.head.head.weight)


def make_encoders(settings: TrainSettings, clips: Clips, out: Path) -> Encoders:
    """The frozen networks; a linear codec is fitted once and kept in the run's folder.

    Raises:
        NotFound: A file of weights is not there.
        InvalidRequest: A VAE without weights was asked for.
        EngineFailed: Tensors do not fit their settings.
    """
    fit = min(settings.data.limit or FIT_CLIPS, FIT_CLIPS)
    codec, image = (
        _codec(settings.codec, clips, out, fit),
        _image(settings.image, settings.run.seed),
    )
    for network in (codec, image):
        network.requires_grad_(False).eval()
    return Encoders(codec, image)


def _codec(settings: NetworkSettings, clips: Clips, out: Path, fit: int) -> Codec:
    if settings.kind == "vae":
        if settings.weights is None:
            raise InvalidRequest(
                "codec.weights is empty; a VAE must be trained before: name its safetensors file, "
                "or set codec.kind=linear for a toy"
            )
        return VideoVAE.load(settings.config, tensors_of(settings.weights, "codec.weights"))
    kept = Path(settings.weights) if settings.weights else out / "codec.safetensors"
    if kept.is_file():
        return LinearCodec.from_tensors(tensors_of(str(kept), "codec.weights"))
    codec = LinearCodec.fit(clips.clip(i).video for i in range(fit))
    _keep(codec, kept)
    return codec


def _keep(codec: LinearCodec, file: Path) -> None:
    from safetensors.torch import save_file

    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    save_file({k: v.contiguous() for k, v in codec.state_dict().items()}, part)
    part.replace(file)


def _image(settings: NetworkSettings, seed: int) -> ClipVision:
    if settings.weights is not None:
        return ClipVision.load(settings.config, tensors_of(settings.weights, "image.weights"))
    shapes = published_shapes(CLIPConfig.parse(settings.config))
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for name, shape in shapes.items():
        values = torch.randn(shape, generator=generator) / math.sqrt(max(shape[-1], 1))
        made[name] = 1 + 0 * values if name.endswith("weight") and len(shape) == 1 else values
    return ClipVision.load(settings.config, made)


def make_empty_prompt(settings: TrainSettings) -> Tensor:
    """Embedding [1 512 D] that stands for no prompt.

    Raises:
        NotFound: The file is not there.
        CorruptData: It holds something else.
    """
    width, file = settings.network().text_dim, settings.data.empty_prompt
    if file is None:
        return empty_prompt(width)
    rows = next(iter(tensors_of(file, "data.empty_prompt").values())).float().reshape(-1, width)
    if len(rows) > TEXT_TOKENS:
        raise CorruptData(f"{file} has {len(rows)} rows; an empty prompt has at most {TEXT_TOKENS}")
    return F.pad(rows, (0, 0, 0, TEXT_TOKENS - len(rows)))[None]


def tensors_of(file: str, name: str) -> dict[str, Tensor]:
    """Tensors of a safetensors file.

    Raises:
        NotFound: It is not there.
        CorruptData: It is something else.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not Path(file).is_file():
        raise NotFound(f"{name} names {file}, which is not there; convert the weights first")
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise CorruptData(
            f"{name}: {file} is no safetensors file ({str(error)[:80]}); convert it first"
        ) from error
