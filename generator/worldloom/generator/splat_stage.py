"""A chunk's splats -> layer files of the world."""

from __future__ import annotations

from pathlib import Path

from worldloom.generator.checkpoint import Growth
from worldloom.generator.layers.points_layer import write_points_layer
from worldloom.generator.layers.splat_layer import split_splats, write_splat_layer
from worldloom.generator.publish import Publisher, extent_of
from worldloom.scene.splats import Splats


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
