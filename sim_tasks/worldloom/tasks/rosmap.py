"""A navigation grid -> the trinary map of ROS 2 nav2 (and MobilityGen), and back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldloom.scene.errors import CorruptData
from worldloom.scene.worldfolder import write_whole
from worldloom.tasks.navgrid import NavGrid

FREE, UNKNOWN, OCCUPIED = 254, 205, 0  # Grey levels of nav2's trinary writer (spec 2.3).
FREE_THRESH, OCCUPIED_THRESH = 0.196, 0.65  # Its thresholds; 205 is p = 0.19608, just unknown.


@dataclass(frozen=True)
class RosMap:
    """A map as nav2 holds it."""

    cells: NDArray[np.int8]
    """100 occupied, 0 free, -1 unknown; row 0 at the lowest y, [ny nx]."""
    resolution: float
    """Side of a cell [m]."""
    origin_xy: tuple[float, float]
    """World x, y of the lower left corner [m]."""


def write_ros_map(grid: NavGrid, folder: Path, *, floor: int = 0) -> list[Path]:
    """Write `floor<k>.pgm` and `floor<k>.yaml`; the map is of obstacles, not inflated.

    A cell is occupied where something stands that the robot would hit or where a step is too
    high, free where a camera saw clear floor, and unknown everywhere else.

    Raises:
        StorageUnwritable: The folder cannot be written.
    """
    level = grid.floors[floor]
    image = np.full(level.z.shape, UNKNOWN, np.uint8)
    may_enter = level.observed | (grid.params.boundary == "open")
    image[~np.isnan(level.z) & may_enter] = FREE
    image[level.blocked] = OCCUPIED
    header = f"P5\n{image.shape[1]} {image.shape[0]}\n255\n".encode()
    pgm, yaml = folder / f"floor{floor}.pgm", folder / f"floor{floor}.yaml"
    # Image rows run from the top, which is the largest y.
    write_whole(pgm, header + image[::-1].tobytes())
    text = (
        f"image: {pgm.name}\nmode: trinary\nresolution: {grid.cell:g}\n"
        f"origin: [{grid.origin_xy[0]:.9g}, {grid.origin_xy[1]:.9g}, 0]\nnegate: 0\n"
        f"occupied_thresh: {OCCUPIED_THRESH}\nfree_thresh: {FREE_THRESH}\n"
    )
    write_whole(yaml, text.encode())
    return [pgm, yaml]


def read_ros_map(yaml: Path) -> RosMap:
    """Read a trinary map the way nav2's map_io does.

    Raises:
        CorruptData: A file is missing or malformed.
    """
    from omegaconf import OmegaConf
    from PIL import Image

    try:
        meta: Any = OmegaConf.to_container(OmegaConf.load(yaml))
        with Image.open(yaml.parent / meta["image"]) as image:
            grey = np.asarray(image.convert("L"), float)[::-1]
        p = grey / 255 if meta["negate"] else (255 - grey) / 255
        cells = np.full(p.shape, -1, np.int8)
        cells[p >= meta["occupied_thresh"]] = 100
        cells[p <= meta["free_thresh"]] = 0
        x, y, _ = meta["origin"]
        return RosMap(cells, float(meta["resolution"]), (float(x), float(y)))
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise CorruptData(f"{yaml} is no ROS map: {error}") from error
