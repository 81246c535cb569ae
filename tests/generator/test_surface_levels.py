"""Levels of a volume: coarse far away, finer when a camera comes near, sound for bad input."""

import numpy as np
import pytest

from worldloom.generator.surface.extract import extract_surface
from worldloom.generator.surface.levels import LevelVolume
from worldloom.generator.surface.observed import FREE, SURFACE, UNSEEN
from worldloom.generator.surface.plan import LevelPlan, plan_levels
from worldloom.generator.surface.simplify import border_edges
from worldloom.scene.cameras import intrinsics, pixel_rays
from worldloom.scene.errors import CorruptData, EngineFailed
from worldloom.scene.frame import look_at, rigid, rotation_about

SIZE = (208, 140)
K = intrinsics(65.0, *SIZE)
GREY = np.full((SIZE[1], SIZE[0], 3), 0.5, np.float32)
PLAN = LevelPlan(0.04, 5, near=1.0)


def plane_view(eye, target, normal, offset, *, far=50.0):
    """A camera and its z-depth of the plane `normal . p = offset`."""
    c2w = look_at(eye, target)
    rays = pixel_rays(K, *SIZE) @ c2w[:3, :3].T
    with np.errstate(all="ignore"):
        depth = (offset - c2w[:3, 3] @ normal) / (rays @ normal)
    return c2w, np.where((depth > 0) & (depth < far), depth, 0).astype(np.float32)


def room_view(eye, target, *, half=(3.0, 2.5), height=2.4):
    """A camera in an empty room and its z-depth."""
    c2w = look_at(eye, target)
    rays, origin = pixel_rays(K, *SIZE) @ c2w[:3, :3].T, c2w[:3, 3]
    low, high = np.array([-half[0], -half[1], 0.0]), np.array([half[0], half[1], height])
    with np.errstate(all="ignore"):
        t = np.where(rays > 0, (high - origin) / rays, (low - origin) / rays).min(-1)
    return c2w, t.astype(np.float32)


def fused(views, *, plan=PLAN):
    volume = LevelVolume(plan)
    for c2w, depth in views:
        volume.integrate(depth, GREY, c2w, K)
    return volume


def sound(surface):
    mesh = surface.mesh
    return np.isfinite(mesh.vertices).all() and len(surface.level) == len(mesh.faces)


def test_a_slanted_plane_seen_from_near_to_far_has_no_gap_between_levels():
    normal = np.array([-0.2, 0.1, 0.97]) / np.linalg.norm([-0.2, 0.1, 0.97])
    views = [plane_view([0.1 * i, 0, 1.3], [3, 0, 0.3], normal, 0.017, far=9) for i in range(4)]
    volume = fused(views)
    surface = extract_surface(volume)
    mesh = surface.mesh
    assert {0, 1, 2} <= set(surface.level.tolist())
    error = np.abs(mesh.vertices @ normal - 0.017)
    assert np.quantile(error, 0.99) < 2e-3
    # A border inside what all cameras saw would be a crack.
    ends = mesh.vertices[border_edges(mesh.faces)].astype(float).mean(1)
    for c2w, depth in views[:1]:
        local = (ends - c2w[:3, 3]) @ c2w[:3, :3]
        z = np.maximum(local[:, 2], 1e-3)
        u, v = K[0, 0] * local[:, 0] / z + K[0, 2], K[1, 1] * local[:, 1] / z + K[1, 2]
        row, column = np.clip(v, 0, SIZE[1] - 1).astype(int), np.clip(u, 0, SIZE[0] - 1).astype(int)
        inner = (u > 30) & (u < SIZE[0] - 30) & (v > 30) & (v < SIZE[1] - 30)
        inner &= (depth[row, column] > 0) & (z < 5.0) & (local[:, 2] > 0)
        assert not inner.any()


def test_a_room_is_closed_all_around_within_millimetres():
    eyes = [[0.5 * np.cos(a), 0.5 * np.sin(a), 1.2] for a in np.linspace(0, 2 * np.pi, 12)]
    views = [
        room_view(e, [5 * e[0], 5 * e[1], z])
        for e in eyes
        for z in (-5.0, -1.0, 0.5, 1.9, 3.4, 7.4)
    ]
    surface = extract_surface(fused(views, plan=LevelPlan(0.04, 4, near=1.2)))
    mesh = surface.mesh
    assert len(set(surface.level.tolist())) >= 2
    inside = np.array([3.0, 2.5, 1.2]) - np.abs(mesh.vertices - np.float32([0, 0, 1.2]))
    flat = np.sort(np.abs(inside), axis=1)
    assert np.quantile(flat[:, 0], 0.95) < 4e-3
    towards = np.float32([0, 0, 1.2]) - mesh.corners().mean(1)
    assert (np.sum(mesh.normals() * towards, -1) > 0).mean() > 0.999
    assert mesh.areas().sum() == pytest.approx(2 * (6 * 5 + 6 * 2.4 + 5 * 2.4), rel=0.03)


