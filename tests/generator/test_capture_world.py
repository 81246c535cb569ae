"""Captures become worlds, or are refused in words that help: never NaN, never an empty collider."""

from dataclasses import replace

import numpy as np
import pytest

from tests.generator.captures import SIZE, Shot
from worldloom.cli.requests import input_ref
from worldloom.generator.capture.opening import open_capture
from worldloom.generator.engines import load_engine
from worldloom.generator.layers.read import read_mesh_layer
from worldloom.generator.memory.cache import FrameCache
from worldloom.generator.pipeline import make_world
from worldloom.generator.truth.cast import signed_distance
from worldloom.generator.truth.scene import scene
from worldloom.generator.truth.walk import camera_pose, walkthrough
from worldloom.scene.cameras import Cameras, intrinsics
from worldloom.scene.capture import capture_path
from worldloom.scene.errors import InvalidCapture, InvalidRequest
from worldloom.scene.frame import rotation_about
from worldloom.scene.limits import Limits
from worldloom.scene.mesh import TriMesh
from worldloom.scene.path_presets import preset
from worldloom.scene.request import ScaleHint, WorldRequest

LEVEL = load_engine("capture").qualities["draft"]


@pytest.fixture
def shot():
    return Shot(every=40)


def request_of(archive, **changed):
    ref = input_ref("capture", archive)
    request = WorldRequest("capture", capture_path(81), capture=ref, quality="draft")
    request = replace(request, **changed)
    request.check(Limits(), ("capture",))
    return request


def opened(archive, **changed):
    return open_capture(request_of(archive, **changed), {"capture": archive}, LEVEL, Limits())


def world_of(archive, folder):
    """Manifest, collider, and what the user was told."""
    folder.mkdir()
    told = []
    manifest = make_world(
        request_of(archive), inputs={"capture": archive}, work=folder, resume=False,
        emit=lambda event: told.append(getattr(event, "text", "")), cancelled=lambda: False,
    )  # fmt: skip
    files = [folder / "world" / entry.path for entry in manifest.live("collision")]
    collider = TriMesh.concat([read_mesh_layer(file) for file in files])
    assert np.isfinite(collider.vertices).all()
    assert len(collider.faces) > 20
    assert all(entry.count for entry in manifest.live("collision"))
    return manifest, collider, " / ".join(told)


def near_truth(collider, name="room", within=0.06):
    """Share of the collider's vertices near the true surface."""
    return float((np.abs(signed_distance(scene(name), collider.vertices)) < within).mean())


def fixed(poses, *, fov=80.0, size=SIZE):
    """Cameras at given (position, yaw, pitch)."""
    c2w = np.stack([camera_pose(*pose) for pose in poses])
    n = len(c2w)
    K, sizes = np.tile(intrinsics(fov, *size), (n, 1, 1)), np.tile(np.array(size), (n, 1))
    return Cameras(c2w, K, sizes, np.arange(n))


def test_a_capture_in_any_frame_is_level_metric_and_stands_on_its_floor(tmp_path, shot):
    opening = opened(shot.packed(tmp_path / "c"))
    truth = shot.cameras.c2w
    shown = np.rint(np.linspace(0, len(truth) - 1, 81)).astype(int)
    assert opening.cameras.n == 81
    np.testing.assert_allclose(opening.cameras.c2w, truth[shown], atol=0.01)
    seed = opening.seed
    assert seed.c2w[2, 3] == pytest.approx(1.2, abs=0.01)
    assert seed.scale["status"] == "calibrated"
    assert seed.depth_source == "capture"
    assert 0.1 < seed.floor.mean() < 0.6
    assert not seed.sky.any()
    np.testing.assert_allclose(opening.cameras.K[0], opening.cameras.K[-1])


def test_the_model_hands_out_every_frame_in_order_and_each_keyframe_once(tmp_path, shot):
    opening = opened(shot.packed(tmp_path / "c"))
    seen, cache = [], FrameCache()
    rest = opening.cameras.select(slice(1, None))
    keyframes = opening.model.chunk(rest, cache, on_frame=seen.append)
    assert [frame.frame_id for frame in seen] == list(range(1, 81))
    numbers = [round(frame.frame_id / 20) for frame in keyframes]
    assert numbers == [1, 2, 3, 4]
    for frame, number in zip(keyframes, numbers, strict=True):
        assert np.abs(frame.depth - shot.depth[number]).max() < 1e-3
        assert np.abs(frame.rgb - shot.rgb[number]).max() < 0.003
    assert opening.model.first().depth.any()


