"""Splats -> layer files of the world: chunk by chunk, and all anew when they were refined."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from worldloom.generator.checkpoint import Growth
from worldloom.generator.layers.points_layer import write_points_layer
from worldloom.generator.layers.read import read_placed_splats
from worldloom.generator.layers.splat_layer import split_splats, write_splat_layer
from worldloom.generator.publish import Publisher, extent_of
from worldloom.generator.splats.refine import refine_splats
from worldloom.scene.manifest import FileEntry, live_entries
from worldloom.scene.splats import Splats


def write_splats(growth: Growth, splats: Splats, publisher: Publisher, chunk: int) -> None:
    """Write the splats of a chunk, and their points for viewers that know no splats."""
    for tile, part in enumerate(split_splats(splats)):
        growth.files += _write_part(part, publisher, chunk, tile, {})


def refine_files(
    growth: Growth,
    publisher: Publisher,
    *,
    steps: int,
    seed: int,
    on_step: Callable[[int, int], None],
    cancelled: Callable[[], bool],
) -> None:
    """Fit all splats of the world to its keyframes; each file is superseded by a refined one.

    Raises:
        JobCancelled: `cancelled` became true; nothing was changed.
        StorageFull: No space is left.
    """
    live = live_entries(growth.files)
    old = [e for e in live if e.kind == "splats"]
    points = {(e.chunk, e.tile): e.path for e in live if e.kind == "points"}
    parts = [read_placed_splats(publisher.world, entry) for entry in old]
    refined = refine_splats(
        Splats.concat(parts), growth.keyframes, steps=steps, seed=seed,
        on_step=on_step, cancelled=cancelled,
    )  # fmt: skip
    ends = np.cumsum([part.n for part in parts])
    for entry, end, part in zip(old, ends, parts, strict=True):
        supersedes = {"splats": entry.path, "points": points.get((entry.chunk, entry.tile))}
        fitted = refined.select(slice(int(end) - part.n, int(end)))
        growth.files += _write_part(
            fitted, publisher, entry.chunk or 0, entry.tile or 0, supersedes
        )
    if growth.placement is not None:
        # The refined files stand where the keyframes stand now: later moves count from here.
        growth.placement = replace(growth.placement, lifted=growth.placement.now)


def _write_part(
    part: Splats, publisher: Publisher, chunk: int, tile: int, supersedes: Mapping[str, str | None]
) -> list[FileEntry]:
    common = {"chunk": chunk, "tile": tile, "count": part.n, "extent": extent_of(part.extent())}

    def point_file(file: Path) -> None:
        write_points_layer(part.means, part.rgb(), file, widths=2 * part.scales.max(1))

    writers = {"splats": lambda file: write_splat_layer(part, file), "points": point_file}
    return [
        publisher.immutable(kind, write, supersedes=supersedes.get(kind), **common)
        for kind, write in writers.items()
    ]
