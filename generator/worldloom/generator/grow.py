"""One chunk's keyframes -> splats, surface, and their files: the second half of the loop."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from worldloom.generator.checkpoint import Growth
from worldloom.generator.engines import QualityLevel
from worldloom.generator.layers.collider_layer import write_collider_layer
from worldloom.generator.layers.points_layer import write_points_layer
from worldloom.generator.layers.splat_layer import split_splats, write_splat_layer
from worldloom.generator.layers.visual_layer import write_visual_layer
from worldloom.generator.publish import Publisher, extent_of
from worldloom.generator.seed import Seed
from worldloom.generator.splats.lift import Covered, lift_frames
from worldloom.generator.surface.contour import extract
from worldloom.generator.surface.fusion import TsdfVolume
from worldloom.generator.surface.tidy import (
    collider_tiles,
    decimate,
    flatten_floor,
    remove_floaters,
    visual_mesh,
)
from worldloom.generator.video.frame import Frame
from worldloom.scene.cameras import Cameras
from worldloom.scene.manifest import FileEntry
from worldloom.scene.mesh import TriMesh
from worldloom.scene.splats import Splats

VOXEL_PER_FOOTPRINT = 1.5  # Voxel over pixel footprint at near depth (spec reconstruction 4.2).
NEAR_PERCENTILE = 10  # Depth percentile that counts as near (spec reconstruction 4.2).
TRUNCATION_VOXELS = 4  # Truncation distance in voxels (spec reconstruction 4.2).
VISUAL_FACES = 400_000  # Triangles of the preview mesh; well below the splats in cost.


@dataclass(frozen=True)
class Recipe:
    """How this job turns keyframes into geometry."""

    level: QualityLevel
    collider_triangles: int
    flatten_floor_m: float = 0.0
    """Height up to which the surface near z = 0 is put onto it; 0 where the floor is free [m]."""


def start_growth(seed: Seed, level: QualityLevel) -> Growth:
    """An empty world whose voxel fits the pixels of the photo."""
    depths = seed.depth[seed.depth > 0]
    near = float(np.percentile(depths, NEAR_PERCENTILE)) if depths.size else 1.0
    voxel = float(np.clip(VOXEL_PER_FOOTPRINT * near / seed.K[0, 0], *level.voxel_m))
    nothing = Cameras(
        np.zeros((0, 4, 4)), np.zeros((0, 3, 3)), np.zeros((0, 2), int), np.zeros(0, int)
    )
    return Growth(
        volume=TsdfVolume(voxel, TRUNCATION_VOXELS * voxel),
        covered=Covered(),
        cameras=nothing,
        keyframes=[],
        files=[],
        tiles={},
        weights=seed.weights,
    )


def add_keyframes(growth: Growth, frames: list[Frame], recipe: Recipe) -> Splats:
    """Lift what is new in `frames` to splats and fuse their depth into the surface volume."""
    splats = lift_frames(frames, covered=growth.covered)
    for frame in frames:
        depth = np.where(frame.depth <= recipe.level.far_m, frame.depth, 0.0)
        growth.volume.integrate(depth.astype(np.float32), frame.rgb, frame.c2w, frame.K)
    growth.keyframes += frames
    return splats


def write_splats(growth: Growth, splats: Splats, publisher: Publisher, chunk: int) -> None:
    """Write the splats of a chunk, and their points for viewers that know no splats."""
    for tile, part in enumerate(split_splats(splats)):
        box = extent_of(part.extent())
        common = {"chunk": chunk, "tile": tile, "count": part.n, "extent": box}

        def splat_file(file: Path, part: Splats = part) -> None:
            write_splat_layer(part, file)

        def point_file(file: Path, part: Splats = part) -> None:
            write_points_layer(part.means, part.rgb(), file, widths=2 * part.scales.max(1))

        growth.files.append(publisher.immutable("splats", splat_file, **common))
        growth.files.append(publisher.immutable("points", point_file, **common))


def build_surface(growth: Growth, recipe: Recipe) -> tuple[TriMesh, TriMesh]:
    """Extract the surface so far: the collider within its budget, and the coloured preview."""
    surface = remove_floaters(extract(growth.volume))
    surface = flatten_floor(surface, recipe.flatten_floor_m)
    collider = decimate(surface, recipe.collider_triangles)
    return collider, visual_mesh(surface, VISUAL_FACES)


def write_surface(
    growth: Growth, collider: TriMesh, visual: TriMesh, publisher: Publisher, chunk: int
) -> None:
    """Write the collider tiles and the preview mesh; each supersedes the file of its place."""
    live = {e.tile: e for e in _live(growth.files) if e.kind == "collision"}
    seen = set()
    for place, mesh in collider_tiles(collider):
        key = f"{place[0]},{place[1]}"
        tile = growth.tiles.setdefault(key, len(growth.tiles))
        seen.add(tile)
        old = live.get(tile)

        def tile_file(file: Path, mesh: TriMesh = mesh) -> None:
            write_collider_layer(mesh, file)

        entry = publisher.immutable(
            "collision", tile_file, chunk=chunk, tile=tile, count=len(mesh.faces),
            extent=extent_of(mesh.extent()), supersedes=old.path if old else None,
        )  # fmt: skip
        _replace(growth.files, entry)
    # A tile whose surface was carved away has no successor: it leaves the manifest.
    gone = {live[tile].path for tile in live.keys() - seen}
    growth.files[:] = [e for e in growth.files if e.path not in gone]
    if not len(visual.faces):
        return
    previous = [e for e in _live(growth.files) if e.kind == "visual"]
    entry = publisher.immutable(
        "visual", lambda file: write_visual_layer(visual, file), chunk=chunk, tile=0,
        count=len(visual.faces), extent=extent_of(visual.extent()),
        supersedes=previous[-1].path if previous else None,
    )  # fmt: skip
    _replace(growth.files, entry)


def _live(files: list[FileEntry]) -> list[FileEntry]:
    gone = {entry.supersedes for entry in files if entry.supersedes}
    return [entry for entry in files if entry.path not in gone]


def _replace(files: list[FileEntry], entry: FileEntry) -> None:
    """Append an entry unless the same file is there already (an unchanged tile)."""
    if all(known.path != entry.path for known in files):
        files.append(entry)
