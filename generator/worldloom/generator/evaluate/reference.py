"""What a video should look like: pictures of a known scene, or the frames of a real walk."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from worldloom.generator.evaluate.frames import FRAMES_MIN, fitted, picture_files, read_picture
from worldloom.generator.evaluate.pixels import Picture
from worldloom.generator.evaluate.world import EvaluatedWorld
from worldloom.scene.errors import InvalidRequest


class Reference(Protocol):
    """Gives the picture that a frame should be."""

    @property
    def data(self) -> str:
        """What the pictures are, for reports."""
        ...

    def pictures(self, numbers: Iterable[int]) -> dict[int, Picture]:
        """Pictures [h w 3] of the world's frames by number; those it does not have are left out."""
        ...


@dataclass(frozen=True)
class TruthReference:
    """Exact pictures of an analytic scene at the commanded cameras."""

    world: EvaluatedWorld
    name: str
    """Scene, with or without a noise preset: pictures have none."""
    _made: dict[int, Picture] = field(default_factory=dict)

    @property
    def data(self) -> str:
        """What the pictures are."""
        return f"truth scene {self.name.partition('-')[0]} at the commanded cameras"

    def pictures(self, numbers: Iterable[int]) -> dict[int, Picture]:
        """Exact pictures by frame number, each rendered once."""
        from worldloom.generator.truth.opening import named_scene
        from worldloom.generator.truth.render import render_view

        place, _ = named_scene(self.name)
        cameras, size = self.world.cameras, self.world.size
        for number in set(numbers) - set(self._made):
            row = self.world.row(number)
            self._made[number] = render_view(place, cameras.c2w[row], cameras.K[row], size).rgb
        return {number: self._made[number] for number in numbers}


@dataclass(frozen=True)
class RealReference:
    """The frames of a real walk along the same path."""

    world: EvaluatedWorld
    files: tuple[Path, ...]
    source: str

    @property
    def data(self) -> str:
        """What the pictures are."""
        return f"real frames of {self.source} ({len(self.files)})"

    def pictures(self, numbers: Iterable[int]) -> dict[int, Picture]:
        """Real frames by number, cropped and resized to the world's frames.

        The first real frame belongs to the photo and the last to the last frame. Where their
        numbers differ, frames belong together by relative time; only the nearest real frame of
        each is used, and only once.

        Raises:
            InvalidRequest: A frame cannot be decoded, or their sizes differ.
        """
        size, out = None, {}
        for number, file in self._matches(numbers).items():
            picture = read_picture(file)
            size = size or picture.shape
            if picture.shape != size:
                raise InvalidRequest(
                    f"{file.name} is {picture.shape[1]} x {picture.shape[0]} pixels and the "
                    f"frames before it {size[1]} x {size[0]}; real frames must have one size"
                )
            out[number] = fitted(picture, self.world.size, file.name)
        return out

    def _matches(self, numbers: Iterable[int]) -> dict[int, Path]:
        last = int(self.world.cameras.frame_id[-1])
        step = last / (len(self.files) - 1)
        found: dict[int, Path] = {}
        for number in numbers:
            index = round(number / step)
            # Nearest in both directions, or two frames would share one real frame.
            if round(index * step) == number:
                found[number] = self.files[index]
        return found


def real_reference(world: EvaluatedWorld, folder: Path, source: str = "") -> RealReference:
    """The frames of a folder of pictures, a capture, or a posed data set.

    Raises:
        NotFound: There is no such folder.
        InvalidRequest: It holds fewer than two frames, or its data set cannot be read.
    """
    from worldloom.generator.capture.readers import read_posed_folder

    posed = (folder / "transforms.json").is_file() or any(folder.glob("*.log"))
    files = read_posed_folder(folder).frames if posed else tuple(picture_files(folder))
    if len(files) < FRAMES_MIN:
        raise InvalidRequest(
            f"{folder} holds {len(files)} frame; a comparison needs at least {FRAMES_MIN}"
        )
    return RealReference(world, files, source or folder.resolve().name)


def both(reference: Reference, frames: dict[int, np.ndarray]) -> list[tuple[int, Picture, Picture]]:
    """Number, picture and reference of the frames that have one, in order."""
    wanted = reference.pictures(sorted(frames))
    return [(n, frames[n], wanted[n]) for n in sorted(wanted)]
