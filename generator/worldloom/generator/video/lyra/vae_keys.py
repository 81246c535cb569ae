"""Names of the Wan 2.1 VAE's tensors: as published <-> as `AutoencoderKLWan` has them.

Derived from the configuration, so that any number of levels and blocks works. The published
decoder is one flat list of layers, the library's is grouped into levels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from worldloom.scene.errors import EngineFailed

LATENT_MEAN = (
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
    0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
)  # fmt: skip
"""Channel means of the released latents (spec 7)."""
LATENT_STD = (
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
    3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
)  # fmt: skip
"""Channel standard deviations of the released latents (spec 7)."""

TOP = {"conv1": "quant_conv", "conv2": "post_quant_conv"}
ENDS = {"conv1": "conv_in", "head.0": "norm_out", "head.2": "conv_out"}
MIDDLE = {"0": "resnets.0", "1": "attentions.0", "2": "resnets.1"}
RESIDUAL = {
    "residual.0": "norm1", "residual.2": "conv1", "residual.3": "norm2", "residual.6": "conv2",
    "shortcut": "conv_shortcut",
}  # fmt: skip


@dataclass(frozen=True)
class VAEConfig:
    """Sizes of the VAE; the defaults are those of the release."""

    dim: int = 96
    z_dim: int = 16
    dim_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    temporal_downsample: tuple[bool, ...] = (False, True, True)
    channel_mean: tuple[float, ...] = LATENT_MEAN
    channel_std: tuple[float, ...] = LATENT_STD

    @property
    def frames_per_latent(self) -> int:
        """Frames that one latent after the first stands for."""
        return 2 ** sum(self.temporal_downsample[: len(self.dim_mult) - 1])

    @property
    def pixels_per_latent(self) -> int:
        """Side of the square of pixels that one latent stands for."""
        return 2 ** (len(self.dim_mult) - 1)

    @staticmethod
    def parse(values: Mapping[str, object]) -> VAEConfig:
        """Read the configuration; names that it does not know belong to others.

        Raises:
            EngineFailed: The values cannot make a VAE.
        """
        known = VAEConfig.__dataclass_fields__
        lists = {k: tuple(v) if isinstance(v, list | tuple) else v for k, v in values.items()}
        config = VAEConfig(**{k: v for k, v in lists.items() if k in known})  # type: ignore[arg-type]
        _check(config, tuple(lists.get("attn_scales") or ()))
        return config


def _check(config: VAEConfig, scales: tuple[float, ...]) -> None:
    levels = len(config.dim_mult)
    if levels < 1 or len(config.temporal_downsample) < levels - 1:
        raise EngineFailed(
            f"the VAE has {levels} levels in dim_mult and {len(config.temporal_downsample)} values "
            "in temporal_downsample; one fewer than levels are needed"
        )
    if not len(config.channel_mean) == len(config.channel_std) == config.z_dim:
        raise EngineFailed(
            f"the VAE has {config.z_dim} latent channels, but {len(config.channel_mean)} means and "
            f"{len(config.channel_std)} standard deviations; give one of each per channel"
        )
    if any(float(scale) == 2.0**-level for scale in scales for level in range(-1, levels)):
        raise EngineFailed(
            f"attn_scales {list(scales)} ask for attention between the levels, which the published "
            "VAE cannot run either; leave the list empty"
        )


def library_name(name: str, config: VAEConfig) -> str:
    """A published name -> the library's; an unknown name stays as it is."""
    side, _, rest = name.partition(".")
    if side in TOP:
        return f"{TOP[side]}.{rest}"
    for old, new in ENDS.items():
        if rest.startswith(f"{old}."):
            return f"{side}.{new}{rest[len(old) :]}"
    place, _, rest = rest.partition(".")
    index, _, rest = rest.partition(".")
    for old, new in RESIDUAL.items():
        if rest.startswith(f"{old}."):
            rest = new + rest[len(old) :]
            break
    if place == "middle" and index in MIDDLE:
        return f"{side}.mid_block.{MIDDLE[index]}.{rest}"
    if place == "downsamples":
        return f"{side}.down_blocks.{index}.{rest}"
    if place == "upsamples" and index.isdigit():
        level, step = divmod(int(index), config.num_res_blocks + 2)
        last = step == config.num_res_blocks + 1
        return f"{side}.up_blocks.{level}.{'upsamplers.0' if last else f'resnets.{step}'}.{rest}"
    return name


def published_names(config: VAEConfig, library: Iterable[str]) -> dict[str, str]:
    """The library's names -> published names, both complete for this configuration."""
    return {name: _published(name, config) for name in library}


def _published(name: str, config: VAEConfig) -> str:
    side, _, rest = name.partition(".")
    for old, new in TOP.items():
        if side == new:
            return f"{old}.{rest}"
    for old, new in ENDS.items():
        if rest.startswith(f"{new}."):
            return f"{side}.{old}{rest[len(new) :]}"
    place, index, *parts = rest.split(".")
    if place == "mid_block":
        position = f"{index}.{parts.pop(0)}"
        index = next(old for old, new in MIDDLE.items() if new == position)
        place = "middle"
    elif place == "up_blocks":
        kind, step = parts.pop(0), int(parts.pop(0))
        offset = config.num_res_blocks + 1 if kind == "upsamplers" else step
        index, place = str(int(index) * (config.num_res_blocks + 2) + offset), "upsamples"
    else:
        place = "downsamples"
    for old, new in RESIDUAL.items():
        if parts[0] == new:
            parts[0] = old
            break
    return ".".join([side, place, index, *parts])
