"""Lyra's presets go where their names say, and the released ones are there on request."""

import json

import numpy as np
import pytest

from worldloom.scene import lyra_zoom
from worldloom.scene.errors import InvalidCameraPath
from worldloom.scene.frame import invert_rigid, rotation_error, turn_angle
from worldloom.scene.limits import Limits
from worldloom.scene.lyra_moves import centre_depth, look_at_w2c
from worldloom.scene.lyra_presets import lyra_cameras, lyra_path, lyra_w2c
from worldloom.scene.lyra_table import LYRA_PRESETS
from worldloom.scene.path_files import (
    caption_of_chunk,
    import_lyra,
    load_path,
    lyra_cameras_as_released,
    rescaled_intrinsics,
)

DEPTH = 3.0
FRAMES = 41
EVERY = [(name, word) for name, p in LYRA_PRESETS.items() for word in p.directions or (None,)]
AXIS = {
    "right": (0, 1), "left": (0, -1), "up": (1, -1), "down": (1, 1), "in": (2, 1), "out": (2, -1),
}  # fmt: skip
GAZERS = ("rotate_spot", "rotate_spot_noise", "spiral_outwards")
STILL = ("original", "horizontal_still", "horizontal_zoom_still")
ROUND = ("spiral", "spiral_center", "back", "back_simple")


def poses(name, word=None, frames=FRAMES, **more):
    """Centres [n 3] and viewing directions [n 3] in the first camera's axes."""
    w2c, _ = lyra_w2c(name, frames=frames, direction=word, depth=DEPTH, **more)
    c2w = invert_rigid(w2c)
    return c2w[:, :3, 3], c2w[:, :3, 2]


@pytest.mark.parametrize(("name", "word"), EVERY)
@pytest.mark.parametrize("frames", [2, 3, 40, 81])
def test_every_preset_gives_the_frames_asked_for_from_the_first_pose_on(name, word, frames):
    w2c, focal = lyra_w2c(name, frames=frames, direction=word, depth=DEPTH)
    assert w2c.shape == (frames, 4, 4)
    assert np.isfinite(w2c).all()
    assert rotation_error(w2c[:, :3, :3]).max() < 1e-9
    np.testing.assert_allclose(w2c[0], np.eye(4), atol=1e-12)
    assert (focal is None) == (name != "dolly_zoom")


@pytest.mark.parametrize(("name", "word"), EVERY)
def test_every_preset_is_smooth_and_moves_in_every_frame(name, word):
    w2c, _ = lyra_w2c(name, frames=81, direction=word, depth=DEPTH)
    c2w = invert_rigid(w2c)
    step = np.linalg.norm(np.diff(c2w[:, :3, 3], axis=0), axis=1)
    turn = turn_angle(c2w[:-1, :3, :3], c2w[1:, :3, :3])
    assert step.max() < 0.05 * DEPTH
    assert np.degrees(turn.max()) < 5
    if name not in STILL:
        assert (step + turn > 1e-6).all()
    jump = np.linalg.norm(np.diff(c2w[:, :3, 3], n=2, axis=0), axis=1)
    assert np.sort(jump)[-2] < max(0.25 * step.max(), 1e-3 * DEPTH)  # One corner is allowed.


