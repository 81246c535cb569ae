"""Camera paths go where their names say, survive files, and name what is wrong with them."""

import json

import numpy as np
import pytest

from worldloom.scene import frame
from worldloom.scene.cameras import Cameras, intrinsics, project
from worldloom.scene.errors import InvalidCameraPath, InvalidRequest
from worldloom.scene.limits import Limits
from worldloom.scene.path import CameraPath, Keyframe, lyra_frames, path_from_poses
from worldloom.scene.path_files import (
    export_captions,
    export_lyra,
    import_lyra,
    load_captions,
    load_path,
)
from worldloom.scene.path_presets import PRESETS, preset

LIMITS = Limits()
K0 = intrinsics(60, 640, 480)
PITCHED = frame.rigid(
    frame.level_from_up([0, -np.cos(0.26), -np.sin(0.26)]), [0.0, 0.0, 1.08]
)


def cameras(path, c2w0=PITCHED):
    return path.resolve(c2w0, K0, (640, 480))


def heading(c2w):
    forward = c2w[..., :3, 2]
    return np.degrees(np.arctan2(forward[..., 1], forward[..., 0]))


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_starts_at_the_photo_or_says_otherwise_and_passes_its_check(name):
    path = preset(name)
    path.check(LIMITS)
    assert (path.frames - 1) % 80 == 0
    assert np.allclose(cameras(path).c2w[0], PITCHED) or name == "lawnmower"


def test_the_dolly_goes_ahead_and_a_negative_one_goes_back():
    assert cameras(preset("dolly", distance=1)).centres[-1] == pytest.approx([1, 0, 1.08])
    assert cameras(preset("dolly", distance=-1)).centres[-1] == pytest.approx([-1, 0, 1.08])


def test_the_pull_back_stays_level_and_pans_both_ways():
    got = cameras(preset("pull-back", distance=1.5, pan=25))
    assert got.centres[:, 2] == pytest.approx(1.08)
    # Catmull-Rom overshoots a sudden stop a little.
    assert -1.6 < got.centres[:, 0].min() <= -1.5
    assert got.centres[-1, 0] == pytest.approx(-1.5)
    assert heading(got.c2w).max() == pytest.approx(25, abs=0.5)
    assert heading(got.c2w).min() == pytest.approx(-25, abs=0.5)


def test_a_pan_keeps_the_pitch_of_the_photo_and_adds_no_roll():
    got = cameras(preset("pan", angle=40))
    assert np.degrees(np.arcsin(got.c2w[:, 2, 2])) == pytest.approx(-np.degrees(0.26))
    assert got.c2w[:, 2, 0] == pytest.approx(0, abs=1e-9)  # the image's x axis stays level
    assert heading(got.c2w)[-1] == pytest.approx(40)


def test_truck_goes_left_pedestal_up_and_orbit_keeps_facing_its_centre():
    assert cameras(preset("truck")).centres[-1] == pytest.approx([0, 1, 1.08])
    assert cameras(preset("pedestal")).centres[-1] == pytest.approx([0, 0, 1.58])
    level = frame.rigid(frame.CAMERA_TO_FLU, [0, 0, 1])
    orbit = cameras(preset("orbit", radius=2, angle=40), level)
    uv, z = project([2.0, 0.0, 1.0], K0, orbit.w2c[-1])
    assert uv == pytest.approx([320, 240], abs=2)
    assert z == pytest.approx(2, abs=0.02)
    assert orbit.centres[-1][1] < 0  # swings to the right


def test_the_zoom_narrows_the_view_without_moving():
    got = cameras(preset("zoom", start_fov=60, end_fov=30))
    assert np.ptp(got.centres, axis=0) == pytest.approx([0, 0, 0])
    assert got.K[-1, 0, 0] > 1.9 * got.K[0, 0, 0]


def test_a_camera_path_uses_the_photo_cameras_own_axes():
    ahead = np.stack([np.eye(4), np.eye(4)])
    ahead[1, 2, 3] = 0.3
    got = cameras(path_from_poses(ahead))
    assert got.centres[1] - got.centres[0] == pytest.approx(
        0.3 * np.array([np.cos(0.26), 0, -np.sin(0.26)]), abs=1e-9
    )


def test_a_path_survives_json(tmp_path):
    path = preset("survey")
    file = tmp_path / "p.json"
    file.write_text(json.dumps(path.to_json()))
    assert load_path(str(file)) == path