def test_up_that_is_given_counts_and_a_camera_height_rescales(tmp_path, shot):
    shot.c2w[:, :3, 3] *= 0.25  # As a structure-from-motion tool leaves it: any unit.
    shot.depth = [0.25 * z for z in shot.depth]
    shot.up = shot.c2w[0, :3, :3] @ np.linalg.inv(shot.cameras.c2w[0, :3, :3]) @ [0, 0, 3.0]
    archive = shot.packed(tmp_path / "c")
    opening = opened(archive, scale=ScaleHint(camera_height_m=1.2))
    np.testing.assert_allclose(opening.cameras.c2w[-1], shot.cameras.c2w[-1], atol=0.02)
    assert opening.seed.scale["value"] == pytest.approx(4, rel=0.01)
    assert opening.model.first().depth.max() == pytest.approx(4 * shot.depth[0].max(), rel=0.01)


def test_paths_photos_and_depth_files_of_ones_own_are_refused(tmp_path, shot):
    archive = shot.packed(tmp_path / "c")
    with pytest.raises(InvalidRequest, match="the path is 'dolly'; a world of engine 'capture'"):
        opened(archive, path=preset("dolly"))
    with pytest.raises(InvalidRequest, match="the capture brings its own"):
        opened(archive, depth=input_ref("depth", archive))


def test_pictures_without_depth_need_weights_that_are_named(tmp_path, shot, monkeypatch):
    monkeypatch.setenv("WORLDLOOM_WEIGHTS", str(tmp_path / "none"))
    with pytest.raises(InvalidCapture, match="worldloom weights convert da3-base FILE; or add"):
        opened(shot.packed(tmp_path / "c", depth=""))


class Oracle:
    """A depth network that is right, in the unit of the poses."""

    name, weights = "oracle", ({"name": "oracle", "research_only": True},)

    def __init__(self, shot):
        self.shot, self.seen = shot, []

    def depth(self, rgb, c2w, K):
        self.seen.append(len(rgb))
        numbers = [int(np.argmin(np.abs(self.shot.c2w - pose).sum((1, 2)))) for pose in c2w]
        return [self.shot.depth[i] for i in numbers]


def test_pictures_with_a_depth_network_become_the_same_frames(tmp_path, monkeypatch):
    shot = Shot(every=16)
    oracle = Oracle(shot)
    monkeypatch.setattr("worldloom.generator.capture.opening.capture_depth", lambda: oracle)
    opening = opened(shot.packed(tmp_path / "c", depth=""))
    assert (opening.seed.depth_source, opening.seed.weights) == ("oracle", oracle.weights)
    np.testing.assert_array_equal(opening.model.first().depth, shot.depth[0])
    np.testing.assert_allclose(opening.cameras.c2w[-1], shot.cameras.c2w[-1], atol=0.02)
    rest = opening.cameras.select(slice(1, None))
    keyframes = opening.model.chunk(rest, FrameCache())
    assert len(keyframes) == shot.cameras.n - 1
    np.testing.assert_array_equal(keyframes[-1].depth, shot.depth[-1])
    assert min(oracle.seen) >= 8


def test_depth_anything_3_plugs_in_with_random_weights(monkeypatch):
    from worldloom.generator.capture.da3_depth import Da3CaptureDepth
    from worldloom.generator.depth.da3.load import random_network

    shot = Shot(every=54)
    network = Da3CaptureDepth("tiny-nested", random_network("tiny-nested"))
    found = network.depth(shot.rgb, shot.c2w, shot.K)
    assert [z.shape for z in found] == [(96, 160)] * 3
    assert all(np.isfinite(z).all() and (z >= 0).all() and z.any() for z in found)


def test_pictures_from_one_place_without_depth_are_refused(tmp_path, monkeypatch):
    shot = Shot(cameras=fixed([((0.0, 0.0, 1.2), yaw, -20.0) for yaw in (0, 20, 40)]))
    monkeypatch.setattr("worldloom.generator.capture.opening.capture_depth", lambda: Oracle(shot))
    with pytest.raises(InvalidCapture, match="its camera only turns"):
        opened(shot.packed(tmp_path / "c", depth=""))