@pytest.mark.parametrize(("name", "word"), [e for e in EVERY if e[1] and e[0] not in GAZERS])
def test_the_camera_goes_where_the_word_says(name, word):
    centres, _ = poses(name, word)
    axis, sign = AXIS[word]
    if name.startswith("rotate_zoom"):
        sign, axis = (1, 2) if name.endswith("in") else (-1, 2)
    along = sign * centres[:, axis]
    if name in ROUND:
        assert along[FRAMES // 8] > 0
        assert along.max() > 0.99 * np.abs(along).max() or name == "spiral_center"
    else:
        assert along[-1] == pytest.approx(np.abs(centres[:, axis]).max())
        assert (np.diff(along) >= -1e-9).all()


@pytest.mark.parametrize("word", ["right", "left"])
@pytest.mark.parametrize("name", [*GAZERS, "rotate_zoom_in", "rotate_zoom_out"])
def test_the_gaze_turns_where_the_word_says(name, word):
    _, gaze = poses(name, word)
    assert AXIS[word][1] * gaze[FRAMES // 2, 0] > 0.1


def test_right_is_the_mirror_image_of_left_and_up_of_down():
    for name, preset in LYRA_PRESETS.items():
        if not preset.directions or "noise" in name or preset.directions[0] == "in":
            continue
        (a, ga), (b, gb) = (poses(name, word) for word in preset.directions)
        mirror = np.ones(3)
        mirror[AXIS[preset.directions[0]][0]] = -1
        np.testing.assert_allclose(a, b * mirror, atol=1e-12)
        np.testing.assert_allclose(ga, gb * mirror, atol=1e-12)


@pytest.mark.parametrize(
    "name", ["horizontal", "horizontal_zoom", "horizontal_simple", "horizontal_still",
             "horizontal_zoom_still", "horizontal_lift", "vertical_simple", "dolly_zoom"],
)  # fmt: skip
def test_the_last_frame_reaches_the_full_distance(name):
    centres, _ = poses(name, strength=0.6)
    assert np.linalg.norm(centres[-1]) == pytest.approx(0.6 * DEPTH)


def test_rotate_zoom_moves_along_its_view():
    for name, sign in (("rotate_zoom_in", 1), ("rotate_zoom_out", -1)):
        centres, gaze = poses(name, "left", strength=0.5)
        way = centres[-1] / np.linalg.norm(centres[-1])
        np.testing.assert_allclose(way, sign * gaze[-1], atol=1e-12)
        assert np.degrees(np.arctan2(gaze[-1, 0], gaze[-1, 2])) == pytest.approx(-20)


def test_orbits_and_turns_count_degrees():
    for name in ("orbit_horizontal", "orbit_vertical", "rotate_spot"):
        w2c, _ = lyra_w2c(name, frames=11, strength=100.0, depth=DEPTH)
        assert np.degrees(turn_angle(w2c[0, :3, :3], w2c[-1, :3, :3])) == pytest.approx(100)
    centres, gaze = poses("orbit_vertical", strength=100.0)
    middle = centres + DEPTH * gaze
    np.testing.assert_allclose(middle, np.tile([0, 0, DEPTH], (FRAMES, 1)), atol=1e-9)


def test_a_dolly_zoom_keeps_its_target_ahead_and_in_size():
    for word, strength in (("in", 0.75), ("out", 2.0)):
        w2c, focal = lyra_w2c(
            "dolly_zoom", frames=9, direction=word, strength=strength, depth=DEPTH
        )
        distance = DEPTH + w2c[:, 2, 3]
        assert (distance > 0.2 * DEPTH).all()
        np.testing.assert_allclose(focal / distance, 1 / DEPTH)
    with pytest.raises(InvalidCameraPath, match=r"0\.9 of the way.*limit is 0\.75"):
        lyra_w2c("dolly_zoom", frames=9, strength=0.9)


def test_lyras_own_words_for_a_zoom_are_understood():
    for ours, theirs in (("in", "right"), ("out", "left")):
        a, b = (poses("horizontal_zoom", word)[0] for word in (ours, theirs))
        np.testing.assert_array_equal(a, b)


def test_noise_follows_its_seed():
    a, b, c = (poses("horizontal_noise", seed=seed)[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(a, b)
    assert np.abs(a - c).max() > 0


def test_moves_scale_with_the_depth_and_follow_the_first_camera():
    K0 = np.array([[500.0, 0, 320], [0, 510, 240], [0, 0, 1]])
    w2c0 = look_at_w2c([1.0, 2, 3], [4.0, 3, 9])
    near, _ = lyra_cameras("horizontal", w2c0, K0, frames=5, depth=1.0)
    far, K = lyra_cameras("horizontal", w2c0, K0, frames=5, depth=4.0)
    np.testing.assert_allclose(near[0], w2c0, atol=1e-12)
    first = invert_rigid(w2c0)[:3, 3]
    step = [invert_rigid(w)[-1, :3, 3] - first for w in (near, far)]
    np.testing.assert_allclose(step[1], 4 * step[0], atol=1e-9)
    np.testing.assert_array_equal(K, np.tile(K0, (5, 1, 1)))


def test_the_released_faults_are_there_when_asked_for():
    quirky = {"reference_quirks": True, "strength": 0.5}
    assert poses("spiral", "right", **quirky)[0][:, 0].min() < -0.1
    assert poses("horizontal_lift", "right", **quirky)[0][-1, 1] > 0
    assert poses("rotate_spot", "right", **quirky)[1][-1, 0] < 0
    assert poses("horizontal", "right", **quirky)[0][-1, 0] == pytest.approx(1.5 * 40 / 41)
    assert len(poses("back", "right", **quirky)[0]) == 2 * FRAMES - 1
    assert poses("dolly_zoom", "right", **quirky)[1][-1, 2] == pytest.approx(-1)
    with pytest.raises(InvalidCameraPath, match="divides by zero for 2 frames"):
        poses("back", "right", frames=2, **quirky)


@pytest.mark.parametrize("name", [*LYRA_PRESETS, *lyra_zoom.ZOOM_SCRIPTS])
def test_every_name_is_a_path_of_the_command_line(name):
    path = load_path(f"lyra:{name}:depth=3")
    path.check(Limits())
    assert path.name == f"lyra:{name}"
    assert (path.frames - 1) % 80 == 0
    assert type(path).from_json(json.loads(json.dumps(path.to_json()))) == path


def test_parameters_reach_the_preset():
    path = load_path("lyra:horizontal:direction=left,strength=0.25,depth=4", frames=100)
    centres, _ = path.sample()
    assert path.frames == 161
    np.testing.assert_allclose(centres[-1], [-1, 0, 0], atol=1e-9)
    wide = lyra_path("dolly_zoom", fov=50.0, direction="in", strength=0.5).fov_deg()
    assert wide[0] == pytest.approx(50)
    assert np.tan(np.radians(wide[-1] / 2)) == pytest.approx(2 * np.tan(np.radians(25)))


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("lyra:spirall", "unknown Lyra preset 'spirall'; presets are original"),
        ("lyra:horizontal:direction=up", "no direction 'up'; it goes right or left"),
        ("lyra:horizontal:speed=2", "no parameter 'speed'; it takes direction"),
        ("lyra:zoom_out:direction=in", "no parameter 'direction'; it takes depth"),
        ("lyra:horizontal:strength=-1", "strength -1; it must be finite and above 0"),
        ("lyra:horizontal:depth=nan", "depth nan; it must be finite and above 0"),
        ("lyra:", "neither a camera path preset"),
    ],
)
def test_bad_lyra_paths_say_what_would_be_good(source, words):
    with pytest.raises(InvalidCameraPath, match=words):
        load_path(source)


def test_quirks_of_other_paths_are_refused():
    with pytest.raises(InvalidCameraPath, match="'dolly' has no reference quirks"):
        load_path("dolly", reference_quirks=True)
    quirky = load_path("lyra:horizontal", reference_quirks=True).sample()[0]
    assert quirky[-1, 0] < load_path("lyra:horizontal").sample()[0][-1, 0]


def test_the_zoom_script_drifts_up_on_its_way_out_even_along_the_ground():
    up = np.array([0.0, -0.98, -0.199])
    up /= np.linalg.norm(up)
    ask = {"direction": "out", "strength": 1.5, "frames": 21, "depth": 2.0, "upward_ratio": 0.15}
    for more in ({}, {"ground_normal": up}):
        centres = invert_rigid(lyra_zoom.script_w2c(**ask, **more))[:, :3, 3]
        assert centres[-1, 2] < -2.5
        flat = centres @ up if more else -centres[:, 1]
        assert flat[-1] == pytest.approx(0.15 * -centres[-1, 2] * (0.98 if more else 1), rel=0.01)
    plain = invert_rigid(
        lyra_zoom.script_w2c(**{**ask, "upward_ratio": 0.0}, ground_normal=up, ground_rise=0.05)
    )
    assert plain[-1, :3, 3] @ up == pytest.approx(0.05)


def test_the_ground_is_found_under_clutter():
    v, u = np.mgrid[0:60, 0:80].astype(float)
    K = np.array([[60.0, 0, 40], [0, 60, 30], [0, 0, 1]])
    rays = np.stack([(u - 40) / 60, (v - 30) / 60, np.ones_like(u)], -1)
    normal = np.array([0.05, -0.97, -0.2])
    normal /= np.linalg.norm(normal)
    with np.errstate(divide="ignore"):
        depth = -1.2 / (rays @ normal)
    depth[(depth < 0) | (depth > 50)] = np.nan
    depth[45:, 30:45] *= 0.6
    found = lyra_zoom.fit_ground_normal(depth, K)
    assert found @ normal > np.cos(np.radians(1))
    assert lyra_zoom.fit_ground_normal(np.zeros((60, 80)), K) is None
    with pytest.raises(InvalidCameraPath, match="no ground plane"):
        lyra_zoom.ground_normal(np.zeros((60, 80)), K)


def test_the_centre_depth_is_the_lower_quartile_of_what_is_valid():
    depth = np.array([[1.0, 2, 3], [4, 5, np.nan]])
    valid = np.array([[True, True, True], [True, True, True]])
    assert centre_depth(depth, valid) == 2.0
    assert centre_depth(depth, depth > 1) == 2.75


def test_trajectory_files_are_scaled_as_lyra_scales_them(tmp_path):
    w2c = np.tile(np.eye(4), (5, 1, 1))
    w2c[:, 0, 3] = -1 - np.arange(5.0)
    K = np.tile(np.array([[1000.0, 0, 640], [0, 1000, 360], [0, 0, 1]]), (5, 1, 1))
    poses, scaled = lyra_cameras_as_released(w2c, K, (720, 1280), (480, 832), frames=3)
    np.testing.assert_allclose(poses[:, 0, 3], [-1.1, -2.2, -3.3])
    np.testing.assert_allclose(scaled[0, [0, 1], [0, 1]], [650, 2000 / 3])
    with pytest.raises(InvalidCameraPath, match="has 5 frames, 6 are asked for"):
        lyra_cameras_as_released(w2c, K, (720, 1280), (480, 832), frames=6)
    cropped = rescaled_intrinsics(K, (720, 1280), (480, 838), crop_hw=(480, 832))
    assert cropped[0, 0, 2] == pytest.approx(416)
    file = tmp_path / "trajectory.npz"
    np.savez(file, w2c=w2c, intrinsics=K, image_width=1280, image_height=720)
    ours, theirs = import_lyra(file), import_lyra(file, reference_quirks=True)
    np.testing.assert_allclose(ours.sample()[0][:, 0], np.arange(5), atol=1e-9)
    np.testing.assert_allclose(theirs.sample()[0][:, 0], 1.1 * (1 + np.arange(5)))
    assert load_path(str(file), reference_quirks=True) == theirs


def test_a_chunk_takes_the_prompt_of_the_largest_key_that_is_due():
    prompts = {0: "a", 81: "b", 160: "c", 400: "d"}
    assert [caption_of_chunk(prompts, k) for k in range(6)] == ["a", "b", "c", "c", "c", "d"]
    assert caption_of_chunk({0: "a", 80: "b"}, 1) == "b"
    assert caption_of_chunk({0: "a", 82: "b"}, 1) == "a"
    assert caption_of_chunk(prompts, 5, frames=400) == "c"
    assert caption_of_chunk({100: "late"}, 0) == "late"
    assert caption_of_chunk({}, 0) == ""
