"""FramePack: a layout string -> which latents fill which slots, and how coarsely (spec 2)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from worldloom.scene.errors import EngineFailed

FRAMES_PER_LATENT = 4  # Pixel frames per latent frame, fixed by the VAE.


@dataclass(frozen=True)
class Segment:
    """Neighbouring slots of the history that share a patch embedding."""

    count: int
    kind: str
    """`k`: patches grow in time, height and width; `s`: in height and width only."""
    factor: int

    def pool(self) -> tuple[int, int, int]:
        """Base tokens per token in time, height and width."""
        return (self.factor if self.kind == "k" else 1, self.factor, self.factor)

    def tokens(self, height: int, width: int) -> int:
        """Tokens of this segment over a base grid of `height` x `width` tokens per frame."""
        t, h, w = self.pool()
        return -(-self.count // t) * -(-height // h) * -(-width // w)


@dataclass(frozen=True)
class FramePack:
    """The packed history and the latents to generate."""

    segments: tuple[Segment, ...]
    new: int
    """Latents that one chunk generates."""

    @staticmethod
    def parse(text: str) -> FramePack:
        """Read a layout such as `f1k1f4s2f1s1f16k4f2k2f1k1_g20`.

        Raises:
            EngineFailed: The text is not a layout.
        """
        if not re.fullmatch(r"(f\d+[ks]\d+)+_g\d+", text):
            raise EngineFailed(
                f"{text!r} is not a FramePack layout; it is a chain of f<count><k|s><factor> "
                "and ends with _g<count>, such as f1k1f16k4f2k2f1k1_g20"
            )
        history, new = text.split("_g")
        parts = re.findall(r"f(\d+)([ks])(\d+)", history)
        found = tuple(Segment(int(count), kind, int(factor)) for count, kind, factor in parts)
        if int(new) < 1 or any(s.count < 1 or s.factor < 1 for s in found):
            raise EngineFailed(f"the FramePack layout {text!r} has a count or factor of zero")
        return FramePack(found, int(new))

    @property
    def history(self) -> int:
        """Slots before the generated ones."""
        return sum(segment.count for segment in self.segments)

    @property
    def total(self) -> int:
        """All slots."""
        return self.history + self.new

    @property
    def spatial(self) -> int:
        """Memory slots."""
        return sum(segment.count for segment in self.segments if segment.kind == "s")

    @property
    def temporal(self) -> int:
        """History slots that hold recent latents and the anchor."""
        return self.history - self.spatial

    @property
    def new_frames(self) -> int:
        """Pixel frames of a chunk."""
        return self.new * FRAMES_PER_LATENT

    @property
    def preroll_latents(self) -> int:
        """Latents of the still image that stand for the past before the first frame."""
        return self.history

    @property
    def preroll_frames(self) -> int:
        """Pixel frames before frame 0: `preroll_latents` latents including frame 0 itself."""
        return (self.history - 1) * FRAMES_PER_LATENT

    def spatial_positions(self) -> list[int]:
        """Slot numbers of the memory slots."""
        return [i for i, kind in enumerate(self._kinds()) if kind == "s"]

    def temporal_positions(self) -> list[int]:
        """Slot numbers of the temporal history."""
        return [i for i, kind in enumerate(self._kinds()) if kind == "k"]

    def _kinds(self) -> list[str]:
        return [segment.kind for segment in self.segments for _ in range(segment.count)]

    def select(self, latents: int) -> list[int]:
        """Which of `latents` stored latents fill the temporal slots: the first and the latest."""
        if not self.temporal:
            return []
        return [0, *range(latents - self.temporal + 1, latents)]

    def compose(self, temporal: list[int], spatial: list[int], missing: int) -> list[int]:
        """Indices in slot order; memory slots without a candidate take `missing`."""
        recent, memory = iter(temporal), iter(spatial)
        return [next(recent) if kind == "k" else next(memory, missing) for kind in self._kinds()]

    def splits(self) -> list[int]:
        """Slots of each segment, the generated ones last."""
        return [*(segment.count for segment in self.segments), self.new]


def timeline(layout: FramePack, chunk: int) -> list[int]:
    """Absolute frame of every entry of the padded timeline when `chunk` is made (spec 1.3)."""
    last = layout.new_frames * (chunk + 1)
    return [0] * (layout.preroll_frames + 1) + list(range(1, last + 1))


def latent_frame(layout: FramePack, latent: int) -> int:
    """Absolute pixel frame whose camera a stored latent has: the last of its group (spec 5)."""
    return max(0, FRAMES_PER_LATENT * latent - layout.preroll_frames)


def retrieval_frames(layout: FramePack, chunk: int, views: int) -> list[int]:
    """Absolute frames of a chunk for which the memory is asked (spec 3.4)."""
    first, count = 1 + layout.new_frames * chunk, layout.new_frames
    if views <= 1:
        return [first + count - 1]
    step = (count - 1) / views
    # Truncated, as the released code does; the last one is exact.
    return [first + int(step * i) if i < views else first + count - 1 for i in range(1, views + 1)]


@dataclass(frozen=True)
class TrainingWindow:
    """Part of a training clip (spec generation 8.2)."""

    start: int
    """Frame of the clip that plays frame 0."""
    segment: int
    """Chunk to learn."""
    starts: range
    """Where a window may start."""
    segments: range
    """Which chunks may be learnt."""
    frames: tuple[int, ...]
    """Frame of the clip for every entry of the padded timeline; the last repeats if need be."""


def training_window(
    layout: FramePack,
    video_length: int,
    *,
    start: int,
    segment: int,
    start_ratio: float = 0.0,
    max_segments: int = 13,
    self_augmented: bool = False,
) -> TrainingWindow:
    """The window of a clip with `video_length` frames; a self-augmented one keeps a chunk back."""
    segments = min((video_length - 1) // layout.new_frames - int(self_augmented), max_segments)
    indices = timeline(layout, segment)
    return TrainingWindow(
        start, segment, range(max(int(start_ratio * video_length), 1)), range(max(segments, 1)),
        tuple(min(start + i, video_length - 1) for i in indices),
    )  # fmt: skip