def test_a_lyra_trajectory_survives_export_and_import(tmp_path):
    original = cameras(preset("pull-back"))
    file = tmp_path / "trajectory.npz"
    file.write_bytes(export_lyra(original))
    again = cameras(import_lyra(file))
    assert again.c2w == pytest.approx(original.c2w, abs=1e-5)
    assert pytest.approx(original.K, rel=1e-5) == again.K


def test_preset_parameters_can_be_written_on_the_command_line():
    path = load_path("pull-back:distance=2,pan=10", frames=100)
    assert path.frames == 161
    assert cameras(path).centres[-1, 0] == pytest.approx(-2)


def test_captions_keep_their_frames():
    assert load_captions('{"81": "b", "0": "a"}') == {0: "a", 81: "b"}
    assert load_captions("just words") == {0: "just words"}
    assert load_captions(export_captions({0: "a", 81: "b"})) == {0: "a", 81: "b"}
    with pytest.raises(InvalidRequest, match="captions"):
        load_captions('{"x": 1}')


def test_frames_are_rounded_up_to_whole_chunks():
    assert [lyra_frames(n) for n in (1, 2, 81, 82, 161)] == [81, 81, 81, 161, 161]


def keyed(*keys, frames=81):
    return CameraPath(tuple(keys), frames)


START = Keyframe(0, (0, 0, 0))
BAD_PATHS = {
    "pose 1 has a NaN": keyed(START, Keyframe(1, (np.nan, 0, 0))),
    "pose 1 is not a rotation": keyed(START, Keyframe(1, (0, 0, 0), (1, 1, 0, 0))),
    "1 keyframe": keyed(START),
    "1 frame": keyed(START, Keyframe(1, (0, 0, 0)), frames=1),
    "limit is 8001": keyed(START, Keyframe(1, (1, 0, 0)), frames=1_000_000),
    "teleport": keyed(START, Keyframe(1, (400, 0, 0))),
    "turns": keyed(START, Keyframe(1, (0, 0, 0), (0, 0, 0, 1)), frames=3),
    "not after pose 0": keyed(START, Keyframe(0, (1, 0, 0))),
    "field of view": keyed(Keyframe(0, (0, 0, 0), fov_deg=60), Keyframe(1, (0, 0, 0), fov_deg=0)),
}


@pytest.mark.parametrize("text", sorted(BAD_PATHS))
def test_a_bad_path_is_refused_with_what_is_wrong(text):
    with pytest.raises(InvalidCameraPath, match=text):
        BAD_PATHS[text].check(LIMITS)


def test_a_bad_trajectory_file_is_refused(tmp_path):
    file = tmp_path / "t.npz"
    file.write_bytes(b"nonsense")
    with pytest.raises(InvalidCameraPath, match="not a Lyra trajectory"):
        load_path(str(file))
    w2c = np.tile(np.eye(4), (3, 1, 1))
    w2c[1, 0, 0] = 2
    np.savez(file, w2c=w2c, intrinsics=np.tile(K0, (3, 1, 1)), image_width=640)
    with pytest.raises(InvalidCameraPath, match="pose 1 is not a rotation"):
        load_path(str(file))


def test_an_unknown_preset_lists_those_that_exist():
    with pytest.raises(InvalidCameraPath, match="pull-back"):
        load_path("dolley")
    with pytest.raises(InvalidCameraPath, match="it takes distance"):
        load_path("dolly:speed=3")
    with pytest.raises(InvalidCameraPath, match="cannot read 'far'"):
        load_path("dolly:far")


def test_cameras_survive_a_file_and_refuse_nonsense(tmp_path):
    original = cameras(preset("dolly"))
    file = tmp_path / "cameras.npz"
    file.write_bytes(original.to_npz())
    again = Cameras.load(file)
    assert np.array_equal(again.c2w, original.c2w)
    assert np.array_equal(again.frame_id, original.frame_id)
    assert original.to_npz() == original.to_npz()
    bad = original.K.copy()
    bad[3, 0, 0] = -1
    with pytest.raises(InvalidCameraPath, match="camera 3"):
        Cameras(original.c2w, bad, original.size, original.frame_id).check()


def test_scaled_cameras_see_the_same_directions():
    small = cameras(preset("dolly")).scaled(320, 120)
    point = [3.0, 0.2, 0.4]
    big = cameras(preset("dolly"))
    uv, _ = project(point, big.K[0], big.w2c[0])
    uv_small, _ = project(point, small.K[0], small.w2c[0])
    assert uv_small == pytest.approx(uv * [0.5, 0.25])
