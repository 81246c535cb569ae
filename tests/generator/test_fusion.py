"""Depth maps are fused into a surface that is where they say, and nowhere else."""

import numpy as np
import pytest

from worldloom.generator.surface.cleanup import face_components
from worldloom.generator.surface.extract import extract_surface
from worldloom.generator.surface.levels import LevelVolume
from worldloom.generator.surface.plan import LevelPlan
from worldloom.generator.surface.simplify import simplify
from worldloom.scene.cameras import intrinsics, pixel_rays
from worldloom.scene.frame import look_at

SIZE = (208, 140)
K = intrinsics(65.0, *SIZE)
VOXEL = 0.025
PLAN = LevelPlan(VOXEL, near=VOXEL * K[0, 0] / 1.5)
GREY = np.full((SIZE[1], SIZE[0], 3), 0.5, np.float32)


def trace(eye, target, *, floor=0.0, step_x=None, step=0.0, ball=None, wall_x=None):
    """Exact z-depth of a floor (with a step up at `step_x`), a ball and a wall."""
    c2w = look_at(eye, target)
    rays = pixel_rays(K, *SIZE) @ c2w[:3, :3].T
    origin = c2w[:3, 3]
    depth = np.full(rays.shape[:2], np.inf)

    def hit(t, where=True):
        nonlocal depth
        depth = np.where((t > 0) & (t < depth) & where, t, depth)

    with np.errstate(all="ignore"):
        x_low = origin[0] + rays[..., 0] * (floor - origin[2]) / rays[..., 2]
        hit((floor - origin[2]) / rays[..., 2], True if step_x is None else x_low < step_x)
        if step_x is not None:
            t = (floor + step - origin[2]) / rays[..., 2]
            hit(t, origin[0] + rays[..., 0] * t >= step_x)
            t = (step_x - origin[0]) / rays[..., 0]
            z = origin[2] + rays[..., 2] * t
            hit(t, (z >= floor) & (z <= floor + step))
        if wall_x is not None:
            hit((wall_x - origin[0]) / rays[..., 0])
        if ball is not None:
            centre, radius = np.array(ball[:3]), ball[3]
            a, b = (rays**2).sum(-1), 2 * rays @ (origin - centre)
            disc = b * b - 4 * a * ((origin - centre) @ (origin - centre) - radius**2)
            hit(np.where(disc > 0, (-b - np.sqrt(np.maximum(disc, 0))) / (2 * a), -1))
    return c2w, np.where(np.isfinite(depth) & (depth < 6), depth, 0).astype(np.float32)


def extract(volume):
    return extract_surface(volume).mesh


def fuse(views, *, plan=PLAN, noise=0.0):
    volume = LevelVolume(plan)
    rng = np.random.default_rng(5)
    for c2w, depth in views:
        depth = np.where(depth > 0, depth * (1 + noise * rng.normal(size=depth.shape)), 0)
        volume.integrate(depth.astype(np.float32), GREY, c2w, K)
    return volume


def walk(n=6, **scene):
    eyes = [[0.25 * i, 0.1 * np.sin(i), 1.1] for i in range(n)]
    return [trace(eye, [3.0 + eye[0], 0.0, 0.2], **scene) for eye in eyes]


def test_a_floor_seen_at_all_angles_is_flat_within_two_millimetres():
    # The height is no multiple of the voxel, and the far end is seen at ten degrees.
    mesh = simplify(extract(fuse(walk(floor=0.0137))), 0.25 * VOXEL).mesh
    error = mesh.vertices[:, 2] - 0.0137
    assert mesh.areas().sum() > 10
    assert np.sqrt(np.mean(error**2)) < 2e-3
    assert np.abs(error).max() < 5e-3
    assert (mesh.normals()[:, 2] > 0.9).all()


def test_the_floor_reaches_to_where_the_cameras_saw_it_without_holes():
    views = walk()
    mesh = extract(fuse(views))
    from worldloom.render.zbuffer import depth_of_mesh

    for c2w, depth in views:
        drawn = depth_of_mesh(mesh, c2w, K, SIZE)
        inner = depth[4:-4, 4:-4] > 0
        seen = inner & (depth[4:-4, 4:-4] < 5)
        assert (drawn[4:-4, 4:-4][seen] > 0).mean() > 0.99
        both = seen & (drawn[4:-4, 4:-4] > 0)
        assert np.median(np.abs(drawn / np.maximum(depth, 0.1) - 1)[4:-4, 4:-4][both]) < 1e-3


def test_a_step_of_two_centimetres_survives():
    views = walk(step_x=2.2, step=0.02)
    mesh = extract(fuse(views))
    x, z = mesh.vertices[:, 0], mesh.vertices[:, 2]
    low, high = z[(x > 1.4) & (x < 2.1)], z[(x > 2.3) & (x < 3.0)]
    assert np.median(low) == pytest.approx(0.0, abs=1e-3)
    assert np.median(high) == pytest.approx(0.02, abs=1e-3)
    assert np.std(low) < 2e-3
    assert np.std(high) < 2e-3