@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf, -1.0])
def test_depth_that_is_nowhere_a_distance_is_refused(tmp_path, shot, bad):
    shot.depth = [np.full_like(z, bad) for z in shot.depth]
    with pytest.raises(InvalidCapture, match=r"none of the 5 frames .* has a finite depth above"):
        opened(shot.packed(tmp_path / "c"))


@pytest.mark.parametrize(("factor", "text"), [(0.01, "m across"), (100.0, "m away")])
def test_scenes_of_5_cm_and_500_m_are_refused(tmp_path, shot, factor, text):
    shot.c2w[:, :3, 3] *= factor
    shot.depth = [factor * z for z in shot.depth]
    with pytest.raises(InvalidCapture, match=text + ".*Metres are needed"):
        opened(shot.packed(tmp_path / "c"))


def test_a_world_starts_where_depth_starts(tmp_path, shot):
    shot.depth[0] = np.zeros_like(shot.depth[0])
    shot.depth[3] = None
    opening = opened(shot.packed(tmp_path / "c"))
    assert any("starts at frame 1" in note for note in opening.seed.notes)
    assert opening.seed.c2w[:2, 3] == pytest.approx([0, 0], abs=1e-9)
    assert opening.seed.depth.any()


def test_holes_exposure_and_small_depth_maps_leave_a_sane_world(tmp_path):
    shot = Shot(every=20)
    rng = np.random.default_rng(0)
    for i, z in enumerate(shot.depth):
        z[rng.random(z.shape) < 0.02] = np.nan
        z[:10, :10] = np.inf
        z[-5:, -5:] = -3
        shot.rgb[i] = np.clip(shot.rgb[i] * rng.uniform(0.7, 1.3), 0, 1)
    manifest, collider, _ = world_of(shot.packed(tmp_path / "c"), tmp_path / "w")
    assert manifest.complete
    assert manifest.request["capture"]["sha256"]
    assert near_truth(collider) > 0.97


def test_pure_rotation_with_depth_makes_the_world_that_was_seen(tmp_path):
    turn = [((0.0, 0.0, 1.2), yaw, -20.0) for yaw in range(0, 360, 45)]
    _, collider, _ = world_of(Shot(cameras=fixed(turn)).packed(tmp_path / "c"), tmp_path / "w")
    assert near_truth(collider) > 0.95


def test_a_principal_point_off_centre_is_kept(tmp_path):
    cameras = walkthrough(scene("room"), 161, size=SIZE).select(slice(None, None, 32))
    cameras.K[:, 0, 2], cameras.K[:, 1, 2] = 0.36 * SIZE[0], 0.62 * SIZE[1]
    _, collider, _ = world_of(Shot(cameras=cameras).packed(tmp_path / "c"), tmp_path / "w")
    assert near_truth(collider) > 0.95


def test_a_wall_10_cm_before_the_camera_and_no_floor_in_sight(tmp_path):
    # The room's front wall is at x = 5.4.
    wall = [((5.3, -2.0 + 0.05 * k, 1.6), 0.0, 10.0) for k in range(6)]
    shot = Shot(cameras=fixed(wall))
    assert 0.05 < min(z.min() for z in shot.depth) < 0.12
    _, collider, told = world_of(shot.packed(tmp_path / "c"), tmp_path / "w")
    assert "no floor was seen" in told
    size = np.ptp(collider.vertices, axis=0)
    assert size[0] < 0.15
    assert 0.3 < size[1] < 0.7


def test_cameras_that_all_look_down_from_above_the_horizon_are_level(tmp_path):
    c2w = [((0.5 + 0.3 * k, 0.2, 1.5), 30.0 * k, -55.0) for k in range(6)]
    shot = Shot(cameras=fixed(c2w))
    shot.c2w = shot.c2w @ np.block(
        [[rotation_about([0, 0, 1], 0.02), np.zeros((3, 1))], [np.zeros((1, 3)), np.ones((1, 1))]]
    )
    opening = opened(shot.packed(tmp_path / "c"))
    assert opening.seed.c2w[2, 3] == pytest.approx(1.5, abs=0.03)
