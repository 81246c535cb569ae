"""The surface so far -> collider tiles and the coloured preview mesh, as layer files."""

from __future__ import annotations

import logging
from pathlib import Path

from worldloom.generator.checkpoint import Growth
from worldloom.generator.grow import Recipe
from worldloom.generator.layers.collider_layer import write_collider_layer
from worldloom.generator.layers.visual_layer import write_visual_layer
from worldloom.generator.publish import Publisher, extent_of
from worldloom.generator.surface.backs import surface_without_backs
from worldloom.generator.surface.cleanup import (
    drop_dust,
    flatten_floor,
    without_slivers,
)
from worldloom.generator.surface.extract import extract_surface
from worldloom.generator.surface.holes import close_holes
from worldloom.generator.surface.simplify import simplify
from worldloom.generator.surface.tiles import Tiles, collider_tiles
from worldloom.scene.manifest import FileEntry, live_entries
from worldloom.scene.mesh import TriMesh

LOGGER = logging.getLogger(__name__)
VISUAL_FACES = 400_000  # Triangles of the preview mesh; well below the splats in cost.
VISUAL_BOUND_VOXELS = 0.25  # Error of the preview mesh at which its budget begins to bite.


def build_surface(growth: Growth, recipe: Recipe) -> tuple[Tiles, TriMesh]:
    """Extract the surface so far: collider tiles within their budget, and the coloured preview."""
    volume = growth.volume
    surface = drop_dust(extract_surface(volume))
    surface = close_holes(surface, volume.observed)
    surface = surface_without_backs(surface, growth.keyframes)
    surface = without_slivers(flatten_floor(surface, recipe.flatten_floor_m))
    if volume.coarsened:
        LOGGER.warning(
            "the surface was made coarser %d times to stay within %d blocks; voxel now %.3f m",
            volume.coarsened, volume.plan.max_blocks, volume.plan.voxel,
        )  # fmt: skip
    tiles = collider_tiles(
        surface, growth.keyframes,
        budget=recipe.collider_triangles, far_level=volume.plan.far_level,
    )  # fmt: skip
    if len(surface.mesh.faces) <= VISUAL_FACES:
        return tiles, surface.mesh
    bound = VISUAL_BOUND_VOXELS * volume.plan.voxel
    return tiles, simplify(surface.mesh, bound, target=VISUAL_FACES).mesh


def write_surface(
    growth: Growth, collider: Tiles, visual: TriMesh, publisher: Publisher, chunk: int
) -> None:
    """Write the collider tiles and the preview mesh; each supersedes the file of its place."""
    live = {e.tile: e for e in live_entries(growth.files) if e.kind == "collision"}
    seen = set()
    for place, mesh in collider:
        tile = growth.tiles.setdefault(place, len(growth.tiles))
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
    previous = [e for e in live_entries(growth.files) if e.kind == "visual"]
    entry = publisher.immutable(
        "visual", lambda file: write_visual_layer(visual, file), chunk=chunk, tile=0,
        count=len(visual.faces), extent=extent_of(visual.extent()),
        supersedes=previous[-1].path if previous else None,
    )  # fmt: skip
    _replace(growth.files, entry)


def _replace(files: list[FileEntry], entry: FileEntry) -> None:
    """Append an entry unless the same file is there already (an unchanged tile)."""
    if all(known.path != entry.path for known in files):
        files.append(entry)