def test_a_ball_is_round_closed_where_seen_and_faces_outward():
    views = []
    for angle in np.linspace(0, 2 * np.pi, 10, endpoint=False):
        for height in (0.2, 1.0, 1.8):
            eye = [1.6 * np.cos(angle), 1.6 * np.sin(angle), height]
            views.append(trace(eye, [0, 0, 1.0], floor=-50, ball=(0, 0, 1.0, 0.5)))
    mesh = extract(fuse(views))
    radius = np.linalg.norm(mesh.vertices - [0, 0, 1.0], axis=1)
    assert np.abs(radius - 0.5).mean() < 2e-3
    centre = mesh.corners().mean(1) - [0, 0, 1.0]
    assert (np.sum(mesh.normals() * centre, -1) > 0).mean() > 0.999
    share = mesh.areas().sum() / (4 * np.pi * 0.25)
    assert 0.93 < share < 1.03


def test_no_surface_joins_an_object_to_what_is_behind_it():
    views = walk(n=3, ball=(2.2, 0, 0.9, 0.3), wall_x=4.0, floor=-50)
    mesh = extract(fuse(views))
    label = face_components(mesh)
    x = mesh.corners().mean(1)[:, 0]
    assert not set(label[x < 2.6]) & set(label[x > 3.8])
    assert not ((x > 2.7) & (x < 3.8)).any()


def test_nothing_is_invented_behind_a_wall():
    mesh = extract(fuse(walk(wall_x=3.0, floor=-50)))
    assert np.abs(mesh.vertices[:, 0] - 3.0).max() < 0.2 * VOXEL
    assert (mesh.normals()[:, 0] < -0.9).all()


def test_space_that_cameras_looked_through_is_carved():
    ghost = trace([0, 0, 1.1], [3, 0, 1.1], ball=(1.5, 0, 1.1, 0.2), wall_x=3.0, floor=-50)
    clear = [
        trace([0.05 * i, 0.02 * i, 1.1], [3, 0, 1.1], wall_x=3.0, floor=-50) for i in range(40)
    ]
    with_ghost = extract(fuse([ghost]))
    carved = extract(fuse([ghost, *clear]))
    assert (with_ghost.vertices[:, 0] < 2).sum() > 100
    assert (carved.vertices[:, 0] < 2).sum() == 0
    assert (carved.vertices[:, 0] > 2.9).sum() > 1000


def test_noise_is_averaged():
    views = [trace([0.02 * i, 0, 1.1], [3.0, 0.0, 0.2]) for i in range(16)]
    mesh = extract(fuse(views, noise=0.003))
    near = mesh.vertices[(mesh.vertices[:, 0] < 2.5)]
    assert np.std(near[:, 2]) < 4e-3


def test_the_same_frames_give_the_same_bytes_on_any_number_of_threads(tmp_path):
    import numba

    views = walk(n=3, ball=(2.2, 0, 0.5, 0.3))
    before = numba.get_num_threads()
    try:
        numba.set_num_threads(1)
        fuse(views).save(tmp_path / "one.npz")
    finally:
        numba.set_num_threads(before)
    fuse(views).save(tmp_path / "two.npz")
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()


def test_a_volume_that_was_saved_goes_on_as_if_it_had_not_been(tmp_path):
    views = walk(n=4, ball=(2.2, 0, 0.5, 0.3))
    fuse(views[:2]).save(tmp_path / "half.npz")
    resumed = LevelVolume.load(tmp_path / "half.npz")
    for c2w, depth in views[2:]:
        resumed.integrate(depth, GREY, c2w, K)
    whole, again = extract(fuse(views)), extract(resumed)
    assert whole.vertices.tobytes() == again.vertices.tobytes()
    assert whole.faces.tobytes() == again.faces.tobytes()


def test_frames_without_depth_add_nothing():
    volume = LevelVolume(PLAN)
    empty = np.zeros((SIZE[1], SIZE[0]), np.float32)
    volume.integrate(empty, np.zeros((*empty.shape, 3), np.float32), np.eye(4), K)
    assert volume.blocks == 0
    assert len(extract(volume).faces) == 0


def test_colours_land_on_their_surface():
    c2w, depth = trace([0, 0, 1.1], [3.0, 0, 1.0], wall_x=3.0, floor=-50)
    rgb = np.zeros((*depth.shape, 3), np.float32)
    rgb[:, : SIZE[0] // 2, 0] = 1.0
    rgb[:, SIZE[0] // 2 :, 2] = 1.0
    volume = LevelVolume(PLAN)
    volume.integrate(depth, rgb, c2w, K)
    mesh = extract(volume)
    left = mesh.vertices[:, 1] > 2 * VOXEL
    assert np.allclose(mesh.colors[left], [1, 0, 0], atol=0.02)
    assert np.allclose(mesh.colors[mesh.vertices[:, 1] < -2 * VOXEL], [0, 0, 1], atol=0.02)
