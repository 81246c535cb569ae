"""A world folder -> what navigation needs of it: collider, keyframes, scale."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from worldloom.scene.errors import CorruptData
from worldloom.scene.manifest import Manifest
from worldloom.scene.mesh import TriMesh
from worldloom.scene.worldfolder import open_world


@dataclass(frozen=True)
class Keyframes:
    """What the cameras saw: the content of `depth/keyframes.npz`."""

    frame_id: NDArray[np.int32]
    depth: NDArray[np.float32]
    """z-depth in metres, 0 = none, [k h w]."""
    origin: NDArray[np.uint8]
    """0 none, 1 seen in the photo, 2 made up, [k h w]."""
    rgb: NDArray[np.uint8]
    """sRGB, [k h w 3]."""
    c2w: NDArray[np.float64]
    """Camera to world, OpenCV axes, [k 4 4]."""
    K: NDArray[np.float64]
    """Intrinsics in pixels of these arrays, [k 3 3]."""


@dataclass(frozen=True)
class NavWorld:
    """A world that a robot is to drive in."""

    folder: Path
    manifest: Manifest
    collider: TriMesh
    """All live collider tiles, world frame."""
    tiles: tuple[Path, ...]
    """Their layer files."""

    @property
    def id(self) -> str:
        """Short name of the world for episodes and files."""
        return self.manifest.world_id[:12]

    @property
    def scale(self) -> dict[str, Any]:
        """The content of scale.json."""
        return self.manifest.scale

    @cached_property
    def collider_sha256(self) -> str:
        """One hash over the hashes of all live tiles."""
        digests = sorted(entry.sha256 for entry in self.manifest.live("collision"))
        return hashlib.sha256("\n".join(digests).encode()).hexdigest()

    @cached_property
    def keyframes(self) -> Keyframes:
        """What the generation cameras saw.

        Raises:
            CorruptData: The file is missing or damaged.
        """
        file = self.folder / "depth" / "keyframes.npz"
        try:
            with np.load(file, allow_pickle=False) as data:
                return Keyframes(**{name: data[name] for name in Keyframes.__dataclass_fields__})
        except (OSError, EOFError, BadZipFile, KeyError, ValueError) as error:
            raise CorruptData(f"{file} cannot be read ({error}); fetch the world again") from error

    @cached_property
    def run(self) -> dict[str, Any]:
        """The content of run.json; empty when there is none.

        Raises:
            CorruptData: It cannot be read.
        """
        file = self.folder / "run.json"
        try:
            return json.loads(file.read_text("utf-8")) if file.is_file() else {}
        except ValueError as error:
            raise CorruptData(f"{file} cannot be read ({error}); fetch the world again") from error


def open_navworld(folder: Path) -> NavWorld:
    """Open a world folder for navigation.

    Raises:
        NotFound: The folder holds no world.
        CorruptData: It has no collider, or a layer cannot be read.
    """
    manifest = open_world(folder)
    tiles = tuple(folder / entry.path for entry in manifest.live("collision"))
    if not tiles:
        raise CorruptData(f"world {folder} has no collider; nothing can be driven on")
    collider = TriMesh.concat([read_collider(tile) for tile in tiles])
    return NavWorld(folder, manifest, collider, tiles)


def read_collider(file: Path) -> TriMesh:
    """Triangles of a collision layer, in world axes.

    Raises:
        CorruptData: The layer is missing or holds no triangle mesh.
    """
    from pxr import Tf, Usd, UsdGeom

    try:
        stage = Usd.Stage.Open(str(file))
    except Tf.ErrorException as error:
        raise CorruptData(f"collision layer {file} cannot be opened: {error}") from error
    meshes = [UsdGeom.Mesh(prim) for prim in stage.Traverse() if prim.IsA(UsdGeom.Mesh)]
    if not meshes:
        raise CorruptData(f"collision layer {file} has no mesh; fetch the world again")
    return TriMesh.concat([_triangles(mesh, file) for mesh in meshes])


def _triangles(mesh: Any, file: Path) -> TriMesh:
    points = np.array(mesh.GetPointsAttr().Get() or [], np.float32).reshape(-1, 3)
    faces = np.array(mesh.GetFaceVertexIndicesAttr().Get() or [], np.int32)
    counts = np.array(mesh.GetFaceVertexCountsAttr().Get() or [], np.int32)
    whole = len(points) and len(counts) and (counts == 3).all() and len(faces) == 3 * len(counts)
    if not whole or faces.min() < 0 or faces.max() >= len(points) or not np.isfinite(points).all():
        raise CorruptData(
            f"collision layer {file.name} is not made of finite triangles; fetch the world again"
        )
    return TriMesh(points, faces.reshape(-1, 3))
