"""Shapes of a scene file -> convex solids: boxes turned about the vertical, and upright cylinders.

A scene is the union of its solids and free space is the rest. Rooms and walls with doorways are
several boxes, so that ray casting, distances and the mesh need to know two kinds only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

BOX, CYLINDER = 0, 1
FACES = ("back", "front", "right", "left", "bottom", "top", "side")
"""Faces by number: -x, +x, -y, +y, -z, +z of a solid's own axes, and a cylinder's mantle."""
BOTTOM, TOP, SIDE = 4, 5, 6
FACE_SLOTS = 8
"""Surface number = FACE_SLOTS * solid + face."""
WALL_M = 0.15  # Thickness of a room's walls, floor and ceiling unless the file says otherwise.


@dataclass(frozen=True)
class Solid:
    """One convex solid."""

    name: str
    kind: int
    """BOX or CYLINDER."""
    centre: tuple[float, float, float]
    """Middle of the solid in the world [m]."""
    half: tuple[float, float, float]
    """Half extents along its own axes [m]; a cylinder has (radius, radius, half height)."""
    yaw_rad: float
    """Turn about the vertical."""
    materials: tuple[str, ...]
    """Material name of each of the 7 faces."""

    def planes(self, facets: int) -> NDArray[np.float64]:
        """Half-spaces (n, d) with n.x <= d inside, shape [p 4]; mantles have `facets` planes."""
        if self.kind == BOX:
            around = self.yaw_rad + np.array([math.pi, 0.0, -math.pi / 2, math.pi / 2])
            reach = np.array([self.half[0], self.half[0], self.half[1], self.half[1]])
        else:
            around = (np.arange(facets) + 0.5) * 2 * math.pi / facets
            reach = np.full(facets, self.half[0] * math.cos(math.pi / facets))
        level = np.stack([np.cos(around), np.sin(around), np.zeros_like(around)], -1)
        normals = np.concatenate([level, [[0.0, 0.0, -1.0], [0.0, 0.0, 1.0]]])
        reach = np.concatenate([reach, [self.half[2], self.half[2]]])
        return np.column_stack([normals, normals @ np.array(self.centre) + reach])


class SolidArrays(NamedTuple):
    """The solids as arrays for compiled loops."""

    kind: NDArray[np.int64]
    """BOX or CYLINDER, shape [s]."""
    centre: NDArray[np.float64]
    """World [m], shape [s 3]."""
    half: NDArray[np.float64]
    """Half extents in own axes [m], shape [s 3]."""
    turn: NDArray[np.float64]
    """Cosine and sine of the yaw, shape [s 2]."""
    material: NDArray[np.int64]
    """Material number of each face, shape [s 7]."""


def pack(solids: tuple[Solid, ...], material_names: list[str]) -> SolidArrays:
    """Solids as arrays; materials become their place in `material_names`."""
    return SolidArrays(
        np.array([s.kind for s in solids], np.int64),
        np.array([s.centre for s in solids], float),
        np.array([s.half for s in solids], float),
        np.array([(math.cos(s.yaw_rad), math.sin(s.yaw_rad)) for s in solids]),
        np.array([[material_names.index(m) for m in s.materials] for s in solids], np.int64),
    )


def build(item: dict[str, Any]) -> list[Solid]:
    """The solids of one entry of a scene file.

    Raises:
        KeyError: The entry lacks a field or its shape is unknown.
    """
    shapes = {
        "box": _box, "step": _box, "cylinder": _cylinder, "room": _room, "wall": _wall,
        "table": _table,
    }  # fmt: skip
    return shapes[item["shape"]](item)


def _same(material: str) -> tuple[str, ...]:
    return (material,) * len(FACES)


def _span(name: str, low: Any, high: Any, material: str) -> Solid:
    low, high = np.asarray(low, float), np.asarray(high, float)
    centre, half = (low + high) / 2, (high - low) / 2
    return Solid(name, BOX, tuple(centre.tolist()), tuple(half.tolist()), 0.0, _same(material))


def _box(item: dict[str, Any]) -> list[Solid]:
    solid = _span(item["name"], item["min"], item["max"], item["material"])
    faces = list(solid.materials)
    for face, material in item.get("faces", {}).items():
        faces[FACES.index(face)] = material
    yaw = math.radians(item.get("yaw_deg", 0.0))
    return [replace(solid, yaw_rad=yaw, materials=tuple(faces))]


def _cylinder(item: dict[str, Any]) -> list[Solid]:
    low, high = item["z"]
    x, y = item["at"]
    radius = float(item["radius"])
    centre = (float(x), float(y), (low + high) / 2)
    half = (radius, radius, (high - low) / 2)
    return [Solid(item["name"], CYLINDER, centre, half, 0.0, _same(item["material"]))]


def _room(item: dict[str, Any]) -> list[Solid]:
    """Floor, ceiling and four walls around an empty box."""
    (x0, y0, z0), (x1, y1, z1) = item["min"], item["max"]
    t = item.get("thickness", WALL_M)
    name, wall = item["name"], item["wall"]
    low, high = (x0 - t, y0 - t), (x1 + t, y1 + t)
    parts = {
        "floor": ((*low, z0 - t), (*high, z0), item["floor"]),
        "ceiling": ((*low, z1), (*high, z1 + t), item["ceiling"]),
        "back": ((x0 - t, low[1], z0), (x0, high[1], z1), wall),
        "front": ((x1, low[1], z0), (x1 + t, high[1], z1), wall),
        "right": ((x0, y0 - t, z0), (x1, y0, z1), wall),
        "left": ((x0, y1, z0), (x1, y1 + t, z1), wall),
    }
    return [_span(f"{name}.{part}", *value) for part, value in parts.items()]


def _wall(item: dict[str, Any]) -> list[Solid]:
    """An upright wall along one axis, with openings (doorways; windows have a sill)."""
    axis = 0 if item["along"] == "x" else 1
    start, end = item["span"]
    low, high = item["z"]
    side = item["at"] - item["thickness"] / 2, item["at"] + item["thickness"] / 2

    def piece(part: str, a: float, b: float, bottom: float, top: float) -> Solid:
        corners = ([a, side[0], bottom], [b, side[1], top])
        if axis == 1:
            corners = tuple([c[1], c[0], c[2]] for c in corners)
        return _span(f"{item['name']}.{part}", *corners, item["material"])

    out, at = [], start
    for number, opening in enumerate(item["openings"]):
        a, b = opening["from"], opening["from"] + opening["width"]
        sill, head = opening.get("sill", low), opening["head"]
        out.append(piece(f"pier{number}", at, a, low, high))
        out.append(piece(f"lintel{number}", a, b, head, high))
        if sill > low:
            out.append(piece(f"sill{number}", a, b, low, sill))
        at = b
    return [*out, piece("pier", at, end, low, high)]


def _table(item: dict[str, Any]) -> list[Solid]:
    """A board on four legs."""
    (x0, y0), (x1, y1) = item["min"], item["max"]
    low, high = item["z"]
    board = high - item["board"]
    leg, inset = item["leg"], item["leg"] / 2 + 0.02
    out = [_span(f"{item['name']}.board", (x0, y0, board), (x1, y1, high), item["material"])]
    corners = [(x, y) for x in (x0 + inset, x1 - inset) for y in (y0 + inset, y1 - inset)]
    for number, (x, y) in enumerate(corners):
        corner = (x - leg / 2, y - leg / 2, low), (x + leg / 2, y + leg / 2, board)
        out.append(_span(f"{item['name']}.leg{number}", *corner, item["leg_material"]))
    return out
