"""Small worlds made of boxes, as meshes and as world folders."""

import io
import json
from dataclasses import dataclass
from hashlib import sha256
from types import SimpleNamespace

import numpy as np
import pytest

from worldloom.render.zbuffer import depth_of_mesh
from worldloom.scene.cameras import Cameras, intrinsics
from worldloom.scene.frame import look_at
from worldloom.scene.manifest import FileEntry, Manifest
from worldloom.scene.mesh import TriMesh
from worldloom.scene.worldfile import render_world_usda

ROOM = (6.0, 5.0, 2.6)
"""Inner size of the two rooms together [m]: x, y, z."""
DOOR = (3.0, 0.1, 3.4, 4.3, 2.05)
"""The wall between them: x of its middle, half its thickness, the door's y range and height."""
BOXES = (((1.2, 1.5, 0.4), (0.3, 0.25, 0.4)), ((4.6, 1.8, 0.45), (0.3, 0.4, 0.45)))
"""Furniture: centre and half size."""
SIZE = (160, 120)


def patch(origin, u, v, edge):
    """A rectangle of small triangles whose front is u x v."""
    origin, u, v = (np.asarray(x, float) for x in (origin, u, v))
    n, m = (max(1, int(np.ceil(np.linalg.norm(x) / edge))) for x in (u, v))
    a, b = np.meshgrid(np.linspace(0, 1, n + 1), np.linspace(0, 1, m + 1), indexing="ij")
    points = origin + a[..., None] * u + b[..., None] * v
    k = np.arange((n + 1) * (m + 1)).reshape(n + 1, m + 1)
    p, q, r, s = k[:-1, :-1], k[1:, :-1], k[1:, 1:], k[:-1, 1:]
    faces = np.stack([p, q, r, p, r, s], -1).reshape(-1, 3)
    return TriMesh(points.reshape(-1, 3).astype(np.float32), faces.astype(np.int32))


def box(low, high, *, edge=0.08, inward=False):
    """A box of small triangles facing out, or in."""
    low = np.asarray(low, float)
    x, y, z = np.diag(np.asarray(high, float) - low)
    sides = [(low, y, x), (low + z, x, y), (low, x, z), (low + y, z, x), (low, z, y),
             (low + x, y, z)]  # fmt: skip
    mesh = TriMesh.concat([patch(*side, edge) for side in sides])
    return TriMesh(mesh.vertices, mesh.faces[:, ::-1].copy()) if inward else mesh


def two_rooms(*, boxes=BOXES, edge=0.08):
    """Two rooms with a door between them."""
    x, half, y0, y1, top = DOOR
    _, depth, height = ROOM
    parts = [box((0, 0, 0), ROOM, edge=edge, inward=True)]
    walls = [((0, 0), (y0, height)), ((y1, 0), (depth, height)), ((y0, top), (y1, height))]
    for (ya, za), (yb, zb) in walls:
        parts.append(box((x - half, ya, za), (x + half, yb, zb), edge=edge))
    parts += [box(np.subtract(c, h), np.add(c, h), edge=edge) for c, h in boxes]
    return TriMesh.concat(parts)


def navigable_truth(radius, *, boxes=BOXES, step=0.01):
    """Exact area where a disc fits in the two rooms, by distance to the boxes [m^2]."""
    x, half, y0, y1, _ = DOOR
    px, py = np.meshgrid(np.arange(step / 2, ROOM[0], step), np.arange(step / 2, ROOM[1], step))
    away = np.minimum.reduce([px, ROOM[0] - px, py, ROOM[1] - py])
    solid = [((c[0], c[1]), (h[0], h[1])) for c, h in boxes]
    for low, high in ((0, y0), (y1, ROOM[1])):
        solid.append(((x, (low + high) / 2), (half, (high - low) / 2)))
    for c, h in solid:
        qx, qy = np.abs(px - c[0]) - h[0], np.abs(py - c[1]) - h[1]
        outside = np.hypot(np.maximum(qx, 0), np.maximum(qy, 0))
        away = np.minimum(away, outside + np.minimum(np.maximum(qx, qy), 0))
    return float((away >= radius).sum() * step**2)


def noisy(mesh, sigma, seed=1):
    """The mesh with independent noise on every vertex [m]."""
    offset = np.random.default_rng(seed).standard_normal(mesh.vertices.shape) * sigma
    return TriMesh((mesh.vertices + offset).astype(np.float32), mesh.faces)


