"""Sizes of the Depth Anything 3 networks (spec reconstruction 2.1).

Plain numbers: neither torch nor weights are needed to read them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from worldloom.scene.errors import InvalidRequest

PATCH = 14  # Pixels of a patch, each side.
TABLE_SIDE = 37  # Patches of the position table, each side (518 pixels).
HIDDEN = 32  # Channels between the last two convolutions of every head.
MLP_RATIO = 4  # Hidden width of a GELU feed-forward network over its width.
CAMERA_HEADS, CAMERA_BLOCKS = 16, 4  # Attention heads and blocks of the camera encoder.
POSE_NUMBERS = 9  # Translation 3, quaternion xyzw 4, fields of view 2.
NO_START = -1  # No alternation, rotation or q/k norm at all.


@dataclass(frozen=True)
class Da3Config:
    """Sizes of one network."""

    dim: int
    """Width d of the backbone."""
    layers: int
    heads: int
    swiglu: bool
    """Feed-forward network: SwiGLU, else GELU."""
    out_layers: tuple[int, int, int, int]
    """Layers whose output the heads read, from 0."""
    start: int
    """First layer of alternating attention, q/k norm and rotation; -1 = a plain network."""
    features: int
    """Channels of the heads' pyramid."""
    out_channels: tuple[int, int, int, int]
    """Channels of the four projected feature maps."""
    splats: bool = False
    """Whether there is a Gaussian head."""

    @property
    def multi_view(self) -> bool:
        """Whether views see each other: depth with confidence and rays, cameras in and out."""
        return self.start != NO_START

    @property
    def head_width(self) -> int:
        """Channels of a token as the heads read it: [local, current] side by side, or current."""
        return 2 * self.dim if self.multi_view else self.dim

    @property
    def hidden(self) -> int:
        """Hidden width of the feed-forward networks."""
        if not self.swiglu:
            return MLP_RATIO * self.dim
        return -(-(MLP_RATIO * self.dim * 2 // 3) // 8) * 8


WIDE = (256, 512, 1024, 1024)

GIANT = Da3Config(1536, 40, 24, True, (19, 27, 33, 39), 13, 256, WIDE, splats=True)
LARGE = Da3Config(1024, 24, 16, False, (11, 15, 19, 23), 8, 256, WIDE)
BASE = Da3Config(768, 12, 12, False, (5, 7, 9, 11), 4, 128, (96, 192, 384, 768))
SMALL = Da3Config(384, 12, 6, False, (5, 7, 9, 11), 4, 64, (48, 96, 192, 384))
METRIC_LARGE = Da3Config(1024, 24, 16, False, (4, 11, 17, 23), NO_START, 256, WIDE)
MONO_LARGE = METRIC_LARGE
TINY = Da3Config(64, 6, 4, True, (2, 3, 4, 5), 2, 16, (16, 16, 24, 32), splats=True)
"""For tests on a CPU; its weights are random."""
TINY_METRIC = Da3Config(64, 4, 4, False, (0, 1, 2, 3), NO_START, 16, (16, 16, 24, 32))


@dataclass(frozen=True)
class Variant:
    """A published model: one network, or one with a second that knows metres."""

    name: str
    main: Da3Config
    metric: Da3Config | None = None
    """The second network of a nested model."""

    @property
    def nested(self) -> bool:
        """Whether a second network gives metres and sky."""
        return self.metric is not None


VARIANTS: Mapping[str, Variant] = {
    variant.name: variant
    for variant in (
        Variant("nested", GIANT, METRIC_LARGE),
        Variant("giant", GIANT),
        Variant("large", LARGE),
        Variant("base", BASE),
        Variant("small", SMALL),
        Variant("metric-large", METRIC_LARGE),
        Variant("mono-large", MONO_LARGE),
        Variant("tiny", TINY),
        Variant("tiny-metric", TINY_METRIC),
        Variant("tiny-nested", TINY, TINY_METRIC),
    )
}
"""All models by name; `tiny` ones are ours."""


def variant_of(name: str) -> Variant:
    """The model called `name`.

    Raises:
        InvalidRequest: There is none; the text lists those that exist.
    """
    if name not in VARIANTS:
        raise InvalidRequest(
            f"no Depth Anything 3 model is called {name[:80]!r}; there are {', '.join(VARIANTS)}",
            field="depth",
        )
    return VARIANTS[name]
