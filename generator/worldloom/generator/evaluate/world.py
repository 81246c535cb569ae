"""A world folder -> what the evaluation needs of it: frames, cameras, keyframes, splats, costs."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from worldloom.generator.evaluate.correspond import DepthView
from worldloom.generator.evaluate.frames import Frame
from worldloom.generator.videofile import read_frames
from worldloom.scene.cameras import Cameras
from worldloom.scene.errors import CorruptData, InvalidRequest, NotFound
from worldloom.scene.manifest import Manifest
from worldloom.scene.mesh import TriMesh
from worldloom.scene.splats import Splats
from worldloom.scene.worldfolder import MANIFEST, open_world

JOB_WORLD = "world"
"""Name of the world's folder in the work folder of a job, as `bench truth --out` leaves it."""
HELD_OUT_STRIDE, HELD_OUT_PHASE = 8, 4
"""Held-out frames are every 8th, half-way between the keyframes (spec reconstruction 5.5)."""


@dataclass(frozen=True)
class EvaluatedWorld:
    """A world that is to be judged."""

    folder: Path
    manifest: Manifest
    cameras: Cameras
    """Commanded cameras of all frames, the photo's first."""
    video_id: NDArray[np.int64]
    """Number of each frame of the videos, in their order, [v]."""
    keyframe_id: NDArray[np.int64]
    """Number of each keyframe, [k]."""
    views: tuple[DepthView, ...]
    """Depth and cameras of the keyframes as the world has them."""

    @property
    def name(self) -> str:
        """What reports call it: its folder, or that of its job."""
        folder = self.folder.resolve()
        return folder.parent.name if folder.name == JOB_WORLD else folder.name

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the videos' frames [px]."""
        return int(self.cameras.size[0, 0]), int(self.cameras.size[0, 1])

    @property
    def pixel(self) -> float:
        """Pixels of the video in one pixel of the keyframes' depth."""
        return float(round(self.size[0] / self.views[0].depth.shape[1]))

    @property
    def scene(self) -> str | None:
        """Name of the truth scene that engine `truth` made it of, its noise included."""
        return self.manifest.request.get("scene")

    @cached_property
    def median_depth(self) -> float:
        """Median depth of all keyframes [m]; 0 where none has depth."""
        parts = [view.depth[view.depth > 0] for view in self.views]
        every = np.concatenate(parts)
        return float(np.median(every)) if every.size else 0.0

    @cached_property
    def splats(self) -> Splats:
        """All live splats where they stand, chunks moved by a loop closure included.

        Raises:
            CorruptData: A layer cannot be read, or there is none.
        """
        from worldloom.generator.layers.read import read_world_splats

        if not self.manifest.live("splats"):
            raise CorruptData(f"world {self.folder} has no splats; generate it again")
        return read_world_splats(self.folder, self.manifest)

    @cached_property
    def collider(self) -> TriMesh:
        """All live collider tiles.

        Raises:
            CorruptData: A layer cannot be read, or there is none.
        """
        from worldloom.generator.layers.read import read_mesh_layer

        entries = self.manifest.live("collision")
        if not entries:
            raise CorruptData(f"world {self.folder} has no collider; generate it again")
        return TriMesh.concat([read_mesh_layer(self.folder / e.path) for e in entries])

    @cached_property
    def run(self) -> dict[str, Any]:
        """The content of run.json; empty where there is none.

        Raises:
            CorruptData: It cannot be read.
        """
        file = self.folder / "run.json"
        try:
            found = json.loads(file.read_text("utf-8")) if file.is_file() else {}
        except ValueError as error:
            raise CorruptData(f"{file} cannot be read ({error}); fetch the world again") from error
        return found if isinstance(found, dict) else {}

    def held_out(self, most: int) -> list[int]:
        """Numbers of up to `most` frames that no keyframe is, spread evenly; 0 = all."""
        between = self.video_id % HELD_OUT_STRIDE == HELD_OUT_PHASE
        numbers = self.video_id[between & ~np.isin(self.video_id, self.keyframe_id)]
        return spread(numbers.tolist(), most)

    def row(self, number: int) -> int:
        """Row of the cameras that holds frame `number`."""
        return int(np.nonzero(self.cameras.frame_id == number)[0][0])

    def frames(self, numbers: Iterable[int]) -> dict[int, Frame]:
        """Frames of the videos by number.

        Raises:
            CorruptData: A video cannot be decoded, or holds fewer frames than it should.
        """
        wanted, found, at = set(numbers), {}, 0
        for entry in self.manifest.live("video"):
            if not wanted & set(self.video_id[at : at + entry.count].tolist()):
                at += entry.count
                continue
            for k, frame in enumerate(read_frames(self.folder / entry.path)):
                number = int(self.video_id[at + k]) if k < entry.count else -1
                if number in wanted:
                    found[number] = frame
            at += entry.count
        if missing := sorted(wanted - set(found)):
            raise CorruptData(
                f"the videos of {self.folder} lack {len(missing)} frames, the first is "
                f"{missing[0]}; fetch the world again"
            )
        return found


