"""The surface so far -> collider tiles and the coloured preview mesh, as layer files."""

from __future__ import annotations

from pathlib import Path

from worldloom.generator.checkpoint import Growth
from worldloom.generator.grow import Recipe
from worldloom.generator.layers.collider_layer import write_collider_layer
from worldloom.generator.layers.visual_layer import write_visual_layer
from worldloom.generator.publish import Publisher, extent_of
from worldloom.generator.surface.contour import extract
from worldloom.generator.surface.tidy import (
    collider_tiles,
    decimate,
    flatten_floor,
    remove_floaters,
    visual_mesh,
)
from worldloom.scene.manifest import FileEntry
from worldloom.scene.mesh import TriMesh

VISUAL_FACES = 400_000  # Triangles of the preview mesh; well below the splats in cost.


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
