"""TCMonoDepth "small": RGB -> relative inverse depth, with 193 thousand parameters.

A network of our own that takes the public weights (spec tcmonodepth_small): a ShuffleNetV2 0.5x
encoder without its max-pool, strides 2 to 16, and three up-sampling blocks with skips. It expects
colours from 0 to 255; fed with 0 to 1 it answers a vertical ramp.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from worldloom.generator.depth.model import WeightsRecord
from worldloom.generator.depth.resample import resize
from worldloom.scene.errors import CorruptData

NAME = "tcmonodepth-small"
SHORT_SIDE = 480
"""Shorter side at which a whole scene is read [px]; 256 to 480 were measured, this is best."""
STRIDE = 32  # Sides must be multiples of this (spec).
STAGES = ((24, 48, 4), (48, 96, 8), (96, 192, 4))
"""Channels in, channels out and units of the encoder's stages (ShuffleNetV2 0.5x)."""
DECODERS = ((24, 48, 24), (48, 96, 48), (96, 192, 96))
"""Channels of the finer input, of the coarser input and of the output, finest first."""


def conv_norm(
    inputs: int, outputs: int, size: int, *, stride: int = 1, groups: int = 1, relu: bool = True
) -> list[nn.Module]:
    """A convolution without bias, batch norm, and ReLU where asked."""
    conv = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)
    layers: list[nn.Module] = [conv, nn.BatchNorm2d(outputs)]
    return [*layers, nn.ReLU()] if relu else layers


