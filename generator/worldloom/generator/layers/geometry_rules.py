"""Splats, collider and cameras of a world -> what would make a robot or a renderer fail.

No validator checks these: that triangles face the cameras that saw them, that splats and collider
are the same place, that both fit their budgets.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from worldloom.generator.layers.splat_layer import SPLATS_PER_FILE, check_splats
from worldloom.render.zbuffer import view_mesh
from worldloom.scene.cameras import Cameras, pixel_rays
from worldloom.scene.errors import CorruptData
from worldloom.scene.mesh import TriMesh
from worldloom.scene.splats import Splats

TRIANGLES_PER_TILE = 50_000  # What one collider tile may hold (surface.tidy cuts at this).
WINDING_VIEWS = 8  # Cameras from which the winding is looked at.
WINDING_WIDTH = 160  # Pixels across in those views: a flipped triangle of a few cm shows.
BACK_SHARE = 0.05
"""Share of pixels that may show the back of a triangle: thin rims, never a whole wall or floor."""
REGISTRATION_M = 0.25
"""The collider's 90th percentile distance to the nearest splat [m]. Both come from the same depth,
so a few centimetres are normal; more means that one of them was moved or scaled."""
REGISTRATION_SAMPLES = 4000

Finding = tuple[str, str]
"""Rule and message."""


def splat_findings(splats: Splats, count: int) -> Iterator[Finding]:
    """What is wrong with one chunk file whose manifest entry counts `count` splats."""
    try:
        check_splats(splats)
    except CorruptData as error:
        yield "splat values", str(error)
    if splats.n > SPLATS_PER_FILE:
        yield "splat budget", f"{splats.n} splats in one file; the limit is {SPLATS_PER_FILE}"
    if splats.n != count:
        yield "count", f"holds {splats.n} splats; the manifest says {count}"


def tile_findings(mesh: TriMesh, count: int) -> Iterator[Finding]:
    """What is wrong with one collider tile whose manifest entry counts `count` triangles."""
    bad = int((~np.isfinite(mesh.vertices)).any(1).sum())
    if bad:
        yield "finite", f"{bad} of {len(mesh.vertices)} vertices are not finite"
        return
    faces = mesh.faces
    if len(faces) and not (faces.min() >= 0 and faces.max() < len(mesh.vertices)):
        yield "topology", f"faces name vertices up to {faces.max()} of {len(mesh.vertices)}"
        return
    flat = int((mesh.areas() == 0).sum())
    if flat:
        yield "zero area", f"{flat} of {len(faces)} triangles have no area"
    if len(faces) > TRIANGLES_PER_TILE:
        yield "triangle budget", f"{len(faces)} triangles in one tile; limit {TRIANGLES_PER_TILE}"
    if len(faces) != count:
        yield "count", f"holds {len(faces)} triangles; the manifest says {count}"


def winding_findings(mesh: TriMesh, cameras: Cameras) -> Iterator[Finding]:
    """Whether the cameras, which stood in free space, see the front of the collider."""
    share = back_share(mesh, cameras)
    if share > BACK_SHARE:
        yield (
            "winding",
            f"{share:.0%} of what the cameras see of the collider is the back of triangles "
            f"(limit {BACK_SHARE:.0%}); robots would fall or drive through it",
        )


def back_share(mesh: TriMesh, cameras: Cameras) -> float:
    """Share of collider pixels, over a few cameras, that show a triangle from behind; 0 if none."""
    chosen = np.unique(np.linspace(0, cameras.n - 1, WINDING_VIEWS).round().astype(int))
    normals = mesh.normals()
    back = seen = 0
    for index in chosen:
        width, height = (int(x) for x in cameras.size[index])
        size = (WINDING_WIDTH, max(1, round(WINDING_WIDTH * height / width)))
        view = cameras.select([index]).scaled(*size)
        face = view_mesh(mesh, view.c2w[0], view.K[0], size).face
        rays = pixel_rays(view.K[0], *size) @ view.c2w[0, :3, :3].T
        facing = np.sum(normals[np.maximum(face, 0)] * rays, -1)
        back += int(((facing > 0) & (face >= 0)).sum())
        seen += int((face >= 0).sum())
    return back / max(seen, 1)


def registration_findings(splats: Splats, mesh: TriMesh) -> Iterator[Finding]:
    """Whether splats and collider are in the same place and of the same size."""
    distance = registration(splats, mesh)
    if distance > REGISTRATION_M:
        yield (
            "registration",
            f"a tenth of the collider is further than {distance:.2f} m from every splat (limit "
            f"{REGISTRATION_M} m); the two are not the same place or not the same scale",
        )


def registration(splats: Splats, mesh: TriMesh) -> float:
    """90th percentile over the collider's surface of the distance to the nearest splat [m]."""
    from scipy.spatial import cKDTree

    areas = mesh.areas()
    if splats.n == 0 or areas.sum() == 0:
        return 0.0
    # Evenly spaced along the summed area: by area, and the same on every run.
    steps = (np.arange(REGISTRATION_SAMPLES) + 0.5) / REGISTRATION_SAMPLES
    faces = np.searchsorted(np.cumsum(areas), steps * areas.sum())
    rng = np.random.default_rng(0)
    u, v = rng.random((2, REGISTRATION_SAMPLES))
    root = np.sqrt(u)
    weights = np.stack([1 - root, root * (1 - v), root * v], -1)
    samples = np.einsum("nk,nkd->nd", weights, mesh.corners()[np.minimum(faces, len(areas) - 1)])
    return float(np.percentile(cKDTree(splats.means).query(samples)[0], 90))