def test_a_nearer_camera_adds_finer_blocks_where_it_looks():
    far = plane_view([-6.0, 0, 0], [0, 0, 0], np.array([1.0, 0, 0]), 0.0)
    near = plane_view([-1.0, 0, 0], [0, 0, 0], np.array([1.0, 0, 0]), 0.0)
    volume = fused([far])
    before = extract_surface(volume)
    volume.integrate(near[1], GREY, near[0], K)
    after = extract_surface(volume)
    assert before.level.min() == 2
    assert after.level.min() == 0
    assert after.level.max() == 2
    fine = after.mesh.vertices[after.mesh.faces[after.level == 0]].reshape(-1, 3)
    assert np.abs(fine[:, 1]).max() < 1.2
    assert np.abs(after.mesh.vertices[:, 0]).max() < 2e-3


def test_neighbouring_blocks_differ_by_one_level_at_the_most():
    views = [plane_view([-1.0, 0, 0], [0, 0, 0], np.array([1.0, 0, 0]), 0.0)]
    views += [plane_view([-9.0, 0, 0], [0, 0, 0], np.array([1.0, 0, 0]), 0.0)]
    volume = fused(views[::-1])
    known = {tuple(c) for c in volume.coords[: volume.blocks].tolist()}
    for level, i, j, k in known:
        for n in range(27):
            at = (i + n // 9 - 1, j + n // 3 % 3 - 1, k + n % 3 - 1)
            if (level, *at) in known or (level + 1, *(x >> 1 for x in at)) in known:
                continue
            above = [(up, *(x >> (up - level) for x in at)) for up in range(level + 2, 5)]
            assert not any(key in known for key in above)


def test_too_many_blocks_give_up_the_finest_level_and_keep_the_surface():
    views = [room_view([0, 0, 1.2], [1, 0, 0.8]), room_view([0.3, 0, 1.2], [1, 0.4, 0.8])]
    roomy = LevelPlan(0.03, 4, near=3.0)
    limit = fused(views, plan=roomy).blocks // 2
    volume = fused(views, plan=LevelPlan(0.03, 4, near=3.0, max_blocks=limit))
    assert volume.coarsened == 1
    assert volume.plan.voxel == pytest.approx(0.06)
    assert volume.blocks <= limit
    mesh = extract_surface(volume).mesh
    inside = np.array([3.0, 2.5, 1.2]) - np.abs(mesh.vertices - np.float32([0, 0, 1.2]))
    assert np.quantile(np.abs(inside).min(1), 0.9) < 6e-3
    whole = extract_surface(fused(views, plan=roomy)).mesh
    assert mesh.areas().sum() == pytest.approx(whole.areas().sum(), rel=0.08)


def test_no_level_left_to_give_up_is_an_error_with_a_remedy():
    with pytest.raises(EngineFailed, match=r"more than 20 blocks.*3\.0 cm.*quality draft"):
        fused([room_view([0, 0, 1.2], [1, 0, 0.8])], plan=LevelPlan(0.03, 1, max_blocks=20))


def test_the_state_survives_a_checkpoint_with_its_observed_record(tmp_path):
    views = [room_view([0.2 * i, 0, 1.2], [2, 0.3 * i, 0.8]) for i in range(3)]
    fused(views[:2]).save(tmp_path / "a.npz")
    again = LevelVolume.load(tmp_path / "a.npz")
    again.save(tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    again.integrate(views[2][1], GREY, views[2][0], K)
    again.save(tmp_path / "c.npz")
    fused(views).save(tmp_path / "d.npz")
    assert (tmp_path / "c.npz").read_bytes() == (tmp_path / "d.npz").read_bytes()


def test_a_file_that_is_no_volume_is_told(tmp_path):
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(CorruptData, match="not the state of a surface"):
        LevelVolume.load(tmp_path / "other.npz")


def test_observed_tells_free_surface_and_unseen_apart():
    volume = fused([room_view([0, 0, 1.2], [1, 0, 1.2])], plan=LevelPlan(0.04, 4, near=4.0))
    points = np.array([[1.5, 0, 1.2], [2.9, 0.1, 1.2], [3.5, 0, 1.2], [-1.5, 0, 1.2]])
    state = volume.observed.look(points)
    assert state[0] == FREE
    assert state[1] in (FREE, SURFACE)
    assert state[2] == UNSEEN
    assert state[3] == UNSEEN


def test_observed_survives_giving_up_a_level():
    view = [room_view([0, 0, 1.2], [1, 0, 1.2])]
    volume = fused(view, plan=LevelPlan(0.04, 4, near=4.0))
    points = np.random.default_rng(0).uniform([-3, -2.5, 0], [3, 2.5, 2.4], (3000, 3))
    before = volume.observed.look(points)
    volume._coarsen()
    after = volume.observed.look(points)
    assert (after[before == FREE] == FREE).all()
    assert (after != before).mean() < 0.15


@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf, -1.0])
def test_frames_without_a_usable_depth_add_nothing(bad):
    volume = fused([(np.eye(4), np.full((SIZE[1], SIZE[0]), bad, np.float32))])
    assert volume.blocks == 0
    assert len(extract_surface(volume).mesh.faces) == 0


