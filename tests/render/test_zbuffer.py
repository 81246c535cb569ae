"""Triangles are drawn where their points project, clipped near, nearest first."""

import numpy as np

from worldloom.render.zbuffer import depth_of_mesh, shade_mesh, view_mesh
from worldloom.scene.cameras import intrinsics, pixel_rays
from worldloom.scene.frame import look_at
from worldloom.scene.mesh import TriMesh

SIZE = (120, 80)
K = intrinsics(75.0, *SIZE)
EYE = np.array([0.0, 0.0, 1.1])
CAMERA = look_at(EYE, [3.0, 0.2, 0.5])


def floor(side=20.0, z=0.0):
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * side
    vertices = np.concatenate([corners, np.full((4, 1), z)], 1).astype(np.float32)
    return TriMesh(vertices, np.array([[0, 1, 2], [0, 2, 3]], np.int32), None)


def wall(x, y0, y1, z0=0.0, z1=2.0):
    vertices = np.array([[x, y0, z0], [x, y1, z0], [x, y1, z1], [x, y0, z1]], np.float32)
    return TriMesh(vertices, np.array([[0, 2, 1], [0, 3, 2]], np.int32), None)


def test_depth_of_a_plane_is_exact_even_under_the_camera_and_to_the_horizon():
    rays = pixel_rays(K, *SIZE) @ CAMERA[:3, :3].T
    with np.errstate(divide="ignore"):
        expected = np.where(rays[..., 2] < 0, -EYE[2] / rays[..., 2], 0)
    # The corners of the floor lie behind the camera: they must be clipped, not mirrored.
    depth = depth_of_mesh(floor(1000.0), CAMERA, K, SIZE)
    near = (expected > 0) & (expected < 100)
    assert near.mean() > 0.5
    assert np.abs(depth[near] / expected[near] - 1).max() < 1e-4
    assert np.all(depth[rays[..., 2] > 0] == 0)


def test_left_is_left_and_the_nearest_face_wins():
    scene = TriMesh.concat([wall(4.0, -5, 5), wall(3.0, 0.5, 1.0), wall(5.0, -3, 3)])
    view = view_mesh(scene, look_at([0, 0, 1.0], [1, 0, 1.0]), K, SIZE)
    seen = np.unique(view.face // 2)
    assert set(seen) == {-1, 0, 1}
    columns = np.nonzero(view.face // 2 == 1)[1]
    assert columns.max() < SIZE[0] / 2
    assert np.allclose(view.depth[view.face // 2 == 1], 3.0, atol=1e-5)
    assert np.allclose(view.depth[view.face // 2 == 0], 4.0, atol=1e-5)


def test_shared_edges_leave_no_gap():
    steps = np.linspace(-4, 4, 40)
    y, z = np.meshgrid(steps, steps + 1, indexing="ij")
    vertices = np.stack([np.full(y.shape, 4.0), y, z], -1).reshape(-1, 3).astype(np.float32)
    index = np.arange(len(vertices)).reshape(40, 40)
    a, b, c, d = index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]
    quads = [np.stack(t, -1).reshape(-1, 3) for t in ((a, c, b), (a, d, c))]
    mesh = TriMesh(vertices, np.concatenate(quads).astype(np.int32), None)
    depth = depth_of_mesh(mesh, look_at([0, 0, 1.0], [1, 0.03, 1.02]), K, SIZE)
    assert (depth > 0).all()


def test_back_faces_are_shaded_red():
    front = wall(3.0, -5, 5, -5, 5)
    back = TriMesh(front.vertices, front.faces[:, ::-1].copy(), None)
    camera = look_at([0, 0, 1.0], [1, 0, 1.0])
    facing, away = shade_mesh(front, camera, K, SIZE), shade_mesh(back, camera, K, SIZE)
    assert facing[40, 60, 2] > facing[40, 60, 0]
    assert away[40, 60, 0] > 2 * away[40, 60, 2]


def test_an_empty_mesh_gives_an_empty_view():
    view = view_mesh(TriMesh.empty(), CAMERA, K, SIZE)
    assert np.all(view.depth == 0)
    assert np.all(view.face == -1)
