"""The truth scenes are what their files say, and the files never change."""

import hashlib
import json
from importlib import resources

import numpy as np
import pytest

from worldloom.generator.truth.cast import cast_rays, face_normals, signed_distance, visible
from worldloom.generator.truth.photos import ten_photos
from worldloom.generator.truth.render import depth_view, render_view
from worldloom.generator.truth.scene import read_scene, scene, scene_names
from worldloom.generator.truth.surface import mesh_with_surfaces
from worldloom.generator.truth.walk import camera_pose, photo_camera, walk_path, walkthrough
from worldloom.render.zbuffer import view_mesh
from worldloom.scene.cameras import intrinsics, pixel_rays, unproject
from worldloom.scene.errors import EngineFailed, InvalidRequest
from worldloom.scene.limits import Limits

SIZE = (208, 120)

SMALL = """
schema: worldloom.truth/1
title: test
camera: {height: 1.2, pitch_deg: 0.0, fov_deg: 90.0}
bounds: [[-5, -5, -0.1], [9, 5, 5]]
light: {ambient: 1.0, sun: [0, 0, 1]}
sky: {zenith: [0.2, 0.4, 0.8], horizon: [0.8, 0.9, 1.0]}
materials:
  grey: {color: [0.5, 0.5, 0.5]}
  red: {color: [0.9, 0.1, 0.1]}
  blue: {color: [0.1, 0.1, 0.9]}
  checks: {color: [0.9, 0.9, 0.9], second: [0.1, 0.1, 0.1], cell: [0.25, 0.25], checks: 1.0}
  rough: {color: [0.5, 0.5, 0.5], noise: 0.5}
solids:
  - {shape: box, name: ground, min: [-50, -50, -1], max: [50, 50, 0], material: GROUND}
  - {shape: box, name: left, min: [4, 1, 0], max: [5, 2, 1], material: red}
  - {shape: box, name: right, min: [4, -2, 0], max: [5, -1, 1], yaw_deg: 30, material: blue}
  - {shape: cylinder, name: post, at: [6, 0], radius: 0.5, z: [0, 3], material: grey}
walk:
  - [0, 0, 1.2, 0, 0]
  - [2, 0, 1.2, 30, -10]
"""


def small(ground="grey"):
    return read_scene("small", SMALL.replace("GROUND", ground))


@pytest.fixture(scope="module", params=scene_names())
def place(request):
    return scene(request.param)


def test_the_scene_files_are_frozen():
    folder = resources.files("worldloom.generator.truth") / "scenes"
    frozen = json.loads((folder / "frozen.json").read_text())
    found = {
        item.name: hashlib.sha256(item.read_bytes()).hexdigest()
        for item in folder.iterdir()
        if item.name.endswith(".yaml")
    }
    assert found == frozen, "numbers measured on the scenes are no longer comparable"
    wanted = {"room", "two_rooms", "street", "corridor", "loop", "stairs", "long_street"}
    assert wanted <= set(scene_names())


def test_depth_is_the_distance_to_the_exact_mesh(place):
    mesh, surfaces = mesh_with_surfaces(place)
    cameras = walkthrough(place, size=SIZE)
    wrong = total = 0
    for i in (0, 50, 100, 150):
        view = render_view(place, cameras.c2w[i], cameras.K[i], SIZE, supersample=0)
        drawn = view_mesh(mesh, cameras.c2w[i], cameras.K[i], SIZE)
        points = unproject(view.depth, cameras.K[i], cameras.c2w[i])
        low, high = place.bounds
        inside = (view.depth > 0) & ((points > low + 0.01) & (points < high - 0.01)).all(-1)
        off = inside & (np.abs(view.depth - drawn.depth) > 1e-3)
        # Mantles are 64-sided in the mesh, so a rim may lie on another pixel.
        wrong, total = wrong + int(off.sum()), total + int(inside.sum())
        same = surfaces[drawn.face] == view.surface_id
        assert same[inside & ~off].mean() > 0.999
    assert wrong / total < 0.01


def test_the_mesh_faces_the_cameras_that_see_it(place):
    mesh, _ = mesh_with_surfaces(place)
    cameras = walkthrough(place, size=SIZE)
    rays = pixel_rays(cameras.K[0], *SIZE)
    for i in (0, 80, 160):
        face = view_mesh(mesh, cameras.c2w[i], cameras.K[i], SIZE).face
        towards = np.sum(mesh.normals()[face] * (rays @ cameras.c2w[i, :3, :3].T), -1)
        assert (towards[face >= 0] < 0).all()