def test_bad_pixels_among_good_ones_leave_a_gap_and_no_nan():
    c2w, depth = room_view([0, 0, 1.2], [1, 0, 0.8])
    for value, at in ((np.nan, 20), (np.inf, 60), (-3.0, 100)):
        depth[40:60, at : at + 20] = value
    surface = extract_surface(fused([(c2w, depth)]))
    assert sound(surface)
    assert len(surface.mesh.faces) > 1000


def test_one_frame_gives_a_surface_open_where_it_did_not_look():
    surface = extract_surface(fused([room_view([0, 0, 1.2], [1, 0, 0.8])]))
    assert sound(surface)
    assert len(border_edges(surface.mesh.faces)) > 50
    assert surface.mesh.vertices[:, 0].min() > -1


def test_pure_rotation_gives_the_whole_room():
    turn = [[np.cos(a), np.sin(a), 1.1] for a in np.linspace(0, 2 * np.pi, 9)]
    surface = extract_surface(fused([room_view([0, 0, 1.2], t) for t in turn]))
    assert sound(surface)
    assert np.ptp(surface.mesh.vertices, axis=0)[:2] == pytest.approx([6, 5], abs=0.1)


@pytest.mark.parametrize("scale", [0.05, 500.0])
def test_scenes_of_five_centimetres_and_of_five_hundred_metres_have_a_surface(scale):
    c2w, depth = room_view([0, 0, 1.2], [1, 0, 0.8])
    c2w = c2w.copy()
    c2w[:3, 3] *= scale / 3
    depth = depth * np.float32(scale / 3)
    near = float(np.percentile(depth, 10))
    volume = fused([(c2w, depth)], plan=plan_levels(near, K[0, 0], (0.015, 0.03)))
    surface = extract_surface(volume)
    assert sound(surface)
    assert len(surface.mesh.faces) > 300
    assert np.ptp(surface.mesh.vertices, axis=0).max() > 0.9 * scale
    inside = scale / 3 * np.array([3.0, 2.5, 1.2]) - np.abs(
        surface.mesh.vertices - np.float32([0, 0, 0.4 * scale])
    )
    assert np.median(np.abs(inside).min(1)) < 0.01 * scale


def test_a_wall_ten_centimetres_before_the_camera_is_a_wall():
    view = plane_view([-0.1, 0, 0], [0, 0, 0], np.array([1.0, 0, 0]), 0.0)
    surface = extract_surface(fused([view], plan=plan_levels(0.1, K[0, 0], (0.015, 0.03))))
    assert sound(surface)
    assert len(surface.mesh.faces) > 50
    assert np.abs(surface.mesh.vertices[:, 0]).max() < 1e-3


def test_nothing_below_the_horizon_gives_only_what_is_above():
    c2w, depth = room_view([0, 0, 1.2], [1, 0, 1.2])
    depth[SIZE[1] // 2 :] = 0
    surface = extract_surface(fused([(c2w, depth)]))
    assert sound(surface)
    assert surface.mesh.vertices[:, 2].min() > 1.1


def test_cameras_that_are_no_cameras_are_refused():
    depth = np.ones((SIZE[1], SIZE[0]), np.float32)
    volume = LevelVolume(PLAN)
    broken = np.eye(4)
    broken[0, 3] = np.nan
    with pytest.raises(EngineFailed, match="not finite"):
        volume.integrate(depth, GREY, broken, K)
    away = rigid(rotation_about([0, 0, 1], 0.0), [1e7, 0, 0])
    with pytest.raises(EngineFailed, match=r"10000000 m from the start.*larger voxel"):
        volume.integrate(depth, GREY, away, K)
    for depth_10, focal in ((np.nan, 300.0), (0.0, 300.0), (1.0, np.inf)):
        with pytest.raises(EngineFailed, match="must be numbers above 0"):
            plan_levels(depth_10, focal, (0.02, 0.04))


def test_pixels_of_little_weight_pull_little():
    view = plane_view([-2.0, 0, 0], [0, 0, 0], np.array([1.0, 0, 0]), 0.0)
    wrong = plane_view([-2.0, 0, 0], [0.03, 0, 0], np.array([1.0, 0, 0]), 0.03)
    volume = LevelVolume(PLAN)
    volume.integrate(view[1], GREY, view[0], K)
    volume.integrate(wrong[1], GREY, wrong[0], K, weight=np.full(wrong[1].shape, 0.1, np.float32))
    x = extract_surface(volume).mesh.vertices[:, 0]
    assert np.median(x) == pytest.approx(0.03 * 0.1 / 1.1, abs=1e-3)


def test_levels_follow_the_distance():
    assert [PLAN.level_of(d) for d in (0.1, 1.9, 2.1, 4.5, 9.0, 1e6)] == [0, 0, 1, 2, 3, 4]
    plan = plan_levels(1.5, 640.0, (0.02, 0.04))
    assert plan.voxel == 0.02
    assert plan.near == pytest.approx(0.02 * 640 / 1.5)
