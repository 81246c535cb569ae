"""Triangle meshes in the world frame, with GLB in and out.

Faces are wound counter-clockwise seen from free space: the normal points to where a robot can be.
Physics engines treat triangles as one-sided, so a flipped face is a hole (spec simulation 2a).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from worldloom.scene.errors import CorruptData

GLB_MAGIC, GLB_JSON, GLB_BIN = 0x46546C67, 0x4E4F534A, 0x004E4942
GLTF_FROM_WORLD = np.array([[0.0, -1.0, 0.0], [0.0, 0.0, 1.0], [-1.0, 0.0, 0.0]], np.float32)
"""World (X forward, Y left, Z up) -> glTF (x right, y up, -z forward)."""


@dataclass(frozen=True)
class TriMesh:
    """A triangle mesh."""

    vertices: NDArray[np.float32]
    """Corner positions in the world [m], shape [v 3]."""
    faces: NDArray[np.int32]
    """Corner numbers, counter-clockwise from free space, shape [f 3]."""
    colors: NDArray[np.float32] | None = None
    """sRGB colour of each vertex 0..1, shape [v 3]."""

    @staticmethod
    def empty() -> TriMesh:
        """No triangles."""
        return TriMesh(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32))

    def corners(self) -> NDArray[np.float64]:
        """Corner positions of each face in double precision [m], shape [f 3 3]."""
        return self.vertices.astype(np.float64)[self.faces]

    def cross(self) -> NDArray[np.float64]:
        """Normal of each face times twice its area [m^2], shape [f 3]."""
        a, b, c = np.moveaxis(self.corners(), 1, 0)
        return np.cross(b - a, c - a)

    def areas(self) -> NDArray[np.float64]:
        """Area of each face [m^2], shape [f]."""
        return 0.5 * np.linalg.norm(self.cross(), axis=1)

    def normals(self) -> NDArray[np.float64]:
        """Unit normal of each face, shape [f 3]; zero for faces without area."""
        cross = self.cross()
        return cross / np.maximum(np.linalg.norm(cross, axis=1, keepdims=True), 1e-30)

    def extent(self) -> NDArray[np.float32]:
        """Box around the vertices [m], shape [2 3]; zeros when there are none."""
        if len(self.vertices) == 0:
            return np.zeros((2, 3), np.float32)
        return np.stack([self.vertices.min(0), self.vertices.max(0)])

    def select_faces(self, mask: ArrayLike) -> TriMesh:
        """The faces at `mask` (mask or integers) with only the vertices that they use."""
        faces = self.faces[np.asarray(mask)]
        used, inverse = np.unique(faces, return_inverse=True)
        colors = None if self.colors is None else self.colors[used]
        return TriMesh(self.vertices[used], inverse.reshape(-1, 3).astype(np.int32), colors)

    @staticmethod
    def concat(parts: Sequence[TriMesh]) -> TriMesh:
        """Several meshes as one; colours are kept when every part has them."""
        if not parts:
            return TriMesh.empty()
        starts = np.cumsum([0] + [len(part.vertices) for part in parts[:-1]])
        faces = [part.faces + start for part, start in zip(parts, starts, strict=True)]
        colors = [part.colors for part in parts if part.colors is not None]
        return TriMesh(
            np.concatenate([part.vertices for part in parts]),
            np.concatenate(faces).astype(np.int32),
            np.concatenate(colors) if len(colors) == len(parts) else None,
        )

    def save_glb(self, file: Path) -> None:
        """Write binary glTF 2.0 (Y up, as glTF demands), vertex colours as linear COLOR_0."""
        file.write_bytes(_glb_bytes(self))

    @staticmethod
    def load_glb(file: Path) -> TriMesh:
        """Read the first mesh of a GLB as `save_glb` writes it.

        Raises:
            CorruptData: Not a GLB, or not of that form.
        """
        data = file.read_bytes()
        if len(data) < 20 or struct.unpack_from("<I", data)[0] != GLB_MAGIC:
            raise CorruptData(f"{file} is not a binary glTF file")
        try:
            length = struct.unpack_from("<I", data, 12)[0]
            gltf = json.loads(data[20 : 20 + length])
            body = data[28 + length :]
            primitive = gltf["meshes"][0]["primitives"][0]
            points = _accessor(gltf, body, primitive["attributes"]["POSITION"])
            faces = _accessor(gltf, body, primitive["indices"]).reshape(-1, 3)
            colors = None
            if "COLOR_0" in primitive["attributes"]:
                linear = _accessor(gltf, body, primitive["attributes"]["COLOR_0"])[:, :3]
                colors = linear_to_srgb(linear.astype(np.float32))
        except (KeyError, IndexError, ValueError, struct.error) as error:
            raise CorruptData(f"{file} is not a mesh that worldloom wrote: {error}") from error
        return TriMesh(points @ GLTF_FROM_WORLD, faces.astype(np.int32), colors)


def srgb_to_linear(srgb: ArrayLike) -> NDArray[np.float32]:
    """Display-referred sRGB 0..1 -> linear light (IEC 61966-2-1)."""
    srgb = np.asarray(srgb, np.float32)
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4).astype(
        np.float32
    )


def linear_to_srgb(linear: ArrayLike) -> NDArray[np.float32]:
    """Linear light 0..1 -> display-referred sRGB (IEC 61966-2-1)."""
    linear = np.maximum(np.asarray(linear, np.float32), 0)
    curved = 1.055 * linear ** (1 / 2.4) - 0.055
    return np.where(linear <= 0.0031308, linear * 12.92, curved).astype(np.float32)


def _glb_bytes(mesh: TriMesh) -> bytes:
    points = np.ascontiguousarray(mesh.vertices @ GLTF_FROM_WORLD.T, "<f4")
    arrays: list[tuple[np.ndarray, int, str, int]] = [
        (points, 5126, "VEC3", 34962),
        (np.ascontiguousarray(mesh.faces, "<u4").reshape(-1), 5125, "SCALAR", 34963),
    ]
    attributes = {"POSITION": 0}
    if mesh.colors is not None:
        attributes["COLOR_0"] = 2
        linear = np.ascontiguousarray(srgb_to_linear(mesh.colors), "<f4")
        arrays.append((linear, 5126, "VEC3", 34962))
    views, accessors, body = [], [], b""
    for index, (array, component, shape, target) in enumerate(arrays):
        views.append(
            {"buffer": 0, "byteOffset": len(body), "byteLength": array.nbytes, "target": target}
        )
        accessors.append(
            {"bufferView": index, "componentType": component, "count": len(array), "type": shape}
        )
        body += array.tobytes()
    if len(points):
        accessors[0] |= {"min": points.min(0).tolist(), "max": points.max(0).tolist()}
    material = {"pbrMetallicRoughness": {"metallicFactor": 0.0}, "doubleSided": False}
    gltf: dict[str, Any] = {
        "asset": {"version": "2.0", "generator": "worldloom"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": "world"}],
        "materials": [material],
        "meshes": [{"primitives": [{"attributes": attributes, "indices": 1, "material": 0}]}],
        "accessors": accessors,
        "bufferViews": views,
        "buffers": [{"byteLength": len(body)}],
    }
    head = json.dumps(gltf, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 4)
    body += b"\0" * (-len(body) % 4)
    total = 12 + 8 + len(head) + 8 + len(body)
    return b"".join(
        [
            struct.pack("<III", GLB_MAGIC, 2, total),
            struct.pack("<II", len(head), GLB_JSON),
            head,
            struct.pack("<II", len(body), GLB_BIN),
            body,
        ]
    )


def _accessor(gltf: dict[str, Any], body: bytes, index: int) -> NDArray[Any]:
    accessor = gltf["accessors"][index]
    view = gltf["bufferViews"][accessor["bufferView"]]
    dtype = {5126: "<f4", 5125: "<u4"}[accessor["componentType"]]
    width = {"SCALAR": 1, "VEC3": 3}[accessor["type"]]
    flat = np.frombuffer(body, dtype, accessor["count"] * width, view.get("byteOffset", 0))
    return flat.reshape(-1, width) if width > 1 else flat