def turned(mesh, degrees):
    """The mesh tilted about the y axis."""
    a = np.radians(degrees)
    tilt = np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
    return TriMesh((mesh.vertices @ tilt.T).astype(np.float32), mesh.faces)


@dataclass(frozen=True)
class View:
    """One keyframe camera."""

    eye: tuple
    target: tuple
    seen: bool = True


VIEWS = (
    View((0.4, 0.5, 1.2), (3.0, 3.5, 0.0)),
    View((2.6, 0.5, 1.2), (0.5, 4.5, 0.0)),
    View((2.0, 3.85, 1.2), (5.5, 3.85, 0.0), seen=False),
    View((5.6, 4.6, 1.2), (4.0, 0.5, 0.0), seen=False),
    View((3.5, 0.5, 1.2), (5.5, 4.5, 0.0), seen=False),
)


def keyframes_of(mesh, views=VIEWS):
    """What keyframe cameras at `views` see of a mesh, as the arrays of keyframes.npz."""
    K = intrinsics(90, *SIZE)
    c2w = np.stack([look_at(view.eye, view.target) for view in views])
    depth = np.stack([depth_of_mesh(mesh, pose, K, SIZE) for pose in c2w])
    code = np.array([1 if view.seen else 2 for view in views])[:, None, None]
    n = len(views)
    return {
        "frame_id": np.arange(n, dtype=np.int32) * 8,
        "depth": depth.astype(np.float32),
        "origin": np.where(depth > 0, code, 0).astype(np.uint8),
        "rgb": np.full((*depth.shape, 3), 128, np.uint8),
        "c2w": c2w,
        "K": np.tile(K, (n, 1, 1)),
    }


def write_world(folder, mesh, *, views=VIEWS, scale=None):
    """A complete world folder around a collider; returns its manifest."""
    pytest.importorskip("pxr")
    from worldloom.generator.layers.collider_layer import write_collider_layer

    (folder / "collision").mkdir(parents=True)
    (folder / "depth").mkdir()
    part = folder / "part.usdc"
    write_collider_layer(mesh, part)
    digest = sha256(part.read_bytes()).hexdigest()
    path = f"collision/{digest}.usdc"
    size = part.stat().st_size
    part.rename(folder / path)
    frames = keyframes_of(mesh, views)
    buffer = io.BytesIO()
    np.savez(buffer, **frames)
    (folder / "depth" / "keyframes.npz").write_bytes(buffer.getvalue())
    n = len(views)
    cameras = Cameras(
        frames["c2w"], frames["K"], np.tile(SIZE, (n, 1)), frames["frame_id"].astype(np.int64)
    )
    (folder / "cameras.npz").write_bytes(cameras.to_npz())
    scale = scale or {
        "schema": "worldloom.scale/1", "value": 1.0, "sigma": 0.02, "status": "calibrated",
        "sources": [], "up_in_photo_camera": [0.0, -1.0, 0.0], "level_rms_deg": 0.0,
    }  # fmt: skip
    (folder / "scale.json").write_text(json.dumps(scale))
    low, high = (tuple(float(v) for v in row) for row in mesh.extent())
    entry = FileEntry(path, digest, size, "collision", 0, 0, len(mesh.faces), (low, high))
    manifest = Manifest(
        world_id=sha256(mesh.vertices.tobytes()).hexdigest(), request={}, engine={"preset": "test"},
        scale=scale, chunks=1, frames=n, files=(entry,), code_version="test", complete=True,
    )  # fmt: skip
    (folder / "world.usda").write_bytes(render_world_usda(manifest))
    (folder / "manifest.json").write_bytes(manifest.to_bytes())
    return manifest


@pytest.fixture(scope="session")
def shapes():
    """The builders of this file."""
    return SimpleNamespace(
        patch=patch, box=box, two_rooms=two_rooms, navigable_truth=navigable_truth, noisy=noisy,
        turned=turned, keyframes_of=keyframes_of, write_world=write_world, View=View, VIEWS=VIEWS,
        BOXES=BOXES, ROOM=ROOM, DOOR=DOOR,
    )  # fmt: skip


@pytest.fixture(scope="session")
def rooms():
    """The two rooms as a collider."""
    return two_rooms()


@pytest.fixture(scope="session")
def world_folder(rooms, tmp_path_factory):
    """The two rooms as a world folder; tests must not change it."""
    folder = tmp_path_factory.mktemp("worlds") / "two_rooms"
    write_world(folder, rooms)
    return folder