def spread(numbers: list[int], most: int) -> list[int]:
    """Up to `most` of the numbers, spread evenly over them; 0 = all."""
    if most <= 0 or len(numbers) <= most:
        return numbers
    return [numbers[int(k)] for k in np.linspace(0, len(numbers) - 1, most).round()]


def find_worlds(folder: Path) -> list[Path]:
    """The world folder itself, or the world folders in it.

    Raises:
        NotFound: There is none.
    """
    if (folder / MANIFEST).is_file():
        return [folder]
    inside = sorted(p.parent for p in folder.glob(f"*/{MANIFEST}")) if folder.is_dir() else []
    # Worlds of `bench truth --out` lie one level deeper, in the work folder of their job.
    inside += sorted(p.parent for p in folder.glob(f"*/{JOB_WORLD}/{MANIFEST}"))
    if not inside:
        raise NotFound(
            f"{folder} holds no world ({MANIFEST} is missing in it and in its folders); "
            "make one with 'worldloom generate'"
        )
    return inside


def open_evaluated(folder: Path) -> EvaluatedWorld:
    """Open a world for evaluation.

    Raises:
        NotFound: The folder holds no world.
        InvalidRequest: The world has no video: it is only a seed.
        CorruptData: Its files contradict each other or cannot be read.
    """
    manifest = open_world(folder)
    cameras = Cameras.load(folder / "cameras.npz")
    # Videos have even sides: an odd last row or column was cropped away, which moves no pixel.
    cameras = replace(cameras, size=cameras.size // 2 * 2)
    videos = manifest.live("video")
    if not videos:
        raise InvalidRequest(
            f"world {folder} has no video ({manifest.frames} frame(s), {manifest.chunks} chunks); "
            "evaluation compares video frames. Make the whole world with 'worldloom generate'"
        )
    count = sum(entry.count for entry in videos)
    # Chunks begin behind the photo, which is frame 0 and in no video.
    if count not in (cameras.n, cameras.n - 1):
        raise CorruptData(
            f"the videos of {folder} hold {count} frames and cameras.npz {cameras.n} cameras; "
            f"there must be {cameras.n - 1} frames behind the photo. Fetch the world again"
        )
    keyframe_id, views = _keyframes(folder / "depth" / "keyframes.npz")
    return EvaluatedWorld(
        folder, manifest, cameras, cameras.frame_id[cameras.n - count :], keyframe_id, views
    )


def _keyframes(file: Path) -> tuple[NDArray[np.int64], tuple[DepthView, ...]]:
    try:
        with np.load(file, allow_pickle=False) as data:
            numbers = np.asarray(data["frame_id"], np.int64)
            arrays = [np.asarray(data[name]) for name in ("depth", "K", "c2w")]
    except (OSError, EOFError, BadZipFile, KeyError, ValueError) as error:
        raise CorruptData(f"{file} cannot be read ({error}); fetch the world again") from error
    if not len(numbers) or any(len(array) != len(numbers) for array in arrays):
        raise CorruptData(f"{file} has no keyframes, or arrays of different lengths")
    return numbers, tuple(DepthView(*parts) for parts in zip(*arrays, strict=True))