def test_the_mesh_has_no_hidden_and_no_doubled_faces(place):
    mesh, _ = mesh_with_surfaces(place)
    areas, corners = mesh.areas(), mesh.corners()
    big = areas > 1e-4
    centre = corners[big].mean(1)
    normal = mesh.normals()[big]
    # Just outside is free and just inside is solid. A mantle's facets lie inside the true circle.
    assert (signed_distance(place, centre + 2e-3 * normal) > -1e-4).all()
    assert (signed_distance(place, centre - 5e-3 * normal) < 0).all()
    _, count = np.unique(np.round(corners[big].reshape(-1, 9), 4), axis=0, return_counts=True)
    assert (count == 1).all()


def test_the_walk_starts_at_the_photo_stays_free_and_is_smooth(place):
    cameras = walkthrough(place)
    photo = photo_camera(place)
    walk_path(place).check(Limits())
    np.testing.assert_allclose(cameras.c2w[0], photo.c2w[0], atol=1e-9)
    np.testing.assert_allclose(photo.c2w[0, :2, 3], 0)
    assert photo.c2w[0, 0, 2] > 0.9
    assert cameras.n == place.walk_frames
    assert (cameras.n - 1) % 80 == 0
    assert len(place.solids) < 80
    assert signed_distance(place, cameras.centres).min() > 0.3
    assert signed_distance(place, [[0, 0, 0.0]])[0] == pytest.approx(0, abs=1e-9)


def test_the_loop_goes_once_round_and_ends_where_it_began():
    cameras = walkthrough(scene("loop"))
    np.testing.assert_allclose(cameras.c2w[-1], cameras.c2w[0], atol=1e-9)
    inside = cameras.centres[:, :2] - [2.5, 2.5]
    lap = np.unwrap(np.arctan2(inside[:, 1], inside[:, 0]))
    assert lap[-1] - lap[0] == pytest.approx(2 * np.pi)
    assert np.linalg.norm(np.diff(cameras.centres, axis=0), axis=1).sum() > 24
    # From any side of the ring the opposite side is out of sight.
    assert not visible(scene("loop"), cameras.centres[[120]], cameras.centres[0])[0]


def test_the_stairs_have_steps_of_17_by_28_cm_and_the_walk_climbs_to_the_floor_above():
    place = scene("stairs")
    down = np.broadcast_to([0.0, 0.0, -1.0], (18, 3))
    x = 2.0 + 0.28 * (np.arange(9) - 0.5)
    up = np.column_stack([x, np.full(9, -0.75), np.full(9, 2.0)])
    back = np.column_stack([x[::-1], np.full(9, 0.75), np.full(9, 4.0)])
    t, _ = cast_rays(place, np.concatenate([up, back]), down)
    heights = np.concatenate([2.0 - t[:9], 4.0 - t[9:]])
    np.testing.assert_allclose(heights, 0.17 * np.r_[0:9, 8:17], atol=1e-9)
    cameras = walkthrough(place)
    assert cameras.c2w[-1, 2, 3] == pytest.approx(2.72 + 1.2)
    below, _ = cast_rays(place, cameras.centres, np.broadcast_to(down[:1], (cameras.n, 3)))
    assert (np.abs(below - 1.2) < 0.2).all()


def test_the_long_street_is_walked_for_70_metres_past_houses_a_kerb_and_the_sky():
    place = scene("long_street")
    cameras = walkthrough(place, size=SIZE)
    assert 60 <= np.ptp(cameras.centres[:, 0]) <= 90
    down, _ = cast_rays(place, [[9.0, -1.0, 1.0], [9.0, -5.0, 1.0]], [[0.0, 0, -1.0]] * 2)
    np.testing.assert_allclose(down, [1.0, 1.12])
    view = render_view(place, cameras.c2w[0], cameras.K[0], SIZE)
    names = {place.surface_name(s).split("/")[0] for s in np.unique(view.surface_id)}
    assert {"sky", "kerb", "house1", "across2", "trunk1", "car1.body"} <= names


def test_left_is_left_and_up_is_up():
    view = render_view(small(), camera_pose((0, 0, 1.2), 0, 0), intrinsics(90, *SIZE), SIZE)
    red = (view.rgb[..., 0] > 0.5) & (view.rgb[..., 2] < 0.3)
    blue = (view.rgb[..., 2] > 0.5) & (view.rgb[..., 0] < 0.2)
    columns = np.arange(SIZE[0])
    assert (red.sum(0) @ columns) / red.sum() < SIZE[0] / 2 < (blue.sum(0) @ columns) / blue.sum()
    assert (view.surface_id[0] == -1).sum() > SIZE[0] / 2
    assert (view.depth[0, :20] == 0).all()
    assert (view.surface_id[-1] >= 0).all()
    assert small().surface_name(view.surface_id[-1, 0]) == "ground/top"