class ShuffleUnit(nn.Module):
    """One unit of ShuffleNetV2: half of the channels pass, half are worked on."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        half = outputs // 2
        # A strided unit sends all channels through both branches; others split them.
        source = inputs if stride == 2 else inputs // 2
        self.main = nn.Sequential(
            *conv_norm(source, half, 1),
            *conv_norm(half, half, 3, stride=stride, groups=half, relu=False),
            *conv_norm(half, outputs - source, 1),
        )
        self.pass_by = (
            nn.Sequential(
                *conv_norm(source, source, 3, stride=2, groups=source, relu=False),
                *conv_norm(source, source, 1),
            )
            if stride == 2
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        """Features [b c h w] -> [b outputs h/stride w/stride]."""
        if self.stride == 2:
            return torch.cat([self.pass_by(x), self.main(x)], 1)
        # The shuffle comes before the split: even channels pass, odd ones are worked on.
        return torch.cat([self.pass_by(x[:, 0::2]), self.main(x[:, 1::2])], 1)


class Decoder(nn.Module):
    """Joins a coarse feature map with a finer one at the finer resolution."""

    def __init__(self, low: int, high: int, outputs: int) -> None:
        super().__init__()
        self.skip = nn.Sequential(*conv_norm(low, high // 4, 1))
        both = high + high // 4
        self.join = nn.Sequential(
            *conv_norm(both, both, 3, groups=both), *conv_norm(both, outputs, 1)
        )

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        """Fine [b low 2h 2w] and coarse [b high h w] -> [b outputs 2h 2w]."""
        skip = self.skip(low)
        raised = functional.interpolate(
            high, size=skip.shape[-2:], mode="bilinear", align_corners=False
        )
        return self.join(torch.cat([raised, skip], 1))


class TCMonoSmall(nn.Module):
    """The whole network."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(*conv_norm(3, 24, 3, stride=2))
        self.stages = nn.ModuleList(
            nn.Sequential(
                ShuffleUnit(inputs, outputs, 2),
                *(ShuffleUnit(outputs, outputs, 1) for _ in range(units - 1)),
            )
            for inputs, outputs, units in STAGES
        )
        self.decoders = nn.ModuleList(Decoder(*sizes) for sizes in DECODERS)
        self.head = nn.Conv2d(24, 1, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        """Colours 0..255 [b 3 h w], sides multiples of 32 -> relative inverse depth [b 1 h w]."""
        features = [self.stem(image / 255.0)]
        for stage in self.stages:
            features.append(stage(features[-1]))
        x = features[3]
        for level in (2, 1, 0):
            x = self.decoders[level](features[level], x)
        x = functional.relu(self.head(x))
        return functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def rename(public: Mapping[str, Any]) -> dict[str, Any]:
    """The public checkpoint's tensors under the names of `TCMonoSmall`.

    The checkpoint lists its encoder twice and keeps two heads that inference does not use; both
    are left out, and so are batch counters.
    """
    out = {}
    for key, value in public.items():
        if key.endswith("num_batches_tracked") or key.startswith("encoder.features."):
            continue
        if key.startswith(("decoder.final2.", "decoder.final3.")):
            continue
        out[_own_name(key)] = value
    return out


def _own_name(key: str) -> str:
    parts = key.split(".")
    if parts[1] == "first_conv":
        return ".".join(["stem", *parts[2:]])
    if parts[0] == "encoder":
        stage = int(parts[1].removeprefix("stage")) - 1
        # Units are counted through all stages there (0-3, 4-11, 12-15), from 0 in each here.
        unit = int(parts[2]) - sum(STAGES[k][2] for k in range(stage))
        branch = {"branch_main": "main", "branch_proj": "pass_by"}[parts[3]]
        return ".".join(["stages", str(stage), str(unit), branch, *parts[4:]])
    if parts[1] == "final":
        return ".".join(["head", *parts[2:]])
    block = ["decoders", str(int(parts[1].removeprefix("decoder")) - 1)]
    if parts[2] == "skip_conv":
        return ".".join([*block, "skip", *parts[3:]])
    # last_conv.0.conv.{0,1,3} and last_conv.1 are one sequence of two convolutions here.
    place = parts[5] if parts[3] == "0" else "4"
    return ".".join([*block, "join", place, parts[-1]])


class TCMonoDepth:
    """The network as a depth model."""

    name = NAME

    def __init__(self, network: TCMonoSmall, weights: tuple[WeightsRecord, ...] = ()) -> None:
        self._network = network.eval()
        self.weights = weights

    @staticmethod
    def load(file: Path, weights: tuple[WeightsRecord, ...] = ()) -> TCMonoDepth:
        """The network with the weights of a safetensors file; every tensor must fit.

        Raises:
            CorruptData: The file is damaged, or lacks a tensor, or has one too many.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        network = TCMonoSmall()
        try:
            tensors = load_file(file)
            missing, unexpected = network.load_state_dict(tensors, strict=False)
        except (SafetensorError, OSError, RuntimeError) as error:
            raise CorruptData(
                f"weights {file} cannot be loaded ({str(error)[:200]}); "
                f"get them again with: worldloom weights get {NAME}"
            ) from error
        missing = [key for key in missing if not key.endswith("num_batches_tracked")]
        if missing or unexpected:
            raise CorruptData(
                f"weights {file} lack {len(missing)} tensors and have {len(unexpected)} unknown "
                f"ones ({', '.join([*missing, *unexpected][:3])}, ...); "
                f"get them again with: worldloom weights get {NAME}"
            )
        return TCMonoDepth(network, weights)

    def inverse_depth(
        self, rgb: NDArray[np.float32], *, short_side: int = SHORT_SIDE
    ) -> NDArray[np.float32]:
        """Relative inverse depth [h w] of sRGB colours in 0..1 [h w 3].

        Args:
            rgb: Colours; shrunk by area averages, which the network is sensitive to.
            short_side: Shorter side at which it is read [px].
        """
        height, width = rgb.shape[:2]
        scale = short_side / min(height, width)
        size = [max(STRIDE, STRIDE * round(side * scale / STRIDE)) for side in (width, height)]
        small = torch.from_numpy(resize(rgb, *size) * np.float32(255))
        with torch.inference_mode():
            out = self._network(small.permute(2, 0, 1)[None])[0, 0].numpy()
        return resize(out, width, height)
