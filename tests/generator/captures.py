"""Small captures of truth scenes, as folders and as packed files, for tests."""

from pathlib import Path

import numpy as np
from PIL import Image

from worldloom.cli.capture import pack
from worldloom.generator.truth.render import render_view
from worldloom.generator.truth.scene import scene
from worldloom.generator.truth.walk import walkthrough
from worldloom.scene.capture import capture_layout
from worldloom.scene.frame import rigid, rotation_about

SIZE = (160, 96)
ELSEWHERE = rigid(rotation_about([1, 0.3, 0.2], 1.3), [100.0, -20.0, 7.0])
"""A world frame that is neither level nor near: captures come in such."""


class Shot:
    """Frames of a capture in memory, which a test may spoil before they are written."""

    def __init__(self, name="room", *, every=10, frames=161, size=SIZE, cameras=None):
        place = scene(name)
        if cameras is None:
            cameras = walkthrough(place, frames, size=size).select(slice(None, None, every))
        self.cameras = cameras
        self.c2w, self.K, self.up = ELSEWHERE @ cameras.c2w, cameras.K.copy(), None
        poses = zip(cameras.c2w, cameras.K, strict=True)
        views = [render_view(place, c2w, K, size) for c2w, K in poses]
        self.rgb = [view.rgb for view in views]
        self.depth = [view.depth for view in views]

    def write(self, folder: Path, *, depth=".npy", picture=".png") -> Path:
        """Write the capture's folder."""
        (folder / "frames").mkdir(parents=True)
        for i, rgb in enumerate(self.rgb):
            levels = (np.clip(rgb, 0, 1) * 255 + 0.5).astype(np.uint8)
            Image.fromarray(levels).save(folder / "frames" / f"{i:05d}{picture}")
        if depth:
            (folder / "depth").mkdir()
            for i, z in enumerate(self.depth):
                if z is not None:
                    _write_depth(folder / "depth" / f"{i:05d}{depth}", z)
        arrays = {"c2w": self.c2w, "K": self.K} | ({} if self.up is None else {"up": self.up})
        np.savez(folder / "cameras.npz", **arrays)
        return folder

    def packed(self, folder: Path, **options) -> Path:
        """Write the folder and pack it."""
        self.write(folder, **options)
        return packed(folder)


def packed(folder: Path) -> Path:
    """Pack what lies in a folder."""
    names = [str(f.relative_to(folder)) for f in sorted(folder.rglob("*")) if f.is_file()]
    archive = folder.with_suffix(".zip")
    pack(folder, capture_layout(names), archive)
    return archive


def _write_depth(file: Path, z: np.ndarray) -> None:
    if file.suffix == ".npy":
        np.save(file, z)
    else:
        Image.fromarray((1000 * z + 0.5).astype(np.uint16)).save(file)