def test_turning_left_and_looking_down_move_the_picture_right_and_up():
    straight = camera_pose((0, 0, 1.2), 0, 0)
    np.testing.assert_allclose(straight[:3, 2], [1, 0, 0], atol=1e-12)
    assert camera_pose((0, 0, 0), 90, 0)[1, 2] == pytest.approx(1)
    assert camera_pose((0, 0, 0), 0, -30)[2, 2] == pytest.approx(-0.5)
    cameras = walkthrough(small(), 81)
    np.testing.assert_allclose(cameras.c2w[-1], camera_pose((2, 0, 1.2), 30, -10), atol=1e-9)


def test_depth_is_exact_on_planes_boxes_and_cylinders():
    K, c2w = intrinsics(90, *SIZE), camera_pose((0, 0, 1.2), 0, -10)
    depth = depth_view(small(), c2w, K, SIZE)
    points = unproject(depth, K, c2w)[depth > 0]
    assert np.abs(signed_distance(small(), points)).max() < 2e-6 * 50
    t, surface = cast_rays(small(), [0, 0, 1.2], [[2.0, 0, 0], [0, 0, 1.0], [0, 0, -1.0]])
    np.testing.assert_allclose(t, [2.75, np.inf, 1.2])
    names = [small().surface_name(s) for s in surface]
    assert names == ["post/side", "sky", "ground/top"]
    normals = face_normals(small(), surface, np.array([[5.5, 0, 1.2], [0, 0, 0], [0, 0, 0]]))
    np.testing.assert_allclose(normals, [[-1, 0, 0], [0, 0, 0], [0, 0, 1]], atol=1e-12)


def test_what_stands_in_front_hides_what_stands_behind():
    behind = np.array([[8.0, 0, 0.0], [8.0, 4.5, 0.0], [4.0, 1.5, 0.5]])
    assert visible(small(), behind, [0, 0, 1.2]).tolist() == [False, True, True]


def test_nine_samples_a_pixel_come_close_to_the_mean_over_the_pixel():
    place, K, c2w = small("checks"), intrinsics(90, *SIZE), camera_pose((0, 0, 1.2), 0, -20)
    once, thrice, many = (
        render_view(place, c2w, K, SIZE, supersample=n).rgb.astype(float) for n in (1, 3, 11)
    )
    errors = [float(np.sqrt(((picture - many) ** 2).mean())) for picture in (once, thrice)]
    assert errors[1] < 0.02
    assert errors[1] < 0.5 * errors[0]


def test_texture_has_detail_down_to_a_centimetre_and_none_below_the_pixel():
    def picture(height):
        c2w = camera_pose((0, 0, height), 0, -90)
        return render_view(small("rough"), c2w, intrinsics(60, *SIZE), SIZE).rgb[..., 0]

    near, far = picture(0.4), picture(1000.0)
    # 2 mm a pixel: what lies 1 cm apart differs. 5 m a pixel: even the coarsest octave is gone.
    assert np.abs(near[:, 5:] - near[:, :-5]).mean() > 0.008
    assert far[52:57, 96:101].std() < 1e-6


def test_the_ten_photos_cover_pitch_and_height():
    photos = ten_photos((104, 60))
    assert len(photos) == 10
    pitch, height = [p.pitch_deg for p in photos], [p.camera_height for p in photos]
    assert (min(pitch), max(pitch), min(height), max(height)) == (-30, 5, 0.4, 1.8)
    for photo in photos:
        assert photo.depth[photo.depth > 0].min() > 0.5
        floor = unproject(photo.depth, photo.K, photo.c2w)[photo.depth > 0][:, 2]
        assert (np.abs(floor) < 1e-3).mean() > 0.05
        assert photo.rgb.std() > 0.05


def test_rendering_twice_gives_the_same_bytes():
    camera = photo_camera(scene("street"), SIZE)
    views = [render_view(scene("street"), camera.c2w[0], camera.K[0], SIZE) for _ in range(2)]
    assert views[0].rgb.tobytes() == views[1].rgb.tobytes()


def test_unknown_and_broken_scenes_are_refused():
    with pytest.raises(InvalidRequest, match="unknown truth scene 'attic'; there are corridor"):
        scene("attic")
    with pytest.raises(EngineFailed, match="malformed: KeyError 'radius'"):
        read_scene("bad", SMALL.replace("GROUND", "grey").replace("radius: 0.5, ", ""))
